"""The default sandbox: Linux namespaces set up by bubblewrap, control groups, and an allow-list of system calls.

One outer box holds a pool: an interpreter that has the libraries loaded. Each run and each session is a fork of it in
namespaces of its own, so that it starts in milliseconds, and nothing of it is left when it ends.
"""

import itertools
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

from agent_gym.errors import ConfigError, SandboxError, SandboxUnavailable
from agent_gym.sandbox import cgroups
from agent_gym.sandbox.base import Limits
from agent_gym.sandbox.boxes import Box, box_config, environment, unborn_box
from agent_gym.sandbox.bundle import BOOT_COMPILED, compiled
from agent_gym.sandbox.channels import BoxLost, SocketChannel
from agent_gym.sandbox.inside import frames
from agent_gym.sandbox.runtime import HOME, Runtime, make_runtime
from agent_gym.sandbox.seccomp import bpf_program
from agent_gym.sandbox.sessions import BoxSandbox

logger = logging.getLogger(__name__)

INSTALL: Final = "apt-get install bubblewrap"
DEFAULT_PACKAGES: Final = ("numpy", "sympy")
_FIRST_USER: Final = 300_000
"""Users of boxes, when this process is root: numbers that nobody else has."""
_USERS: Final = 100_000
_START_SECONDS: Final = 120.0
"""Importing large libraries from a cold disk takes its time."""
_POOLS: Final = 3
"""Pools that are tried for one box when one after the other ends."""
_DYING_SECONDS: Final = 1.0
"""A pool that was killed takes a moment to be gone; meanwhile its boxes break in one way or another."""
_users = itertools.count(os.getpid() % _USERS)
_starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")
"""The kernel ends a pool with the *thread* that has started it; this one lives as long as the process."""


def _begin_anew() -> None:
    """In a process that was forked from one with sandboxes: that thread is not there, and the users are taken."""
    global _users, _starter
    _users = itertools.count(os.getpid() % _USERS)
    _starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")


os.register_at_fork(after_in_child=_begin_anew)


