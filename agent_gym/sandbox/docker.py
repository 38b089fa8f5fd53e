"""Runs code in containers: one for each run and each session, with our supervisor on its standard streams.

Nothing of the host is mounted, so the daemon may be on another machine; what runs inside is sent as source. Works with
the Docker SDK and whatever speaks Docker's API; `runtime="runsc"` gives the code a kernel of its own (gVisor).
"""

import contextlib
import json
import logging
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from agent_gym.errors import SandboxError, SandboxUnavailable
from agent_gym.sandbox import cgroups
from agent_gym.sandbox.base import Limits
from agent_gym.sandbox.boxes import Box, box_config
from agent_gym.sandbox.bundle import boot_source
from agent_gym.sandbox.channels import BoxLost
from agent_gym.sandbox.inside import frames
from agent_gym.sandbox.seccomp import bpf_program, docker_profile
from agent_gym.sandbox.sessions import BoxSandbox

logger = logging.getLogger(__name__)

_USER: Final = 65534
_OWNER_LABEL: Final = "agent_gym.owner"
_HOST_LABEL: Final = "agent_gym.host"
_SECONDS: Final = 60.0
"""What the daemon may take to make, start or remove a container."""
_STREAM_HEADER: Final = struct.Struct(">BxxxI")
_STANDARD_ERROR: Final = 2
_LAST_WORDS: Final = 4096
_MOST_OF_A_GVISOR: Final = 256
"""gVisor's own threads count as processes of the container."""


