"""A Docker daemon for tests, with an image that is made of this machine's own files: no registry is asked."""

import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("python3", "bash", "sh", "cat", "ls", "sleep", "id", "env", "touch")
IMAGE = "agent-gym-test"
SECONDS = 30.0


@dataclass
class Daemon:
    """A daemon that can be used."""

    base_url: str
    image: str
    process: int | None = None

    def close(self) -> None:
        """Stop it, if it is ours."""
        if self.process is None:
            return
        pidfd = os.pidfd_open(self.process)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        import select

        if not select.select([pidfd], [], [], SECONDS)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def start(folder: Path) -> Daemon:
    """Use the daemon and the image that are named in the environment, or start a daemon and make an image.

    Raises:
        RuntimeError: Neither can be done; says why.
    """
    named = os.environ.get("AGENT_GYM_TEST_IMAGE")
    if named:
        return Daemon(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), named)
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise RuntimeError("no image is named (AGENT_GYM_TEST_IMAGE), and no daemon can be started (root, dockerd)")
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        raise RuntimeError("this system has no /usr/bin/python3 to make an image of")
    daemon = _start_daemon(folder)
    try:
        _import_image(daemon.base_url)
    except BaseException:
        daemon.close()
        raise
    return daemon


def _start_daemon(folder: Path) -> Daemon:
    # A socket's path has at most 108 characters.
    address = f"unix:///tmp/agent-gym-docker-{os.getpid()}.sock"
    log = (folder / "log").open("wb")
    options = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--log-level=warn", "-H", address]
    places = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    for driver in ([], ["--storage-driver=vfs"]):
        process = subprocess.Popen(
            ["dockerd", *options, *places, *driver],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        if _answers(address, process):
            log.close()
            return Daemon(address, IMAGE, process.pid)
        process.kill()
        process.wait()
    log.close()
    raise RuntimeError("dockerd did not start: " + (folder / "log").read_text()[-300:])


def _answers(address: str, process: "subprocess.Popen[bytes]") -> bool:
    import docker

    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client = docker.DockerClient(base_url=address)
            client.ping()
            client.close()
        except docker.errors.DockerException:
            # Its socket is not there yet; there is nothing to wait for but the file.
            time.sleep(0.05)
            continue
        return True
    return False


def _import_image(address: str) -> None:
    import docker

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("bin", "lib", "lib64", "sbin"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        for name in ("tmp", "work", "mnt", "proc", "sys", "dev", "etc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for path in sorted(set(_files())):
            tar.add(path, arcname=str(path).lstrip("/"), recursive=False)
    client = docker.DockerClient(base_url=address)
    client.api.import_image_from_data(packed.getvalue(), repository=IMAGE)
    client.close()


def _files() -> Iterator[Path]:
    """Yield what the programs need."""
    programs = [Path(found) for name in PROGRAMS if (found := shutil.which(name, path="/usr/bin"))]
    binaries = [*programs, *(path.resolve() for path in programs)]
    version = Path("/usr/bin/python3").resolve().name
    library = [
        path
        for path in Path("/usr/lib", version).rglob("*")
        if path.is_file() and not {"test", "__pycache__", "idlelib", "lib2to3", "dist-packages"} & set(path.parts)
    ]
    yield from binaries
    yield from library
    yield from _shared_libraries([*binaries, *(path for path in library if path.suffix == ".so")])


def _shared_libraries(binaries: Iterable[Path]) -> Iterator[Path]:
    told = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    for found in set(re.findall(r"(/\S+\.so\S*) \(0x", told)):
        path = Path(found)
        for each in (path, path.resolve()):
            yield Path("/usr") / each.relative_to("/") if not str(each).startswith("/usr") else each
