"""What is true of containers alone; the rest is tested with all backends."""

import errno
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from agent_gym.errors import ForkDiverged, SandboxError, SandboxUnavailable
from agent_gym.sandbox import Limits, Status, boxes, make
from agent_gym.sandbox.docker import _remove, _Streams
from agent_gym.sandbox.seccomp import bpf_program

docker = pytest.importorskip("docker")
Options = dict[str, Any]


@pytest.fixture
def client(docker_options: Options) -> Iterator[Any]:
    opened = docker.DockerClient(base_url=docker_options["base_url"])
    yield opened
    opened.close()


def ours(client: Any) -> list[str]:
    return [each["Id"] for each in client.api.containers(all=True, filters={"label": "agent_gym.owner"})]


def _made_by(sandbox: Any) -> set[str]:
    """Return a set that gets the containers which a sandbox makes from now on; others make some at the same time."""
    made: set[str] = set()
    create = sandbox._client.api.create_container

    def remember(*args: Any, **options: Any) -> Any:
        container = create(*args, **options)
        made.add(container["Id"])
        return container

    sandbox._client.api.create_container = remember
    return made


def test_an_image_must_be_named_and_be_there(docker_options: Options) -> None:
    with pytest.raises(SandboxUnavailable, match="give image='python"):
        make("docker")
    with pytest.raises(SandboxUnavailable, match="docker pull no-such-image"):
        make("docker", **{**docker_options, "image": "no-such-image"})


def test_a_daemon_that_cannot_be_reached_is_told_with_the_remedy() -> None:
    with pytest.raises(SandboxUnavailable, match=r"No Docker daemon can be reached .* DOCKER_HOST"):
        make("docker", image="any", base_url="unix:///no/such/socket")