class Docker(BoxSandbox):
    """Runs code in containers.

    Args:
        limits: What code may use.
        image: The image, which needs `python3` (3.10 or newer); libraries are those that it has.
        concurrency: Calls that run at once; two for each processor by default.
        runtime: The runtime of the containers; the daemon's own by default, "runsc" for gVisor, which must be one that
            has `pidfd_open`: that of Debian 12 has not.
        base_url: The daemon's address; that of the environment (DOCKER_HOST) by default. Podman's socket works too; it
            counts the bytes of each folder but not the files, which only the limit on memory holds.
        require_memory_limit: Refuse a daemon that cannot limit memory, as one without root may be. Code can use up the
            memory of its machine then.

    Raises:
        SandboxUnavailable: There is no daemon, no such image or no limit on memory; the message says what to do.
    """

    name = "docker"

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        image: str | None = None,
        concurrency: int | None = None,
        runtime: str | None = None,
        base_url: str | None = None,
        require_memory_limit: bool = True,
    ) -> None:
        if image is None:
            raise SandboxUnavailable("The Docker sandbox needs an image with python3: give image='python:3.11-slim'.")
        super().__init__(limits or Limits(), concurrency or 2 * (os.cpu_count() or 1))
        self._image = image
        self._runtime = runtime
        self._client = _connect(base_url)
        try:
            self._podman = _is_podman(self._client)
            # Podman takes no list of system calls but the path of one, on its own machine: there the worker applies it.
            self._program = bpf_program() if self._podman else b""
            _require_image(self._client, image)
            self._told = self._client.info()
            if require_memory_limit and not self._told.get("MemoryLimit"):
                raise SandboxUnavailable(
                    "The Docker daemon cannot limit memory: give it control groups, as one that runs as root has, or "
                    "accept that with require_memory_limit=False."
                )
            _sweep(self._client)
        except BaseException as error:
            self._client.close()
            if isinstance(error, _failures()):
                raise SandboxUnavailable(f"The Docker daemon does not work as it should: {error}.") from error
            raise

    def guarantees(self) -> Mapping[str, bool]:
        """See `Sandbox.guarantees`."""
        return {
            "host files are out of reach": True,
            "no network": True,
            "own processes": True,
            "own user": False,
            "system calls are limited": True,
            "memory is limited as a whole": bool(self._told.get("MemoryLimit")),
            "processes are limited": bool(self._told.get("PidsLimit")),
            "disk is limited": True,
            "sessions fork": False,
        }

    def close(self) -> None:
        """See `Sandbox.close`."""
        super().close()
        self._client.close()

    def _open_box(self) -> Box:
        try:
            container = self._client.api.create_container(
                self._image,
                ["python3", "-I", "-S", "-B", "-c", boot_source(), "box"],
                stdin_open=True,
                user=f"{_USER}:{_USER}",
                working_dir="/work",
                network_disabled=True,
                hostname="sandbox",
                labels={_OWNER_LABEL: cgroups.owner_label(), _HOST_LABEL: _host()},
                host_config=self._client.api.create_host_config(**self._restrictions()),
            )
        except _failures() as error:
            raise SandboxError(f"The Docker daemon made no container: {error}.") from error
        try:
            channel = self._start(container["Id"])
        except BaseException as error:
            _remove(self._client, container["Id"])
            if isinstance(error, _failures()):
                raise SandboxError(f"The Docker daemon did not start a container: {error}.") from error
            raise
        box = _Container(channel, self.limits, self._client, container["Id"])
        try:
            box.greet()
            box.begin(box_config(self.limits), self._program)
        except BaseException:
            box.close()
            raise
        return box

    def _start(self, container: str) -> "_Streams":
        """Start a container; its streams are joined before, so that nothing that is said is missed."""
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        channel = _Streams(self._client.api.attach_socket(container, streams))
        try:
            self._client.api.start(container)
        except BaseException:
            channel.close()
            raise
        return channel

    def _restrictions(self) -> dict[str, Any]:
        """Return what a container may not do."""
        limits = self.limits
        owner = "U" if self._podman else f"uid={_USER},gid={_USER},nr_inodes={limits.files}"
        folder = f"size={limits.disk_bytes},mode=1777,nosuid,nodev,{owner}"
        processes = limits.processes + 2
        restrictions: dict[str, Any] = {
            "network_mode": "none",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "pids_limit": max(processes, _MOST_OF_A_GVISOR) if self._runtime else processes,
            "mem_limit": limits.memory_bytes,
            "memswap_limit": limits.memory_bytes,
            "nano_cpus": int(limits.cpus * 1e9),
            "ipc_mode": "private",
            "log_config": {"Type": "none"},
            # Shared memory is named, too: what the daemon would mount there has no limit on files.
            "tmpfs": {"/work": folder + ",exec", "/tmp": folder + ",exec", "/dev/shm": folder},
            "init": False,
        }
        if self._podman:
            # Its defaults cannot be set without a privilege that a container lacks.
            restrictions["ulimits"] = [
                {"Name": "nofile", "Soft": 1024, "Hard": 1024},
                {"Name": "nproc", "Soft": 4096, "Hard": 4096},
            ]
        else:
            restrictions["security_opt"].append("seccomp=" + json.dumps(docker_profile()))
        if self._runtime is not None:
            restrictions["runtime"] = self._runtime
        return restrictions


class _Container(Box):
    """A box that is a container.

    Args:
        channel: The way to the supervisor.
        limits: What code may use.
        client: The daemon.
        container: Its id.
    """

    def __init__(self, channel: "_Streams", limits: Limits, client: Any, container: str) -> None:
        super().__init__(channel, limits)
        self._streams = channel
        self._client = client
        self._container = container
        self._group_here: Path | None = None
        """The control group of its memory, once it is known to be on this machine."""

    def kill(self) -> None:
        """See `Box.kill`."""
        with contextlib.suppress(*_failures()):
            self._client.api.kill(self._container)

    def _memory_kills(self) -> int:
        """Return how many processes were killed because memory had run out, as far as can be known.

        A daemon on this machine keeps the container's control group here. Of another one is only known, 0 or 1,
        whether the container as a whole has ended of it.
        """
        if self._group_here is not None and self._group_here.is_dir():
            return cgroups.memory_kills(self._group_here)
        try:
            state = self._client.api.inspect_container(self._container)["State"]
        except _failures():
            return 0
        group = cgroups.memory_group_of(state["Pid"]) if state["Pid"] else None
        if group is not None and self._container in str(group):
            self._group_here = group
            return cgroups.memory_kills(group)
        return int(state["OOMKilled"])

    def _next(self, deadline: float) -> frames.Frame:
        try:
            return super()._next(deadline)
        except BoxLost as error:
            words = self._streams.last_words()
            raise BoxLost(f"{error}; the container said {words!r}" if words else str(error)) from error

    def _end(self) -> None:
        # The streams first: a removal waits for whoever still listens.
        self._closed = True
        self._channel.close()
        _remove(self._client, self._container)


