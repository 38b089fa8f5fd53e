"""Processes of a box: starting the one that may be trusted with nothing, and ending all of them."""

from __future__ import annotations

import _signal
import _socket
import os
import select

from . import kernel, worker
from .streams import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from .streams import Stream

_PASSES = 200


class Child:
    """A worker, as its supervisor sees it.

    Args:
        pid: Its id.
        pidfd: The same, as something that can be waited for.
        channel: Where cells go and answers come from.
        outputs: Where its standard output and its standard error can be read.
    """

    def __init__(self, pid: int, pidfd: int, channel: _socket.socket, outputs: tuple[int, int]) -> None:
        self.pid, self.pidfd, self.channel, self.outputs = pid, pidfd, channel, outputs

    def ended(self) -> bool:
        """Return whether it has ended."""
        return readable(self.pidfd, 0)

    def close(self) -> None:
        """Kill it, and let go of everything that belongs to it."""
        kill_all_of(self.pidfd)
        self.forget()

    def forget(self) -> None:
        """Let go of everything that belongs to it."""
        self.channel.close()
        for descriptor in (self.pidfd, *self.outputs):
            os.close(descriptor)


def kill_all_of(pidfd: int) -> None:
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
    except BaseException:  # noqa: BLE001 - nothing may go on in the parent's name
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor but the standard ones and these; whoever holds the others must not use them any more."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                pass  # that of the listing itself


def start_worker(config: dict[str, Any], program: bytes, secrets: Sequence[Stream]) -> Child:
    """Start a worker.

    Args:
        config: What the box is like.
        program: Its system calls; empty where that is settled already.
        secrets: What the supervisor holds and a worker must not.
    """
    ours, theirs = _socket.socketpair()
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:

        def work() -> None:
            for number, end in ((1, out_end), (2, err_end)):
                os.dup2(end, number)
            for secret in secrets:
                secret.close()
            ours.close()
            for descriptor in (out, err, out_end, err_end):
                os.close(descriptor)
            become_untrusted(config, program)
            worker.run(theirs, config["work"])

        end_after(work)
    theirs.close()
    os.close(out_end)
    os.close(err_end)
    for descriptor in (out, err):
        os.set_blocking(descriptor, False)
    return Child(pid, os.pidfd_open(pid), ours, (out, err))


def become_untrusted(config: dict[str, Any], program: bytes) -> None:
    """Give up everything that untrusted code must not have; there is no way back."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    os.setsid()
    kernel.be_the_first_to_go()
    kernel.limit_resources(config["file_bytes"], config["address_space"])
    os.environ.clear()
    os.environ.update(config["environment"])
    os.chdir(config["work"])
    kernel.drop_capabilities()
    if program:
        kernel.install_filter(program)


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
    for _ in range(_PASSES):
        others = _namespace_mates(mine) if first else _descendants(os.getpid())
        if not others:
            return
        for pid in others:
            # Stopped first, so that none of them forks while the others are being killed.
            _kill(pid, _signal.SIGSTOP)
        for pid in others:
            _kill(pid, _signal.SIGKILL)
        reap(block=False)
        select.select([], [], [], 0.002)
    # They breed faster than they can be killed; with the first process the kernel ends all of them.
    os._exit(1)


def stop_mates() -> list[int]:
    """Stop every other process of this namespace, so that none sees or changes anything; return them.

    Those are stopped as well that are started meanwhile.
    """
    mine = kernel.pid_namespace_depth(os.getpid())
    stopped: list[int] = []
    for _ in range(_PASSES):
        running = [pid for pid in _namespace_mates(mine) if _state(pid)[0] not in "Tt"]
        if not running:
            break
        for pid in running:
            _kill(pid, _signal.SIGSTOP)
        stopped += running
    return stopped


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
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal() and name != "1")
    return [pid for pid in pids if kernel.pid_namespace_depth(pid) == depth and _state(pid)[0] not in "ZX"]


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