def test_an_image_without_python_leaves_nothing_and_says_what_is_missing(
    docker_options: Options, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import tarfile

    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    client.api.import_image_from_data(empty.getvalue(), repository="agent-gym-empty")
    with make("docker", **{**docker_options, "image": "agent-gym-empty"}) as sandbox:
        made = _made_by(sandbox)
        api = sandbox._client.api  # type: ignore[attr-defined]
        attach, joined = api.attach_socket, []
        monkeypatch.setattr(api, "attach_socket", lambda *args: joined.append(attach(*args)) or joined[-1])
        with pytest.raises(SandboxError) as told:
            sandbox.run("1")
        assert [streams.closed for streams in joined] == [True]
    assert "python3" in str(told.value)
    assert made and not made & set(ours(client))
    client.images.remove("agent-gym-empty")


def test_the_restrictions_arrive_at_the_daemon(docker_options: Options, client: Any) -> None:
    with make("docker", **docker_options) as sandbox, sandbox.session() as session:
        session.run("1")
        [container] = [each for each in ours(client) if each == session._box._container]  # type: ignore[attr-defined]
        told = client.api.inspect_container(container)
        host = told["HostConfig"]
        assert host["NetworkMode"] == "none" and host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"]
        assert host["PidsLimit"] == sandbox.limits.processes + 2 and host["Memory"] == host["MemorySwap"]
        assert not host["Binds"] and not host["Privileged"] and told["Config"]["User"] == "65534:65534"
        assert session.run("open('/etc/x', 'w')").stderr.endswith(b"Read-only file system: '/etc/x'\n")


def test_no_container_is_left_when_the_sandbox_is_closed(docker_options: Options, client: Any) -> None:
    with make("docker", **docker_options) as sandbox:
        made = _made_by(sandbox)
        sandbox.run("1")
        sandbox.session().run("1")
        sandbox.run("1")
        assert len(made) >= 2 and made & set(ours(client))
    assert not made & set(ours(client))


def test_containers_of_a_killed_owner_are_removed_by_the_next_one(docker_options: Options, client: Any) -> None:
    code = (
        "import os, signal\nfrom agent_gym.sandbox import make\n"
        f"session = make('docker', **{docker_options!r}).session()\nsession.run('1')\n"
        "print(session._box._container, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    owner = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    left = owner.stdout.strip()
    assert left in ours(client), owner.stderr[-500:]
    # It has ended by itself, since nobody holds its standard input any more.
    assert client.containers.get(left).wait(timeout=30)["StatusCode"] == 0
    make("docker", **docker_options).close()
    assert left not in ours(client)


def test_memory_that_runs_out_is_told_as_such(docker_options: Options) -> None:
    with make("docker", **docker_options) as sandbox:
        result = sandbox.run("x = bytearray(2 << 30)\nx[::4096] = b'x' * len(x[::4096])", timeout=30.0)
        assert result.status is Status.OUT_OF_MEMORY
        assert sandbox.run("print(1)").ok


def test_eight_sessions_run_side_by_side(docker_options: Options) -> None:
    with make("docker", concurrency=8, **docker_options) as sandbox, ThreadPoolExecutor(8) as pool:
        sessions = [sandbox.session() for _ in range(8)]
        list(pool.map(lambda each: each[1].run(f"x = {each[0]}"), enumerate(sessions)))
        shown = pool.map(lambda session: session.run("x").stdout, sessions)
        assert list(shown) == [f"{number}\n".encode() for number in range(8)]


@pytest.mark.parametrize("image", ["", "UPPER", "two words"])
def test_what_is_no_name_of_an_image_is_refused(docker_options: Options, image: str) -> None:
    with pytest.raises(SandboxUnavailable, match=f"does not take {image!r} for the name of an image"):
        make("docker", **{**docker_options, "image": image})


@pytest.mark.parametrize("folder", ["/work", "/tmp", "/dev/shm"])
def test_each_folder_that_can_be_written_has_a_limit_on_files(docker_options: Options, folder: str) -> None:
    code = f"for n in range(300): open(f'{folder}/{{n}}', 'w').close()"
    with make("docker", limits=Limits(files=200), **docker_options) as sandbox:
        assert b"No space left on device" in sandbox.run(code).stderr


def test_a_session_whose_cells_give_other_results_cannot_be_forked(docker_options: Options) -> None:
    with make("docker", **docker_options) as sandbox, sandbox.session() as parent:
        parent.run("import time; print(time.perf_counter_ns())")
        with pytest.raises(ForkDiverged, match="Cell 1 gave another result"):
            parent.fork()
        assert parent.run("6 * 7").stdout == b"42\n"


def test_no_descriptor_and_no_thread_is_left_when_the_sandbox_is_closed(docker_options: Options) -> None:
    make("docker", **docker_options).close()
    before = _own_things()
    with make("docker", **docker_options) as sandbox:
        sessions = [sandbox.session() for _ in range(2)]
        for session in sessions:
            session.run("1")
        sandbox.run("1")
        assert _own_things() != before
    assert until(lambda: _own_things() == before)


def test_a_daemon_that_cannot_limit_memory_is_refused_unless_that_is_accepted(
    docker_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = docker.APIClient.info
    less = {"MemoryLimit": False, "PidsLimit": False}
    monkeypatch.setattr(docker.APIClient, "info", lambda self: {**told(self), **less})
    with pytest.raises(SandboxUnavailable, match=r"cannot limit memory: .*require_memory_limit=False"):
        make("docker", **docker_options)
    with make("docker", require_memory_limit=False, **docker_options) as sandbox:
        promised = sandbox.guarantees()
        assert not promised["memory is limited as a whole"] and not promised["processes are limited"]
        assert promised["no network"]


def _own_things() -> tuple[int, list[str]]:
    return len(list(Path("/proc/self/fd").iterdir())), sorted(thread.name for thread in threading.enumerate())


def test_a_container_that_falls_silent_is_given_up(
    docker_options: Options, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make("docker", **docker_options) as sandbox, sandbox.session() as session:
        session.run("x = 1")
        client.api.pause(session._box._container)  # type: ignore[attr-defined]
        monkeypatch.setattr(boxes, "ANSWER_SECONDS", 0.2)
        with pytest.raises(SandboxError, match="not answered in time"):
            session.run("x", timeout=0.2)
        monkeypatch.undo()
        after = session.run("'x' in globals()")
        assert (after.stdout, after.restarted, after.files_lost) == (b"False\n", True, True)


def test_the_end_of_the_daemon_is_a_failure_of_the_sandbox_and_no_result(
    docker_options: Options, client: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not docker_options["base_url"].startswith("unix://"):
        pytest.skip("the daemon has no socket on this machine that could be cut off")
    made: set[str] = set()
    wire = _Wire(docker_options["base_url"], tmp_path_factory.mktemp("w") / "s")
    try:
        sandbox = make("docker", image=docker_options["image"], base_url=wire.address)
        made = _made_by(sandbox)
        used, idle = sandbox.session(), sandbox.session()
        used.run("x = 1")
        idle.run("x = 1")
        # A container that is being made in advance when the wire is cut would be left, unknown to anyone.
        sandbox._housekeeper.submit(int).result()  # type: ignore[attr-defined]
        wire.cut()
        for _ in range(2):
            with pytest.raises(SandboxError):
                used.run("x")
        with pytest.raises(SandboxError, match="The Docker daemon made no container"):
            sandbox.run("1")
        idle.close()
        sandbox.close()
        with pytest.raises(SandboxUnavailable, match="No Docker daemon can be reached"):
            make("docker", image=docker_options["image"], base_url=wire.address)
    finally:
        wire.cut()
        for left in made & set(ours(client)):
            client.api.remove_container(left, force=True)


def test_a_supervisor_that_fails_is_told_with_its_last_words(docker_options: Options) -> None:
    with make("docker", **docker_options) as sandbox, sandbox.session() as session:
        session.run("1")
        with pytest.raises(boxes.BoxLost, match=r"hung up; the container said .*there is no request 'dance'"):
            session._box.ask({"do": "dance"}, seconds=30.0)  # type: ignore[attr-defined]


def test_where_the_daemon_takes_no_list_of_calls_the_worker_applies_it(
    docker_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make("docker", **docker_options) as sandbox:
        restrictions = sandbox._restrictions()  # type: ignore[attr-defined]
        [listed] = [each for each in restrictions["security_opt"] if each.startswith("seccomp=")]
        restrictions["security_opt"].remove(listed)
        # As Podman is treated, which is not there in tests.
        monkeypatch.setattr(sandbox, "_restrictions", lambda: restrictions)
        monkeypatch.setattr(sandbox, "_program", bpf_program())
        unshare = (
            "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.unshare(0x10000000), ctypes.get_errno())"
        )
        assert sandbox.run(unshare).stdout == f"-1 {errno.ENOSYS}\n".encode()


def test_a_removal_that_fails_once_is_tried_again_and_one_that_fails_twice_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Daemon:
        def __init__(self, failures: int) -> None:
            self.api, self.failures, self.calls = self, failures, 0

        def remove_container(self, container: str, **options: bool) -> None:
            self.calls += 1
            if self.calls <= self.failures:
                raise docker.errors.APIError("container state improper: stopped")

    for failures, told in ((0, False), (1, False), (2, True)):
        caplog.clear()
        daemon = Daemon(failures)
        _remove(daemon, "c" * 64)
        assert daemon.calls == min(failures + 1, 2)
        assert ("could not be removed" in caplog.text) is told


def test_code_cannot_write_to_the_standard_error_of_the_supervisor(docker_options: Options) -> None:
    code = (
        "import os\n"
        "for path in ('/proc/1/fd/2', f'/proc/{os.getppid()}/fd/2'):\n"
        "    try: open(path, 'w').write('forged'); print('written')\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "for fd in range(3, 64):\n"
        "    try: os.write(fd, b'forged')\n"
        "    except OSError: pass\n"
    )
    with make("docker", **docker_options) as sandbox, sandbox.session() as session:
        session.run("import os; os.write(2, b'forged')")
        tried = session.run(code).stdout
        assert tried.count(b"PermissionError") == 2 and b"written" not in tried
        session.run("1")
        assert session._box._streams.last_words() == ""  # type: ignore[attr-defined]


class _Wire:
    """A socket that leads to a daemon until it is cut."""

    def __init__(self, target: str, path: Path) -> None:
        self.address = f"unix://{path}"
        self._target = target.removeprefix("unix://")
        self._ends: list[socket.socket] = [socket.socket(socket.AF_UNIX)]
        self._ends[0].bind(str(path))
        self._ends[0].listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections; there is no other."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._ends[0].accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_the_pieces_of_the_streams_are_told_apart_however_they_are_cut() -> None:
    ours_end, theirs = socket.socketpair()
    streams = _Streams(ours_end)
    sent = b"".join(struct.pack(">BxxxI", kind, len(data)) + data for kind, data in _PIECES)

    def trickle() -> None:
        for start in range(0, len(sent), 7):
            theirs.sendall(sent[start : start + 7])
        theirs.close()

    sender = threading.Thread(target=trickle)
    sender.start()
    got = b""
    while data := streams.receive(time.monotonic() + 30.0):
        got += data
    sender.join()
    assert got == b"hello world" and streams.last_words() == "the last line"
    assert len(streams._said) <= 4096
    streams.close()


_PIECES = [(1, b"hello"), (2, b"noise\n" * 5000), (1, b""), (1, b" world"), (2, b"the last line\n")]


def test_streams_that_say_nothing_in_time_say_so() -> None:
    ours_end, theirs = socket.socketpair()
    with theirs:
        streams = _Streams(ours_end)
        theirs.sendall(struct.pack(">BxxxI", 1, 100) + b"half")
        with pytest.raises(TimeoutError):
            streams.receive(time.monotonic() + 0.05)
        streams.close()


def test_noise_on_the_standard_error_does_not_put_the_deadline_off() -> None:
    ours_end, theirs = socket.socketpair()
    noise = struct.pack(">BxxxI", 2, 5) + b"noise"
    with theirs:
        streams = _Streams(ours_end)
        theirs.sendall(noise * 10)
        with pytest.raises(TimeoutError):
            streams.receive(time.monotonic() - 1.0)
        with pytest.raises(TimeoutError):
            streams.receive(time.monotonic() + 0.05)
        assert streams.last_words() == "noise" * 10
        streams.close()