class _Streams:
    """The streams of a container, which the daemon sends in pieces with a header each; implements `Channel`."""

    def __init__(self, attached: Any) -> None:
        self._attached = attached
        # The SDK wraps the socket of a connection to a Unix socket.
        self._socket: socket.socket = getattr(attached, "_sock", attached)
        self._parts = bytearray()
        self._said = bytearray()

    def send(self, data: bytes, descriptors: Sequence[int], deadline: float) -> None:
        """See `Channel.send`; descriptors cannot travel here."""
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        self._socket.sendall(data)

    def receive(self, deadline: float) -> bytes:
        """See `Channel.receive`."""
        while (piece := self._next()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("nothing has come on the standard output in time")
            self._socket.settimeout(left)
            data = self._socket.recv(1 << 18)
            if not data:
                return b""
            self._parts += data
        return piece

    def last_words(self) -> str:
        """Return the last line of the standard error."""
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """See `Channel.close`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._attached.close()

    def _next(self) -> bytes | None:
        """Return the next piece of the standard output, if it is here as a whole."""
        while len(self._parts) >= _STREAM_HEADER.size:
            stream, length = _STREAM_HEADER.unpack_from(self._parts)
            end = _STREAM_HEADER.size + length
            if len(self._parts) < end:
                return None
            piece = bytes(self._parts[_STREAM_HEADER.size : end])
            del self._parts[:end]
            if stream != _STANDARD_ERROR and piece:
                return piece
            self._said = (self._said + piece)[-_LAST_WORDS:]
        return None


def _connect(base_url: str | None) -> Any:
    """Return a client of the daemon.

    Raises:
        SandboxUnavailable: It cannot be reached.
    """
    import docker

    try:
        client = (
            docker.DockerClient(base_url=base_url, timeout=_SECONDS)
            if base_url
            else docker.from_env(timeout=int(_SECONDS))
        )
        client.ping()
    except _failures() as error:
        raise SandboxUnavailable(
            f"No Docker daemon can be reached ({error}): start one, or name its address with base_url or DOCKER_HOST."
        ) from error
    return client


def _is_podman(client: Any) -> bool:
    return any("podman" in str(part.get("Name", "")).lower() for part in client.version().get("Components", []))


def _require_image(client: Any, image: str) -> None:
    import docker

    try:
        client.images.get(image)
    except docker.errors.ImageNotFound as error:
        raise SandboxUnavailable(f"The Docker daemon has no image {image!r}: docker pull {image}.") from error
    except (docker.errors.APIError, docker.errors.NullResource) as error:
        raise SandboxUnavailable(
            f"The Docker daemon does not take {image!r} for the name of an image ({error}): python:3.11-slim is one."
        ) from error


def _sweep(client: Any) -> None:
    """Remove the containers of owners on this machine that live no more."""
    found = client.api.containers(all=True, filters={"label": f"{_HOST_LABEL}={_host()}"})
    for container in found:
        if not cgroups.lives(container["Labels"].get(_OWNER_LABEL, "")):
            logger.info("Removing the container %s, which a process that has died left behind.", container["Id"][:12])
            _remove(client, container["Id"])


def _remove(client: Any, container: str) -> None:
    import docker

    for attempt in range(2):
        try:
            client.api.remove_container(container, force=True, v=True)
            return
        except docker.errors.NotFound:
            return
        except _failures() as error:
            # Podman finds fault with a container that ends by itself just then; the second time it has ended.
            if attempt:
                logger.warning("The container %s could not be removed: %s.", container[:12], error)


def _failures() -> tuple[type[Exception], ...]:
    """Return what the SDK raises when the daemon refuses something or is not there; errors of requests are OSErrors."""
    import docker

    return docker.errors.DockerException, OSError


@cache
def _host() -> str:
    """Return what names this machine until it is started anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
