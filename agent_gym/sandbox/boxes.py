"""The host's side of a box: what all backends share, once they have started a supervisor and can talk to it."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from agent_gym.errors import SandboxError
from agent_gym.sandbox.base import MIB, Limits, Result, Status
from agent_gym.sandbox.cgroups import Group
from agent_gym.sandbox.channels import ANSWER_SECONDS, BoxLost, Channel, SocketChannel, readable, sender_of
from agent_gym.sandbox.inside import frames

logger = logging.getLogger(__name__)

FORK_SECONDS = 60.0
DEEPEST_FORK = 28
"""The kernel nests 32 namespaces; the outer boxes take some."""


class Box:
    """One box and its supervisor.

    Args:
        channel: The way to the supervisor, which has said hello.
        limits: What code may use.
        group: The control group that all of it is in, if there is one.
        pidfd: The first process, where it can be killed from here.
        depth: Forks between it and a box of its own making.
    """

    def __init__(
        self,
        channel: Channel,
        limits: Limits,
        *,
        group: Group | None = None,
        pidfd: int | None = None,
        depth: int = 0,
    ) -> None:
        self.limits = limits
        self.depth = depth
        self._channel = channel
        self._group = group
        self._pidfd = pidfd
        self._parent: Box | None = None
        self._reader = frames.Reader(2 * limits.output_bytes + limits.return_bytes + 16 * MIB)
        self._requests = 0
        self._branches = 0
        self._retired = False
        self._closed = False
        self._kills = 0
        self._owner = os.getpid()
        self._tree = threading.Lock()
        self._forking = threading.Lock()

    def ask(
        self, message: dict[str, Any], payload: bytes = b"", *, seconds: float, descriptors: Sequence[int] = ()
    ) -> frames.Frame:
        """Send a request and wait for its answer.

        Raises:
            BoxLost: There was none.
        """
        self._send(message, payload, seconds, descriptors)
        return self._answer(seconds)

    def _send(self, message: dict[str, Any], payload: bytes, seconds: float, descriptors: Sequence[int]) -> None:
        self._requests += 1
        try:
            request = frames.pack({**message, "id": self._requests}, payload)
            self._channel.send(request, descriptors, time.monotonic() + seconds)
        except OSError as error:
            raise BoxLost(str(error) or f"it has not read a request within {seconds:g} s") from error

    def _answer(self, seconds: float) -> frames.Frame:
        answer, payload = self._next(time.monotonic() + seconds)
        if answer.get("id") != self._requests:
            raise BoxLost("it has answered another request")
        return answer, payload

    def _next(self, deadline: float) -> frames.Frame:
        """Wait for a message."""
        try:
            while data := self._channel.receive(deadline):
                for message in self._reader.feed(data):
                    return message
        except TimeoutError as error:
            raise BoxLost("it has not answered in time") from error
        except (OSError, frames.FrameError) as error:
            raise BoxLost(str(error)) from error
        raise BoxLost("it has hung up")

    def run(self, code: bytes, language: str, stdin: bytes, timeout: float, *, echo: bool) -> Result:
        """Run a piece of code.

        Raises:
            BoxLost: The box is gone, and the code is not known to be to blame.
        """
        # What was killed in an earlier cell, which went on without it, says nothing of this one.
        self._memory_ran_out()
        message = {
            "do": "run",
            "language": language,
            "echo": echo,
            "timeout": timeout,
            "code": len(code),
            "keep": self.limits.output_bytes,
            "kill": self.limits.killing_output_bytes,
        }
        try:
            answer, output = self.ask(message, code + stdin, seconds=timeout + ANSWER_SECONDS)
        except BoxLost:
            if self._memory_ran_out():
                return Result(Status.OUT_OF_MEMORY, restarted=True, files_lost=True)
            raise
        with understanding():
            status, middle, exit_code = Status(answer["status"]), int(answer["out"]), answer["exit"]
            if status is Status.DIED and self._memory_ran_out():
                status = Status.OUT_OF_MEMORY
            return Result(
                status,
                stdout=output[:middle],
                stderr=output[middle:],
                exit_code=None if exit_code is None else int(exit_code),
                seconds=float(answer["seconds"]),
                cpu_seconds=float(answer["cpu"]),
                truncated_bytes=int(answer["dropped"]),
                restarted=bool(answer["restarted"]),
            )

    def fork(self, group: Group | None) -> "Box":
        """Return a box beside this one, with a twin of its worker and copies of its files.

        Raises:
            BoxLost: The box is gone.
            SandboxError: It could not be forked, and goes on as it was.
        """
        twin, ours, theirs = unborn_box(self.limits, group, depth=self.depth + 1)
        try:
            # One at a time in a tree: a supervisor ends whatever has privileges when it has let a twin go to its box.
            with self._forking:
                with theirs:
                    self._send({"do": "fork"}, b"", FORK_SECONDS, [theirs.fileno()])
                arrived = twin._arrive(ours)
                answer, _ = self._answer(FORK_SECONDS)
            if not (arrived and answer.get("forked") is True):
                raise SandboxError("The session could not be forked: its processes, memory or files stand in the way.")
            with self._tree:
                self._branches += 1
                twin._parent, twin._tree, twin._forking = self, self._tree, self._forking
        except BaseException:
            twin.close()
            raise
        return twin

    def _arrive(self, end: socket.socket) -> bool:
        """Take in the first process of a forked box, and then its worker; return whether both have come.

        They are in their control group before the one has copied any files, and the other has run any code. It is the
        first who names the worker: that is in the hands of the code.
        """
        try:
            self.meet(end, FORK_SECONDS)
            self.begin({}, b"")
            self._add(sender_of(end, FORK_SECONDS))
            self._next(time.monotonic() + ANSWER_SECONDS)
        except (BoxLost, OSError) as error:
            logger.info("A box could not be forked: %s.", error)
            return False
        return True

    def meet(self, end: socket.socket, seconds: float = ANSWER_SECONDS) -> None:
        """Take in the first process, put it into the control group, and take its hello.

        Raises:
            BoxLost: There is none, or it says something else.
        """
        try:
            first = sender_of(end, seconds)
            self._pidfd = os.pidfd_open(first)
            self._add(first)
        except OSError as error:
            raise BoxLost(str(error)) from error
        self.greet()

    def _add(self, pid: int) -> None:
        if self._group is not None:
            self._group.add(pid)

    def greet(self) -> None:
        """Take the supervisor's hello.

        Raises:
            BoxLost: It said something else, or nothing.
        """
        message, _ = self._next(time.monotonic() + ANSWER_SECONDS)
        if not message.get("hello"):
            raise BoxLost("it has said something else than hello")

    def begin(self, config: dict[str, Any], program: bytes) -> None:
        """Tell the supervisor what the box shall be like."""
        try:
            self._channel.send(frames.pack(config, program), (), time.monotonic() + ANSWER_SECONDS)
        except OSError as error:
            raise BoxLost(str(error)) from error

    def close(self) -> None:
        """End all that runs in it; where boxes were forked from it, its supervisor stays as long as they do."""
        if not self.belongs_here:
            return
        with self._tree:
            if self._closed or self._retired:
                return
            if self._branches == 0:
                self._end()
                return
            self._retired = True
        # The namespaces of its branches lie within its own: only what the agent runs here can end now.
        with suppress(BoxLost):
            self.ask({"do": "empty"}, seconds=ANSWER_SECONDS)

    @property
    def belongs_here(self) -> bool:
        """Whether this process has made it, not one that this was forked from."""
        return os.getpid() == self._owner

    def _memory_kills(self) -> int:
        """Return how many processes in it were killed, so far, because memory had run out."""
        return self._group.out_of_memory_kills() if self._group else 0

    def _memory_ran_out(self) -> bool:
        """Return whether there were such kills since this was last asked."""
        before, self._kills = self._kills, self._memory_kills()
        return self._kills > before

    def kill(self) -> None:
        """End the first process of the box at once, and so all of it; the box is lost then."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _end(self) -> None:
        """End the box, then those above it that were only waiting for it."""
        self._closed = True
        self.kill()
        self._channel.close()
        if self._pidfd is not None:
            if not readable(self._pidfd, ANSWER_SECONDS):
                logger.warning("A sandbox has not ended within %g s.", ANSWER_SECONDS)
            os.close(self._pidfd)
        if self._group is not None and not _removed(self._group):
            logger.warning("The control group of a sandbox could not be removed.")
        if (parent := self._parent) is not None:
            parent._branches -= 1
            if parent._retired and parent._branches == 0:
                parent._end()


