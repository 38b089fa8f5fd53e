"""Forking a box: new namespaces beside copies of its files, and a twin of its worker that moves there.

A process cannot be put into other namespaces from outside, and untrusted code must have no privilege to go there by
itself. What it may do without any is to enter a *user namespace that its own user has made* below its own; it has all
capabilities there, gives them up at once, and the new supervisor lets it run only after it has seen that they are gone.
"""

from __future__ import annotations

import _signal
import _socket
import os

from . import frames, kernel
from .processes import Child, continue_all, end_after, kill_all_of, stop_mates
from .streams import credential_pair, readable, receive_all, send_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SECONDS = 10.0
_STAGE = "/mnt"


def branch(
    worker: Child, descriptors: list[int], config: dict[str, Any], become: Callable[[_socket.socket, Child], None]
) -> bool:
    """Fork the box of a worker; return whether that went well.

    Args:
        worker: It stays here; its twin goes to the new box.
        descriptors: The new box's stream to the host, and where the twin announces itself to the host.
        config: What both boxes are like.
        become: Serves the new box, in its first process, over the stream and with the worker that are given.
    """
    host, announcement = descriptors
    ours, theirs = credential_pair()
    channel, twin_channel = credential_pair()
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    stopped = stop_mates()
    try:
        if fork_box() == 0:

            def begin() -> None:
                mount_folders(config, copy=True)
                send_with(theirs, b"!", kernel.open_namespaces())
                become(_socket.socket(fileno=os.dup(host)), _welcome(channel, (out, err)))

            end_after(begin)
        supervisor, namespaces = _arrival(ours)
        continue_all(stopped)
        if supervisor is None:
            return False
        pidfd = os.pidfd_open(supervisor)
        try:
            forked = _fork_worker(worker, [twin_channel.fileno(), out_end, err_end, announcement, *namespaces])
            if not forked:
                kill_all_of(pidfd)
            return forked
        finally:
            for descriptor in (pidfd, *namespaces):
                os.close(descriptor)
    finally:
        continue_all(stopped)
        for end in (ours, theirs, channel, twin_channel):
            end.close()
        for descriptor in (out, out_end, err, err_end):
            os.close(descriptor)


def fork_box(user: int = 1000) -> int:
    """Fork; the child, where 0 is returned, is the first process of a new box.

    It cannot be hidden at first: nothing untrusted that could see it may run now.
    """
    pid = kernel.fork_into_namespaces(user)
    if pid == 0:
        kernel.make_mounts_private()
    return pid


def mount_folders(config: dict[str, Any], *, copy: bool) -> None:
    """Mount the folders of a box: its own /proc, and memory for each folder that can be written.

    Args:
        config: What the box is like.
        copy: Begin with what the folders hold now.
    """
    kernel.raise_loopback()
    kernel.mount("proc", "/proc", flags=kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_EXEC)
    # All boxes of a pool would share the terminals of the outer one.
    kernel.mount("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620", kernel.NO_SUID | kernel.NO_EXEC)
    options = f"size={config['disk_bytes']},nr_inodes={config['files']},mode=1777"
    for folder in config["writable"]:
        if copy and os.listdir(folder):
            kernel.mount("tmpfs", _STAGE, options)
            _copy(folder, _STAGE)
            kernel.move_mount(_STAGE, folder)
        else:
            kernel.mount("tmpfs", folder, options)


def _copy(source: str, target: str) -> None:
    """Copy what is in a folder: links, queues, deep trees and holes in files; cp knows them all.

    Raises:
        OSError: Not everything could be copied.
    """
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    pid = os.posix_spawn("/bin/cp", ["cp", "-a", "--sparse=always", f"{source}/.", target], {})
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError(f"{source} cannot be copied")


def _fork_worker(worker: Child, descriptors: list[int]) -> bool:
    """Have the worker fork; return whether its twin has arrived."""
    try:
        send_with(worker.channel, frames.pack({"do": "fork"}), descriptors)
        if not readable(worker.channel, _SECONDS):
            return False
        for answer, _ in frames.Reader(1024).feed(worker.channel.recv(4096)):
            return answer.get("forked") is True
    except (frames.FrameError, OSError):
        pass
    return False


def _welcome(channel: _socket.socket, outputs: tuple[int, int]) -> Child:
    """Wait for the twin; it is let in when it has no privileges any more."""
    pid, _ = _arrival(channel)
    if pid is None:
        raise OSError("no twin has arrived")
    pidfd = os.pidfd_open(pid)
    others = [int(name) for name in os.listdir("/proc") if name.isdecimal() and name != "1"]
    if any(kernel.has_capabilities(other) for other in others):
        raise OSError("the twin has kept privileges")
    channel.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 0)
    for descriptor in outputs:
        os.set_blocking(descriptor, False)
    return Child(pid, pidfd, channel, outputs)


def _arrival(channel: _socket.socket) -> tuple[int | None, list[int]]:
    """Wait for a byte; return the process that has sent it, or None, and the descriptors that came along."""
    if not readable(channel, _SECONDS):
        return None, []
    _, descriptors, sender = receive_all(channel, 1)
    return sender, descriptors
