"""`agent-gym view` as a process, and what it is told on its command line."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from small_runs import training_run

import agent_gym.cli.app  # noqa: F401 - likewise
from agent_gym.cli import main
from agent_gym.cli.viewing import page_address, run_report, run_view
from agent_gym.errors import ConfigError, MissingExtraError, UnknownIdError

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
# Here, so that the processes below, which are forked, need not import it.
pytest.importorskip("agent_gym.viewer.server")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_run(tmp_path_factory.mktemp("runs") / "trained").path


def _view(arguments: list[str], out: int) -> None:
    os.dup2(out, 1)
    sys.stdout = open(1, "w", buffering=1)  # noqa: SIM115 - it ends with the process
    sys.argv = ["agent-gym", "view", *arguments]
    main()


@contextmanager
def viewing(*arguments: str) -> Iterator[tuple[str, "multiprocessing.process.BaseProcess"]]:
    """Run the command, and give the address that it prints and its process."""
    reading, writing = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=_view, args=(list(arguments), writing))
    process.start()
    os.close(writing)
    try:
        with os.fdopen(reading) as said:
            yield said.readline().split()[0], process
    finally:
        process.kill()
        process.join()


def test_it_prints_its_address_answers_at_once_and_ends_with_ctrl_c(run: Path) -> None:
    with viewing(str(run), "--port", "0") as (address, process):
        assert address.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=address) as client:
            assert "<title>" in client.get("/").text
            times = []
            for _ in range(30):
                begun = time.perf_counter()
                assert client.get("/api/facets").json()["phases"] == ["train"]
                times.append(time.perf_counter() - begun)
        # An answer that waits for an acknowledgement takes 40 ms, each of them.
        assert min(times) < 0.035
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(20)
        assert process.exitcode is not None and process.exitcode >= 0


def test_what_others_can_reach_needs_the_token_that_is_printed(run: Path) -> None:
    with viewing(str(run), "--port", "0", "--host", "0.0.0.0") as (address, _):
        place, token = address.split("/?token=")
        here = f"http://127.0.0.1:{place.rpartition(':')[2]}"
        with httpx.Client(base_url=here) as client:
            assert client.get("/api/runs").status_code == 401
            assert client.get("/", params={"token": token}).status_code == 303
            assert client.get("/api/runs").status_code == 200


def test_a_port_that_is_taken_is_a_sentence(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="another --port"):
        run_view([run], host="127.0.0.1", port=taken.getsockname()[1], token=None, open_page=False)


def test_what_cannot_be_served_is_a_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownIdError, match="no folder"):
        run_view([tmp_path / "none"], host="127.0.0.1", port=0, token=None, open_page=False)
    with pytest.raises(ConfigError, match="too short"):
        run_view([run], host="127.0.0.1", port=0, token="abc", open_page=False)
    with pytest.raises(ConfigError, match="cannot listen at no-such-host"):
        run_view([run], host="no-such-host.invalid", port=0, token="a-token-of-some-length", open_page=False)


@pytest.mark.parametrize(
    ("host", "token", "expected"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:7/"),
        ("::1", None, "http://[::1]:7/"),
        ("[::1]", None, "http://[::1]:7/"),
        ("gpu7", "a b&c", "http://gpu7:7/?token=a%20b%26c"),
        ("0.0.0.0", None, f"http://{socket.gethostname()}:7/"),
    ],
)
def test_the_address_can_be_opened_as_it_is_printed(host: str, token: str | None, expected: str) -> None:
    assert page_address(host, 7, token) == expected


def test_a_report_is_written_into_the_run_and_its_size_is_printed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_report([run], out=None, episodes=5)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{run / 'report.html'}  (")
    assert "MB)" in printed and "trained: 5 of 10 episodes." in printed


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_the_extra_the_command_that_installs_it_is_told(
    run: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        known for known in sys.modules if known.split(".")[0] == package or known.startswith("agent_gym.viewer")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agent-gym\[viewer\]'"):
        run_view([run], host="127.0.0.1", port=0, token=None, open_page=False)
    if package == "starlette":
        with pytest.raises(MissingExtraError, match=r"pip install 'agent-gym\[viewer\]'"):
            run_report([run], out=None, episodes=5)