class Bubblewrap(BoxSandbox):
    """Runs code in namespaces set up by bubblewrap (`bwrap`), as root or not.

    Args:
        limits: What code may use.
        concurrency: Calls that run at once; four for each processor by default.
        packages: Distributions of this Python environment that code can import, with what they require.
        preload: Modules that are loaded before the first box is made: code that imports them starts at once.
        require_memory_limit: Refuse to work where no control group can be made. Without one each process is limited by
            itself, and several together can use more.

    Raises:
        SandboxUnavailable: bubblewrap, libseccomp or control groups are missing; the message says which.
    """

    name = "bubblewrap"
    can_fork = True

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        concurrency: int | None = None,
        packages: Sequence[str] = DEFAULT_PACKAGES,
        preload: Sequence[str] = DEFAULT_PACKAGES,
        require_memory_limit: bool = True,
    ) -> None:
        super().__init__(limits or Limits(), concurrency or 4 * (os.cpu_count() or 1))
        self._command = find_bubblewrap()
        self._program = bpf_program()
        self._hierarchy = cgroups.find_hierarchy()
        self._grouped = not self._hierarchy.problem()
        if require_memory_limit and not self._grouped:
            raise SandboxUnavailable(
                "bubblewrap works, but memory cannot be limited as a whole: "
                f"{self._hierarchy.problem()}; run as root or in a systemd scope with Delegate=yes, or accept a limit "
                "for each process with require_memory_limit=False."
            )
        if self._grouped:
            cgroups.sweep(self._hierarchy)
        self._runtime = make_runtime(packages, readable_by_all=os.getuid() == 0)
        self._preload = list(preload)
        self._pool: _Pool | None = None
        self._pool_guard = threading.Lock()
        self._numbers = itertools.count()

    def guarantees(self) -> Mapping[str, bool]:
        """See `Sandbox.guarantees`."""
        return {
            "host files are out of reach": True,
            "no network": True,
            "own processes": True,
            "own user": os.getuid() == 0,
            "system calls are limited": True,
            "memory is limited as a whole": self._grouped,
            "processes are limited": self._grouped,
            "disk is limited": True,
            "sessions fork": True,
        }

    def close(self) -> None:
        """See `Sandbox.close`."""
        super().close()
        with self._pool_guard:
            if self._pool is not None:
                self._pool.end()
                self._pool = None

    def _open_box(self) -> Box:
        """See `BoxSandbox._open_box`; that a pool has ended says nothing of the box: the next one makes it."""
        for _ in range(_POOLS):
            pool = self._running_pool()
            try:
                return self._box_of(pool)
            except BoxLost as error:
                if not pool.ends_within(_DYING_SECONDS):
                    raise
                lost = error
        raise lost

    def _box_of(self, pool: "_Pool") -> Box:
        box, ours, theirs = unborn_box(self.limits, self._new_group())
        try:
            pool.send_for(theirs)
            box.meet(ours)
            box.begin(self._config(), self._program)
        except BaseException:
            box.close()
            raise
        return box

    def _fork_box(self, box: Box) -> Box:
        return box.fork(self._new_group())

    def _explained(self, error: BoxLost) -> str:
        words = self._pool.last_words() if self._pool is not None else ""
        return f"{error} ({words})" if words else str(error)

    def _config(self) -> dict[str, object]:
        return box_config(
            self.limits,
            own_folders=True,
            address_space=None if self._grouped else self.limits.memory_bytes,
            environment=environment(PYTHONPATH=str(HOME / "packages"), **self._runtime.environment()),
        )

    def _new_group(self) -> cgroups.Group | None:
        if not self._grouped:
            return None
        try:
            return cgroups.Group(self._hierarchy, f"{id(self):x}-{next(self._numbers)}", self.limits)
        except OSError as error:
            raise SandboxError(
                f"No control group could be made ({error}): is the memory or the number used up?"
            ) from error

    def _running_pool(self) -> "_Pool":
        with self._pool_guard:
            self._check_open()
            if self._pool is None or self._pool.ended():
                if self._pool is not None:
                    logger.warning("The pool of the sandbox has ended and is started again.")
                    self._pool.end()
                self._pool = _starter.submit(_Pool, self._command, self._runtime, self._preload).result()
            return self._pool


