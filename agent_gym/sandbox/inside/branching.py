"""Forking a box: new namespaces beside copies of its files, and a twin of its worker that moves there.

A process cannot be put into other namespaces from outside, and untrusted code must have no privilege to go there by
itself. What it may do without any is to enter a *user namespace that its own user has made* below its own; it has all
capabilities there and gives them up at once. Since it is in the hands of the code, it is only let in while its
supervisor looks on, who kills what has kept any.
"""

from __future__ import annotations

import _signal
import _socket
import os
import select
import time

from . import frames, kernel
from .copying import copy_folder
from .processes import Child, complain, continue_all, end_after, end_privileged, kill, stop_mates
from .streams import Requests, SocketStream, credential_pair, readable, receive_all, send_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Serve = Callable[[SocketStream, Requests, Child], None]

LONGEST_REQUEST = 128 * 1024 * 1024
_SECONDS = 10.0
_COPY_SECONDS = 30.0
_STAGE = "/mnt"


def branch(worker: Child, host: int, config: dict[str, Any], leave: Callable[[], None], serve: Serve) -> bool:
    """Fork the box of a worker; return whether that went well.

    Args:
        worker: It stays here; its twin goes to the new box.
        host: The new box's stream to the host.
        config: What both boxes are like.
        leave: Called in the new box's first process, to let go of what belongs to this one.
        serve: Called there, to serve the new box.
    """
    ours, theirs = credential_pair()
    channel, twin_channel = credential_pair()
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    stopped = stop_mates()
    try:
        if fork_box() == 0:

            def begin() -> None:
                listener = os.dup(worker.listener) if worker.listener is not None else None
                leave()
                for end in (ours, twin_channel):
                    end.close()
                for descriptor in (out_end, err_end):
                    os.close(descriptor)
                _begin(host, theirs, Child(0, -1, channel, (out, err), listener), config, serve)

            end_after(begin)
        theirs.close()
        supervisor, namespaces = _arrival(ours, _COPY_SECONDS)
        continue_all(stopped)
        if supervisor is None:
            return False
        pidfd = os.pidfd_open(supervisor)
        try:
            forked = _fork_worker(worker, [twin_channel.fileno(), out_end, err_end, *namespaces], ours)
            end_privileged()
            if not forked:
                kill(pidfd)
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


def _begin(host: int, parent: _socket.socket, worker: Child, config: dict[str, Any], serve: Serve) -> None:
    """Be the first process of a new box: fill it, let the worker in, and serve it."""
    stream = SocketStream(_socket.socket(fileno=host))
    stream.send(frames.pack({"hello": True}))
    requests = Requests(stream, LONGEST_REQUEST)
    # Before anything is copied the host has put this process into the new box's control group, which pays for it.
    if requests.next() is None:
        return
    mount_folders(config, copy=True)
    namespaces = kernel.open_namespaces()
    send_with(parent, b"!", namespaces)
    for descriptor in namespaces:
        os.close(descriptor)
    worker.pid = _welcome(worker)
    stream.send_for(worker.pid, frames.pack({"twin": True}))
    parent.send(b"!")
    parent.close()
    serve(stream, requests, worker)


def fork_box(user: int = 1000) -> int:
    """Fork; the child, where 0 is returned, is the first process of a new box."""
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
            copy_folder(folder, _STAGE)
            kernel.move_mount(_STAGE, folder)
        else:
            kernel.mount("tmpfs", folder, options)


def _fork_worker(worker: Child, descriptors: list[int], parent: _socket.socket) -> bool:
    """Have the worker fork, and let its twin go to the new box; return whether it has arrived."""
    deadline = time.monotonic() + _SECONDS
    reader = frames.Reader(0)
    poll = select.poll()
    for descriptor in (worker.channel.fileno(), parent.fileno(), worker.listener):
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
    answered = arrived = failed = False
    try:
        # The code may have stopped it.
        _signal.pidfd_send_signal(worker.pidfd, _signal.SIGCONT)
        send_with(worker.channel, frames.pack({"do": "fork"}), descriptors)
        while not (answered and (arrived or failed)):
            events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not events:
                raise TimeoutError("the worker does not fork")
            for descriptor, _ in events:
                if descriptor == worker.listener:
                    kernel.answer_call(descriptor, allow=not failed)
                elif descriptor == parent.fileno():
                    arrived = bool(parent.recv(1))
                    failed |= not arrived
                    poll.unregister(descriptor)
                elif (answer := read_answer(worker.channel, reader)) is not None:
                    answered = True
                    failed |= answer.get("forked") is not True
                    poll.unregister(descriptor)
    except (frames.FrameError, OSError) as error:
        # It may answer yet, when a cell's end is waited for: it must not go on.
        complain(error)
        kill(worker.pidfd)
        return False
    return not failed


def read_answer(channel: _socket.socket, reader: frames.Reader) -> dict[str, Any] | None:
    """Read what a worker has sent; return its answer, None while that is not complete.

    Raises:
        FrameError: It is no answer, or more than one, or the worker has hung up.
    """
    data = channel.recv(65536, _socket.MSG_DONTWAIT)
    if not data:
        raise frames.FrameError("the worker has hung up")
    answers = list(reader.feed(data))
    if len(answers) > 1:
        raise frames.FrameError("the worker has answered twice")
    return answers[0][0] if answers else None


def _welcome(worker: Child) -> int:
    """Wait for the twin; return its process id."""
    pid, unwanted = _arrival(worker.channel, _SECONDS)
    for descriptor in unwanted:
        os.close(descriptor)
    if pid is None or pid == os.getpid():
        raise OSError("no twin has arrived")
    worker.pidfd = os.pidfd_open(pid)
    worker.channel.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 0)
    for descriptor in worker.outputs:
        os.set_blocking(descriptor, False)
    return pid


def _arrival(channel: _socket.socket, seconds: float) -> tuple[int | None, list[int]]:
    """Wait for a byte; return the process that has sent it, or None, and the descriptors that came along."""
    if not readable(channel, seconds):
        return None, []
    _, descriptors, sender = receive_all(channel, 1)
    return sender, descriptors
