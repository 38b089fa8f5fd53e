"""Objects that live in child processes: called with a time-out, forked as they are, replaced when they die.

What can take a process down, hang, or disturb its global state runs here: a parser that is not thread-safe, a native
library, an environment that nobody has tried yet. The first host of a module starts a *template*: a process that has
imported the module and does nothing but fork. A host is a fork of its template (milliseconds instead of the seconds
that the imports take), and `Host.fork` forks the host itself, so that the twin has the very same state.

A process costs what it changes; what the template imported is shared.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from agent_gym.errors import ConfigError, WorkerError

_START_SECONDS = 120.0
"""A first import may have to wait for a slow disk."""
_CLOSE_SECONDS = 5.0
_TRANSFER_SECONDS = 60
"""A request or an answer may take so long to travel, once it has begun to; the time-out of a call is for the rest."""
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
"""A process that may be forked at any moment must not start threads, and the order of a set must not be left to chance.

TextWorld makes other games of the same seed in processes whose strings are hashed otherwise.
"""


class Host:
    """An object in a process of its own.

    Args:
        target: "module:name" of the class (or function) that makes the object, in the child.
        *args: Its arguments; they travel by pickle.
        timeout: Seconds that a call may take by default.
        preload: What the template has ready besides the target: a module, or an entry point of an environment.
        name: What the process is called when something happens to it; that of the class by default.
        **kwargs: Its keyword arguments.

    Raises:
        WorkerError: The process died or did not answer in time.
        ConfigError: This system has no process descriptors (Linux 5.3 or newer has).
    """

    def __init__(
        self, target: str, *args: Any, timeout: float = 60.0, preload: str | None = None, name: str = "", **kwargs: Any
    ) -> None:
        self.timeout = timeout
        self._name = name or target.rpartition(":")[2]
        self._template = _Template.of(preload or target.rpartition(":")[0])
        try:
            channel = self._template.fork()
        except BaseException:
            self._template.release()
            raise
        self._begin(channel, _START_SECONDS)
        try:
            self._ask("make", target, args, kwargs, timeout=max(timeout, _START_SECONDS))
        except BaseException:
            self.kill()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process can be called."""
        return self._finalizer.alive and os.getpid() == self._owner and not _exited(self._pidfd, 0.0)

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._pid

    def call(self, method: str, *args: Any, timeout: float | None = None) -> Any:
        """Call a method of the object.

        Args:
            method: Its name.
            *args: Its arguments; they travel by pickle, and so does the result.
            timeout: Seconds; the host's own by default.

        Raises:
            WorkerError: The process has died, or did not answer in time and was ended.
            Exception: What the method raised, with the child's traceback as a note.
        """
        return self._ask("call", method, args, {}, timeout=self.timeout if timeout is None else timeout)

    def fork(self) -> "Host":
        """Return a host with the same object in the same state; neither sees what happens to the other afterwards.

        Raises:
            WorkerError: The process has died, or did not answer in time.
        """
        twin = object.__new__(type(self))
        twin.timeout, twin._name = self.timeout, self._name
        twin._template = self._template.hold()
        try:
            channel = self._request_fork()
        except BaseException:
            self._template.release()
            raise
        try:
            twin._begin(channel, self.timeout)
        except WorkerError:
            if not self._answers():
                self.kill()
            raise
        return twin

    def close(self) -> None:
        """Close the object and end the process; it is killed if it takes longer than a few seconds."""
        if self.alive:
            with contextlib.suppress(WorkerError, OSError):
                self._ask("close", "close", (), {}, timeout=_CLOSE_SECONDS)
                _exited(self._pidfd, _CLOSE_SECONDS)
        self._finalizer()

    def kill(self) -> None:
        """End the process at once."""
        self._finalizer()

    # -- talking ---------------------------------------------------------------------------------------------------

    def _begin(self, channel: Connection, timeout: float) -> None:
        """Take over a child that was just forked."""
        self._channel = channel
        self._lock = threading.Lock()
        self._owner = os.getpid()
        try:
            kind, value = _receive(channel, timeout, f"The worker process of {self._name}")
            if kind == "raised":
                raise WorkerError(f"The worker process of {self._name} cannot be forked: {value}.")
            self._pid = int(value)
            self._pidfd = os.pidfd_open(self._pid)
        except BaseException as error:
            channel.close()
            self._template.release()
            if isinstance(error, EOFError | OSError):
                raise WorkerError(
                    f"The worker process of {self._name} has died as it began; the next reset() starts another."
                ) from error
            raise
        self._finalizer = weakref.finalize(self, _end, self._pidfd, channel, self._template, self._owner)

    def _ask(self, *request: Any, timeout: float) -> Any:
        what = f"The worker process of {self._name}"
        if not self._finalizer.alive or os.getpid() != self._owner:
            raise WorkerError(f"{what} was closed: make a new environment, or call reset() if it has one.")
        message = ForkingPickler.dumps(request)
        with self._lock:
            try:
                self._channel.send_bytes(message)
                kind, value = _receive(self._channel, timeout, what)
            except (EOFError, OSError) as error:
                self.kill()
                raise WorkerError(f"{what} has died; the next reset() starts another.") from error
            except BaseException:
                # Whatever interrupted it: the answer is still to come, and would be taken for that of the next call.
                self.kill()
                raise
        if kind == "raised":
            raise value
        return value

    def _gone(self, consequence: str) -> str:
        return f"The worker process of {self._name} has died and {consequence}; the next reset() starts another."

    def _answers(self) -> bool:
        """Return whether the process still answers."""
        with contextlib.suppress(WorkerError):
            self._ask("ping", timeout=_CLOSE_SECONDS)
            return True
        return False

    def _request_fork(self) -> Connection:
        if not self.alive:
            raise WorkerError(self._gone("cannot be forked"))
        with self._lock:
            try:
                return _ask_to_fork(self._channel)
            except BaseException as error:
                self.kill()
                if isinstance(error, OSError):
                    raise WorkerError(self._gone("cannot be forked")) from error
                raise


