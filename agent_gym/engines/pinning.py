"""Which of several servers a conversation goes to, so that each finds what it has read before in its cache."""

import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

_REMEMBERED = 4096
"""First prompts of which the server is known."""
_CROWD = 1.25
"""A server with more than this share of what would be fair gets no further conversation of a group."""


class Pins:
    """Gives conversations to servers: those that begin alike to the same one, unless it is crowded.

    Args:
        names: Of the servers.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._open = dict.fromkeys(names, 0)
        """Conversations at each server, those that are closed included."""
        self.usable = set(self._open)
        """Servers that get conversations; whoever knows takes names out and puts them back."""
        self._first: OrderedDict[int, str] = OrderedDict()

    def take(self, prompt_ids: Sequence[int]) -> str | None:
        """Return the server for a conversation that begins with these tokens; None where there is none."""
        if not self.usable:
            return None
        key = zlib.crc32(array("q", prompt_ids).tobytes())
        fair = (sum(self._open[name] for name in self.usable) + 1) / len(self.usable)
        name = self._first.get(key)
        if name is None or name not in self.usable or self._open[name] > _CROWD * fair + 1:
            name = min(self.usable, key=lambda each: (self._open[each], zlib.crc32(f"{each} {key}".encode())))
        self._first[key] = name
        self._first.move_to_end(key)
        if len(self._first) > _REMEMBERED:
            self._first.popitem(last=False)
        self.enter(name)
        return name

    def enter(self, name: str) -> None:
        """Count one conversation more at a server: a branch goes with its parent."""
        self._open[name] += 1

    def leave(self, name: str) -> None:
        """Count one conversation less."""
        self._open[name] -= 1
