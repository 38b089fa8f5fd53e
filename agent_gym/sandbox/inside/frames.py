"""Messages between processes that do not trust each other: lengths, a small JSON object, and raw bytes.

Nothing is unpickled, and a reader says how much it accepts. The json module is not imported: it, what it imports, and
others of the kind would take longer than all else that happens when a sandbox starts.
"""

from __future__ import annotations

import _json
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

Frame = tuple[dict[str, "Any"], bytes]

_LENGTHS = struct.Struct(">II")
_LONGEST_HEAD = 1024 * 1024


class FrameError(Exception):
    """What came is no message, or one that is too long."""


def pack(message: dict[str, Any], payload: bytes = b"") -> bytes:
    """Return a message as bytes."""
    head = _encoded(message).encode()
    return _LENGTHS.pack(len(head), len(payload)) + head + payload


class Reader:
    """Cuts a stream of bytes into messages.

    Args:
        longest: Bytes of payload that a message may have.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parts = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take some bytes; yield the messages that are complete.

        Raises:
            FrameError: It is no message.
        """
        self._parts += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        if len(self._parts) < _LENGTHS.size:
            return None
        head_length, payload_length = _LENGTHS.unpack_from(self._parts)
        if head_length > _LONGEST_HEAD or payload_length > self._longest:
            raise FrameError("a message is too long")
        start = _LENGTHS.size
        middle, end = start + head_length, start + head_length + payload_length
        if len(self._parts) < end:
            return None
        head, payload = bytes(self._parts[start:middle]), bytes(self._parts[middle:end])
        del self._parts[:end]
        message = _decoded(head)
        if not isinstance(message, dict):
            raise FrameError("a message is not an object")
        return message, payload


class _Rules:
    """How the scanner of the json module reads numbers and so on."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


_scan = _json.make_scanner(_Rules())  # type: ignore[arg-type]  # it takes any object with these attributes


def _decoded(head: bytes) -> object:
    try:
        text = head.decode()
        value, end = _scan(text, 0)
    except (ValueError, RecursionError, StopIteration) as error:
        raise FrameError("a message is not JSON") from error
    if end != len(text):
        raise FrameError("a message is not JSON alone")
    return value


def _encoded(value: object) -> str:
    if isinstance(value, str):
        return str(_json.encode_basestring_ascii(value))
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_encoded(key)}:{_encoded(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_encoded, value)) + "]"
    raise TypeError(f"{type(value).__name__} cannot be sent")
