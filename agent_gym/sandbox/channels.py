"""Bytes between the host and the supervisor of a box."""

import math
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final, Protocol

ANSWER_SECONDS: Final = 15.0
"""What a supervisor may take besides the time of the code; it is trusted, but the machine may be busy."""


class BoxLost(Exception):  # noqa: N818 - no error of its own: whoever catches it decides what it was
    """A box has hung up, is silent, or talks nonsense."""


class Channel(Protocol):
    """Bytes to and from a supervisor."""

    def send(self, data: bytes, descriptors: Sequence[int], deadline: float) -> None:
        """Send all bytes (descriptors where it can) before a deadline of `time.monotonic`."""

    def receive(self, deadline: float) -> bytes:
        """Wait for some bytes; none at the end.

        Raises:
            TimeoutError: None came in time.
        """

    def close(self) -> None:
        """Hang up."""


class SocketChannel:
    """A Unix socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, data: bytes, descriptors: Sequence[int], deadline: float) -> None:
        """See `Channel.send`."""
        self._end.settimeout(max(0.001, deadline - time.monotonic()))
        sent = socket.send_fds(self._end, [data], descriptors) if descriptors else 0
        if sent < len(data):
            self._end.sendall(data[sent:])

    def receive(self, deadline: float) -> bytes:
        """See `Channel.receive`."""
        self._end.settimeout(max(0.001, deadline - time.monotonic()))
        return self._end.recv(1 << 18)

    def hung_up(self, seconds: float = 0.0) -> bool:
        """Wait, so long at most, until nobody is at the other end any more, or this one is closed; return whether."""
        descriptor = self._end.fileno()
        if descriptor < 0:
            return True
        poll = select.poll()
        poll.register(descriptor, 0)
        return bool(poll.poll(math.ceil(seconds * 1000)))

    def close(self) -> None:
        """See `Channel.close`."""
        self._end.close()


def sender_of(end: socket.socket, seconds: float = ANSWER_SECONDS) -> int:
    """Wait until something can be read, and return the id, here, of the process that wrote it; it is not consumed.

    Raises:
        BoxLost: Nothing came.
    """
    if not readable(end.fileno(), seconds):
        raise BoxLost(f"it has not begun within {seconds:g} s")
    data, ancillary, *_ = end.recvmsg(1, socket.CMSG_SPACE(struct.calcsize("iii")), socket.MSG_PEEK)
    for level, kind, value in ancillary:
        if data and level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(struct.unpack("iii", value)[0])
    raise BoxLost("it has hung up before it began")


def readable(descriptor: int, seconds: float) -> bool:
    """Wait, so long at most, until there is something to read, or an end; return whether there is."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(math.ceil(seconds * 1000)))
