"""Processes of a box: starting the one that may be trusted with nothing, and ending all of them."""

from __future__ import annotations

import _signal
import _socket
import os
import select
import time

from . import kernel, worker
from .streams import close_all_but, readable, receive_all, send_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

_SECONDS = 5.0
"""It may take to stop what runs, and to end it, on a busy machine."""


class Child:
    """A worker, as its supervisor sees it.

    Args:
        pid: Its id.
        pidfd: The same, as something that can be waited for.
        channel: Where cells go and answers come from.
        outputs: Where its standard output and its standard error can be read.
        listener: Where its calls wait that are only allowed while it is forked; None where there are no such calls.
    """

    def __init__(
        self, pid: int, pidfd: int, channel: _socket.socket, outputs: tuple[int, int], listener: int | None
    ) -> None:
        self.pid, self.pidfd, self.channel, self.outputs, self.listener = pid, pidfd, channel, outputs, listener

    def ended(self) -> bool:
        """Return whether it has ended."""
        return readable(self.pidfd, 0)

    def close(self) -> None:
        """Kill it, and let go of everything that belongs to it."""
        kill(self.pidfd)
        self.forget()

    def forget(self) -> None:
        """Let go of everything that belongs to it."""
        self.channel.close()
        for descriptor in (self.pidfd, *self.outputs, self.listener):
            if descriptor is not None:
                os.close(descriptor)


def kill(pidfd: int) -> None:
    """Kill a process, and with it its namespace if it is the first one there."""
    try:
        _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended by itself


def end_after(work: Callable[[], object]) -> NoReturn:
    """Do some work in a process that was just forked, and end it; what goes wrong is written to standard error."""
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001 - nothing may go on in the parent's name
        complain(error)
    finally:
        os._exit(code)


def complain(error: BaseException) -> None:
    """Write an error of ours to standard error, where the host finds it."""
    import traceback

    traceback.print_exception(error)


def start_worker(config: dict[str, Any], program: bytes) -> Child:
    """Start a worker; it has nothing that the supervisor holds.

    Args:
        config: What the box is like.
        program: Its system calls; empty where that is settled already.
    """
    ours, theirs = _socket.socketpair()
    gate, gate_end = _socket.socketpair()
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:

        def work() -> None:
            for number, end in ((1, out_end), (2, err_end)):
                os.dup2(end, number)
            close_all_but(theirs.fileno(), gate_end.fileno())
            become_untrusted(config, program, gate_end)
            close_all_but(theirs.fileno())
            worker.run(theirs, config["work"])

        end_after(work)
    theirs.close()
    gate_end.close()
    os.close(out_end)
    os.close(err_end)
    for descriptor in (out, err):
        os.set_blocking(descriptor, False)
    begun, listeners, _ = receive_all(gate, 1)
    gate.close()
    if not begun:
        raise OSError("the worker did not begin")
    return Child(pid, os.pidfd_open(pid), ours, (out, err), listeners[0] if listeners else None)


def become_untrusted(config: dict[str, Any], program: bytes, gate: _socket.socket | None = None) -> None:
    """Give up everything that untrusted code must not have; there is no way back.

    Args:
        config: What the box is like.
        program: The system calls that are allowed; empty where that is settled already.
        gate: Where a descriptor is sent at which calls wait that the supervisor can let through; with an empty program,
            only a byte.
    """
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    os.setsid()
    kernel.be_the_first_to_go()
    os.environ.clear()
    os.environ.update(config["environment"])
    os.chdir(config["work"])
    kernel.drop_capabilities()
    listener = kernel.install_filter(program, listen=gate is not None) if program else None
    if gate is not None:
        send_with(gate, b"!", [] if listener is None else [listener])
    # Last, since what is sent is limited, too, by what all code of this user has sent.
    kernel.limit_resources(config["file_bytes"], config["address_space"])


def end_privileged() -> None:
    """Kill what has privileges that it has kept from a fork: processes of this box and of those further down."""
    _end(lambda: [pid for pid in _numbers() if kernel.is_privileged(pid)])


def end_all(*, alone: bool, first: bool) -> None:
    """Kill every other process of this box, and wait until they are gone.

    Args:
        alone: No boxes were forked from this one: those are further down, and must live.
        first: This is the first process of its namespace; otherwise its descendants are killed.
    """
    if first and alone:
        _kill(-1, _signal.SIGKILL)
        reap(block=True)
        return
    mine = kernel.pid_namespace_depth(os.getpid())
    _end(lambda: _namespace_mates(mine) if first else _descendants(os.getpid()))


def _end(find: Callable[[], list[int]]) -> None:
    """Kill processes until no more are found.

    They are killed when all of them have stopped: each that has ended makes room for one that forks meanwhile.
    """
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        _stop(find)
        found = find()
        if not found:
            return
        for pid in found:
            _kill(pid, _signal.SIGKILL)
        reap(block=False)
        select.select([], [], [], 0.002)
    # They cannot be stopped; with the first process the kernel ends all of them.
    os._exit(1)


def stop_mates() -> list[int]:
    """Stop every other process of this namespace, so that none sees or changes anything; return them."""
    mine = kernel.pid_namespace_depth(os.getpid())
    return _stop(lambda: _namespace_mates(mine))


def _stop(find: Callable[[], list[int]]) -> list[int]:
    """Stop processes, and those that are started meanwhile, until none runs; return them.

    One that waits in the kernel, for a child of `vfork` to begin a program, does not stop before that; but neither can
    it do anything, and its child has stopped.
    """
    told: dict[int, None] = {}
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        moving = {pid: state for pid in find() if (state := _state(pid)[0]) not in "Tt"}
        if all(state == "D" and pid in told for pid, state in moving.items()):
            break
        for pid in moving:
            _kill(pid, _signal.SIGSTOP)
        told |= dict.fromkeys(moving)
        select.select([], [], [], 0.0005)
    return list(told)


def continue_all(pids: Sequence[int]) -> None:
    """Let processes go on that were stopped."""
    for pid in pids:
        _kill(pid, _signal.SIGCONT)


def reap(*, block: bool) -> None:
    """Collect the children that have ended; with `block`, wait for all of them."""
    try:
        while os.waitpid(-1, 0 if block else os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # there are none


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended meanwhile


def _namespace_mates(depth: int) -> list[int]:
    """Return the processes of this very namespace, zombies and those of branches apart."""
    return [pid for pid in _numbers() if kernel.pid_namespace_depth(pid) == depth and _state(pid)[0] not in "ZX"]


def _numbers() -> list[int]:
    """Return all processes that can be seen from here but this one, the first."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and name != "1"]


def _descendants(ancestor: int) -> list[int]:
    """Return all living descendants of a process."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            state, parent = _state(int(name))
            if state not in "ZX":
                parents[int(name)] = parent
    found: list[int] = []
    front = {ancestor}
    while front:
        front = {pid for pid, parent in parents.items() if parent in front}
        found += front
    return found


def _state(pid: int) -> tuple[str, int]:
    """Return the state and the parent of a process; "X" when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, parent, *_ = file.read().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return state, int(parent)


def drain(descriptor: int, take: Callable[[bytes], None] | None = None, *, at_most: int = 1 << 30) -> bool:
    """Read what there is, `at_most` so many bytes; return False when the other end is closed."""
    while at_most > 0:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        at_most -= len(data)
        if take is not None:
            take(data)
    return True