class _Template:
    """A process that has imported a module and forks itself; shared by all hosts of the module, gone with the last.

    Args:
        module: A module, or an entry point of an environment: "module:Class" or "file.py:Class".
    """

    _all: "dict[str, _Template]" = {}  # noqa: RUF012 - one registry for the process
    _guard = threading.RLock()

    def __init__(self, module: str) -> None:
        if not hasattr(os, "pidfd_open"):
            raise ConfigError("Worker processes need Linux 5.3 or newer: run the environment inline.")
        ours, theirs = _socket_pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from agent_gym.envs.hosted import main; main({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        self._channel = Connection(ours.detach())
        self._module = module
        self._owner = os.getpid()
        self._users = 0
        try:
            self._channel.send((list(sys.path), module))
            kind, value = _receive(self._channel, _START_SECONDS, f"The worker process that imports {module}")
        except (WorkerError, EOFError, OSError) as error:
            self._end()
            raise WorkerError(f"No worker process could be started for {module}: {error}.") from error
        if kind == "raised":
            self._end()
            raise value

    @classmethod
    def of(cls, module: str) -> "_Template":
        """Return the template of a module, starting it if there is none that lives; the caller releases it."""
        with cls._guard:
            template = cls._all.get(module)
            if template is None or template._owner != os.getpid() or template._process.poll() is not None:
                template = cls._all[module] = cls(module)
            return template.hold()

    def hold(self) -> "_Template":
        with self._guard:
            self._users += 1
        return self

    def release(self) -> None:
        if os.getpid() != self._owner:
            return
        with self._guard:
            self._users -= 1
            if self._users == 0:
                self._end()
                if self._all.get(self._module) is self:
                    del self._all[self._module]

    def fork(self) -> Connection:
        with self._guard:
            try:
                return _ask_to_fork(self._channel)
            except OSError as error:
                raise WorkerError(f"The process that starts workers of {self._module} has died: try again.") from error

    def _end(self) -> None:
        """End the template and whatever is left of its session."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_SECONDS)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _ask_to_fork(channel: Connection) -> Connection:
    """Have the process at the other end fork; return the channel to its child."""
    ours, theirs = _socket_pair()
    with theirs:
        channel.send(("fork",))
        with socket.socket(fileno=os.dup(channel.fileno())) as carrier:
            socket.send_fds(carrier, [b"f"], [theirs.fileno()])
    return Connection(ours.detach())


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends; on ours, nothing takes for ever."""
    ours, theirs = socket.socketpair()
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _TRANSFER_SECONDS, 0))
    return ours, theirs


def _receive(channel: Connection, timeout: float, who: str) -> Any:
    if not channel.poll(timeout):
        raise WorkerError(
            f"{who} did not answer within {timeout:g} s and was ended; the next reset() starts another: raise "
            "call_timeout if it is only slow."
        )
    return channel.recv()


def _exited(pidfd: int, timeout: float) -> bool:
    """Wait until a process has exited, at most so many seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(1000 * timeout))


def _end(pidfd: int, channel: Connection, template: _Template, owner: int) -> None:
    """Kill a host's process, wait until it is gone, and let go of everything that belongs to it.

    In a fork of the process that has started it, only let go: the host is not ours.
    """
    if os.getpid() != owner:
        os.close(pidfd)
        channel.close()
        return
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _exited(pidfd, _CLOSE_SECONDS)
    os.close(pidfd)
    channel.close()
    template.release()
