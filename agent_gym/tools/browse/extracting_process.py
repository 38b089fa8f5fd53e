"""The process that takes the text out of pages: HTML comes in through a socket, text goes out.

It gives up its right to files, to memory without end and to time without end before it reads the first page.
"""

import json
import resource
import signal
import socket
import struct
from collections.abc import Callable

_MEMORY_BYTES = 2 * 1024**3
_GRACE = 2.0
"""The parent gives up first; after so much more time the process ends by itself, in case that the parent is gone."""


def main(descriptor: int) -> None:
    """Answer pages until the other side closes the socket.

    Args:
        descriptor: Of the socket.
    """
    channel = socket.socket(fileno=descriptor)
    try:
        from trafilatura import extract
    except ImportError:
        _send(channel, {"ready": False})
        return
    _limit()
    _send(channel, {"ready": True})
    with channel, channel.makefile("rb") as stream:
        while head := stream.read(8):
            size, seconds = struct.unpack("!If", head)
            source = stream.read(size).decode("utf-8", "replace")
            signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
            _send(channel, {"text": _text(extract, source)})
            signal.setitimer(signal.ITIMER_REAL, 0)


def _limit() -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if most == resource.RLIM_INFINITY else min(limit, most),) * 2)


def _text(extract: Callable[..., str | None], source: str) -> str:
    try:
        return extract(source, include_comments=False, include_tables=True, output_format="txt") or ""
    except Exception:  # noqa: BLE001 - whatever a page makes it raise: then there is no text
        return ""


def _send(channel: socket.socket, answer: dict[str, object]) -> None:
    data = json.dumps(answer).encode()
    channel.sendall(struct.pack("!I", len(data)) + data)
