"""Reading one large JSON object piece by piece: its values one after the other, one list of it entry by entry."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from agent_gym.errors import DataError
from agent_gym.evaluation.exchange.archives import Limits

_BLOCK: Final = 2**20
_SPACE: Final = re.compile(r"[ \t\n\r]*")


def pieces(path: Path, streamed: str, limits: Limits) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of an object in their order; those of the list `streamed` one by one.

    Args:
        path: A file with one JSON object.
        streamed: Name of a value that is a list, whose entries are yielded under it.
        limits: How long a value may be, or an entry of the list.

    Raises:
        DataError: It is no JSON object, or a value is too long.
    """
    with path.open("rb") as file:
        try:
            yield from _Reader(file, path, limits).pieces(streamed)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} cannot be read as JSON ({error}): download or write it again.") from error


class _Reader:
    def __init__(self, file: IO[bytes], path: Path, limits: Limits) -> None:
        self._file, self._path, self._limits = file, path, limits
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False

    def pieces(self, streamed: str) -> Iterator[tuple[str, Any]]:
        self._expect("{")
        while self._peek() != "}":
            name = self._value()
            self._expect(":")
            if name == streamed and self._peek() == "[":
                self._expect("[")
                while self._peek() != "]":
                    yield name, self._value()
                    if self._peek() == ",":
                        self._expect(",")
                self._expect("]")
            else:
                yield name, self._value()
            if self._peek() == ",":
                self._expect(",")

    def _value(self) -> Any:
        """Read a value; where the text breaks off within it, twice as much of it, so that nothing is read often."""
        self._peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                # A number that ends where the text does may go on.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            except json.JSONDecodeError:
                if self._ended:
                    raise
            length = len(self._text) - self._at
            if length > self._limits.member:
                raise self._limits.too_long(f"A value in {self._path}")
            self._more(max(_BLOCK, length))

    def _peek(self) -> str:
        """Return the next character that is not a space."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                raise ValueError("it breaks off")
            self._more(_BLOCK)

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise ValueError(f"there should be {character!r}, not {self._text[self._at]!r}")
        self._at += 1

    def _more(self, count: int) -> None:
        block = self._file.read(count)
        self._ended = len(block) < count
        self._text = self._text[self._at :] + self._decode(block, self._ended)
        self._at = 0