class _Pool:
    """The outer box and the interpreter in it that makes boxes of itself.

    Args:
        command: Where `bwrap` is.
        runtime: What the box is built from.
        preload: Modules to import.
    """

    def __init__(self, command: str, runtime: Runtime, preload: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the pool
        self._guard = threading.Lock()
        try:
            with theirs:
                self._process = _start(command, runtime, preload, theirs, self._errors)
            self._channel = SocketChannel(ours)
            self._wait_until_ready()
        except BaseException:
            ours.close()
            self._errors.close()
            raise

    def send_for(self, end: socket.socket) -> None:
        """Have a box made whose first process has this end of a socket, which is closed here.

        Raises:
            BoxLost: The pool is gone.
        """
        try:
            with end, self._guard:
                self._channel.send(b"b", [end.fileno()], time.monotonic() + 10.0)
        except OSError as error:
            raise BoxLost(f"no box was made: {error}") from error

    def ended(self) -> bool:
        """Return whether the pool has ended; bwrap itself may take a moment longer."""
        return self.ends_within(0.0)

    def ends_within(self, seconds: float) -> bool:
        """Wait, so long at most, until the pool has ended; return whether it has."""
        return self._process.poll() is not None or self._channel.hung_up(seconds)

    def end(self) -> None:
        """End the pool and whatever is still in it."""
        self._channel.close()
        self._process.kill()
        self._process.wait()
        with self._guard:
            self._errors.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        reader = frames.Reader(0)
        try:
            while data := self._channel.receive(deadline):
                for message, _ in reader.feed(data):
                    if message["missing"]:
                        self._fail(f"these modules cannot be loaded: {message['missing']}")
                    return
        except TimeoutError:
            self._fail(f"it did not begin within {_START_SECONDS:g} s")
        self._process.wait(10.0)
        self._fail(self.last_words() or f"it ended with code {self._process.returncode}")

    def _fail(self, why: str) -> None:
        self._process.kill()
        self._process.wait()
        raise SandboxUnavailable(f"bubblewrap cannot start a sandbox here: {why}.")

    def last_words(self) -> str:
        """Return the last line that a process of ours in there has complained with."""
        with self._guard:
            if self._errors.closed:
                return ""
            size = os.fstat(self._errors.fileno()).st_size
            end = os.pread(self._errors.fileno(), 4096, max(0, size - 4096))
        lines = end.decode("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")


def find_bubblewrap() -> str:
    """Return where `bwrap` is.

    Raises:
        SandboxUnavailable: It is not installed.
    """
    command = shutil.which("bwrap")
    if command is None:
        raise SandboxUnavailable(f"bubblewrap is not installed: {INSTALL}.")
    return command


def _start(
    command: str, runtime: Runtime, preload: Sequence[str], channel: socket.socket, errors: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Start the pool, under a user of its own when this process is root."""
    number = _FIRST_USER + next(_users) % _USERS if os.getuid() == 0 else None
    options = _in_memory("\0".join(_options(runtime)).encode())
    code = _in_memory(compiled())
    python = [runtime.python, "-I", "-S", "-B", "-c", BOOT_COMPILED, str(code), str(HOME / "packages")]
    try:
        return subprocess.Popen(
            [command, "--args", str(options), *python, "pool", str(channel.fileno()), *preload],
            pass_fds=[channel.fileno(), options, code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd="/",
            env={},
            start_new_session=True,
            user=number,
            group=number,
            extra_groups=None if number is None else [],
        )
    except OSError as error:
        raise SandboxUnavailable(f"bubblewrap cannot be started: {error}.") from error
    finally:
        os.close(options)
        os.close(code)


def _in_memory(content: bytes) -> int:
    """Return a descriptor that the content can be read from."""
    descriptor = os.memfd_create("agent_gym")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _options(runtime: Runtime) -> list[str]:
    """Return the options of bwrap; they travel by a descriptor, since everybody can read a command line."""
    return [
        *("--unshare-all", "--unshare-user", "--uid", "0", "--gid", "0", "--hostname", "sandbox"),
        *(
            "--die-with-parent",
            "--new-session",
            "--as-pid-1",
            "--clearenv",
            "--cap-drop",
            "ALL",
            "--cap-add",
            "CAP_SETFCAP",
        ),
        *(part for name, value in environment(**runtime.environment()).items() for part in ("--setenv", name, value)),
        *("--ro-bind", "/usr", "/usr"),
        *(part for link in ("bin", "lib", "lib32", "lib64", "sbin") for part in _root_link(link)),
        *("--dir", "/work", "--dir", "/mnt", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
        *(part for mask in runtime.masks if str(mask).startswith("/usr") for part in ("--tmpfs", str(mask))),
        *(part for source, target in runtime.binds for part in ("--ro-bind", str(source), str(target))),
        *(part for mask in runtime.masks if not str(mask).startswith("/usr") for part in ("--tmpfs", str(mask))),
        *(part for name in ("python", "python3") for part in ("--symlink", runtime.python, f"{HOME}/bin/{name}")),
        # Whatever could be written here would be seen by all boxes of the pool.
        *(part for place in (*map(str, runtime.masks), "/dev", "/") for part in ("--remount-ro", place)),
    ]


def _root_link(name: str) -> list[str]:
    """Return the options that put /bin and so on where they are on this system."""
    path = Path("/") / name
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []


__all__ = ["DEFAULT_PACKAGES", "INSTALL", "Bubblewrap", "ConfigError", "find_bubblewrap"]