@contextmanager
def understanding() -> Iterator[None]:
    """Read an answer, which is trusted, but not to have sense.

    Raises:
        BoxLost: It has none.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, frames.FrameError) as error:
        raise BoxLost(f"its answer has no sense ({error!r})") from error


def box_config(limits: Limits, **more: Any) -> dict[str, Any]:
    """Return what a supervisor has to know about its box, see `inside.main.run_box`."""
    return {
        "work": "/work",
        "writable": ["/work", "/tmp", "/dev/shm"],
        "own_folders": False,
        "pid_1": True,
        "disk_bytes": limits.disk_bytes,
        "files": limits.files,
        "file_bytes": limits.disk_bytes,
        "address_space": None,
        "environment": environment(),
        **more,
    }


def environment(**more: str) -> dict[str, str]:
    """Return the whole environment of the code."""
    return {
        "HOME": "/work",
        "PATH": "/opt/agent-gym/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # One thread a process: a library that starts one for each processor would use up the processes.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        **more,
    }


def unborn_box(limits: Limits, group: Group | None, *, depth: int = 0) -> tuple[Box, socket.socket, socket.socket]:
    """Return a box that has no process yet; our end of its channel, which tells who writes to it; and the other end.

    Raises:
        SandboxError: This process has no descriptors left.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        if group is not None:
            group.remove()
        raise SandboxError(f"No channel to a box could be made ({error}): does ulimit -n allow two a box?") from error
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return Box(SocketChannel(ours), limits, group=group, depth=depth), ours, theirs


def _removed(group: Group) -> bool:
    for attempt in range(50):
        if group.remove():
            return True
        time.sleep(0.001 * (1 + attempt))
    return False
