"""The way to the host: a socket, or the standard streams of a container; and sockets as far as they are needed here."""

from __future__ import annotations

import _socket
import os
import select
import struct

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Stream(Protocol):
        """Bytes to and from the host."""

        def receive(self) -> tuple[bytes, list[int]]:
            """Wait for bytes, and descriptors where they can be sent; no bytes at the end."""

        def send(self, data: bytes) -> None:
            """Send all of the bytes."""

        def close(self) -> None:
            """Let go of it."""


_PIECE = 65536
_MOST_DESCRIPTORS = 16
_CREDENTIALS = struct.Struct("iii")


class SocketStream:
    """A Unix socket; descriptors travel along."""

    def __init__(self, channel: _socket.socket) -> None:
        self._channel = channel

    def receive(self) -> tuple[bytes, list[int]]:
        """See `Stream.receive`."""
        data, descriptors, _ = receive_all(self._channel, _PIECE)
        return data, descriptors

    def send(self, data: bytes) -> None:
        """See `Stream.send`."""
        self._channel.sendall(data)

    def send_for(self, pid: int, data: bytes) -> None:
        """Send all of the bytes in the name of another process of this namespace."""
        credentials = _CREDENTIALS.pack(pid, os.getuid(), os.getgid())
        sent = self._channel.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS, credentials)])
        if sent < len(data):
            self._channel.sendall(data[sent:])

    def close(self) -> None:
        """See `Stream.close`."""
        self._channel.close()


class StandardStreams:
    """The standard input and output of this process, which nothing else must use from now on.

    The standard error stays, for last words; workers have their own.
    """

    def __init__(self) -> None:
        self._in, self._out = os.dup(0), os.dup(1)
        nothing = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1):
            os.dup2(nothing, number)
        os.close(nothing)

    def receive(self) -> tuple[bytes, list[int]]:
        """See `Stream.receive`."""
        return os.read(self._in, _PIECE), []

    def send(self, data: bytes) -> None:
        """See `Stream.send`."""
        left = memoryview(data)
        while left:
            left = left[os.write(self._out, left) :]

    def close(self) -> None:
        """See `Stream.close`."""
        os.close(self._in)
        os.close(self._out)


class Requests:
    """The messages that come over a stream, one at a time, with the descriptors that came along.

    Args:
        stream: Where they come from.
        longest: Bytes of payload that one may have.
    """

    def __init__(self, stream: Stream, longest: int) -> None:
        self._stream = stream
        self._reader = frames.Reader(longest)
        self._waiting: list[frames.Frame] = []

    def next(self) -> tuple[dict[str, Any], bytes, list[int]] | None:
        """Wait for a message; None when the host has hung up."""
        descriptors: list[int] = []
        while not self._waiting:
            data, more = self._stream.receive()
            if not data:
                return None
            descriptors += more
            self._waiting += self._reader.feed(data)
        message, payload = self._waiting.pop(0)
        return message, payload, descriptors


def send_with(channel: _socket.socket, data: bytes, descriptors: list[int]) -> None:
    """Send bytes and descriptors."""
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))
    sent = channel.sendmsg([data], [rights])
    if sent < len(data):
        channel.sendall(data[sent:])


def receive_all(channel: _socket.socket, size: int) -> tuple[bytes, list[int], int | None]:
    """Receive bytes, the descriptors that came along, and who has sent them, where the channel is told.

    A sender that cannot be seen from this namespace is no sender.
    """
    space = _socket.CMSG_SPACE(_CREDENTIALS.size) + _socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
    data, ancillary, *_ = channel.recvmsg(size, space, _socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    sender = None
    for level, kind, value in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_CREDENTIALS:
            sender = _CREDENTIALS.unpack(value)[0] or None
        elif level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors += struct.unpack(f"{len(value) // 4}i", value[: len(value) // 4 * 4])
    return data, descriptors, sender


def credential_pair() -> tuple[_socket.socket, _socket.socket]:
    """Return a socket pair whose first end is told by the kernel who writes to it."""
    ours, theirs = _socket.socketpair()
    ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    return ours, theirs


def readable(descriptor: int | _socket.socket, seconds: float) -> bool:
    """Wait until there is something to read, or the other end is closed, at most so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def close_all_but(*kept: int) -> None:
    """Close every descriptor but the standard ones and those that are named."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # that of the listing
