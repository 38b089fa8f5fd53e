"""What is true of containers alone; the rest is tested with all backends."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from agent_gym.errors import SandboxError, SandboxUnavailable
from agent_gym.sandbox import Status, make

docker = pytest.importorskip("docker")
Options = dict[str, Any]


@pytest.fixture
def client(docker_options: Options) -> Iterator[Any]:
    opened = docker.DockerClient(base_url=docker_options["base_url"])
    yield opened
    opened.close()


def ours(client: Any) -> list[str]:
    return [each["Id"] for each in client.api.containers(all=True, filters={"label": "agent_gym.owner"})]


def test_an_image_must_be_named_and_be_there(docker_options: Options) -> None:
    with pytest.raises(SandboxUnavailable, match="give image='python"):
        make("docker")
    with pytest.raises(SandboxUnavailable, match="docker pull no-such-image"):
        make("docker", **{**docker_options, "image": "no-such-image"})


def test_a_daemon_that_cannot_be_reached_is_told_with_the_remedy() -> None:
    with pytest.raises(SandboxUnavailable, match=r"No Docker daemon can be reached .* DOCKER_HOST"):
        make("docker", image="any", base_url="unix:///no/such/socket")


def test_an_image_without_python_says_what_the_container_has_said(docker_options: Options, client: Any) -> None:
    import io
    import tarfile

    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    client.api.import_image_from_data(empty.getvalue(), repository="agent-gym-empty")
    with (
        make("docker", **{**docker_options, "image": "agent-gym-empty"}) as sandbox,
        pytest.raises(SandboxError) as told,
    ):
        sandbox.run("1")
    assert "python3" in str(told.value)
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
    before = set(ours(client))
    with make("docker", **docker_options) as sandbox:
        sandbox.run("1")
        sandbox.session().run("1")
        sandbox.run("1")
        assert set(ours(client)) > before
    assert set(ours(client)) <= before


def test_containers_of_a_killed_owner_are_removed_by_the_next_one(docker_options: Options, client: Any) -> None:
    code = (
        "import os, signal\nfrom agent_gym.sandbox import make\n"
        f"session = make('docker', **{docker_options!r}).session()\nsession.run('1')\n"
        "print(session._box._container, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    owner = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    left = owner.stdout.strip()
    assert left in ours(client), owner.stderr[-500:]
    make("docker", **docker_options).close()
    assert left not in ours(client)


def test_memory_that_runs_out_is_told_as_such(docker_options: Options) -> None:
    with make("docker", **docker_options) as sandbox:
        result = sandbox.run("x = bytearray(2 << 30)\nx[::4096] = b'x' * len(x[::4096])", timeout=30.0)
        assert result.status is Status.OUT_OF_MEMORY
        assert sandbox.run("print(1)").ok


def test_eight_sessions_run_side_by_side(docker_options: Options) -> None:
    with make("docker", **docker_options) as sandbox:
        sessions = [sandbox.session() for _ in range(8)]
        for number, session in enumerate(sessions):
            session.run(f"x = {number}")
        assert [session.run("x").stdout for session in sessions] == [f"{number}\n".encode() for number in range(8)]
