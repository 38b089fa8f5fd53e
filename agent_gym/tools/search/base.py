"""What every way to search has in common: documents go in, hits come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agent_gym.sandbox.base import clean

_SHOWN_TITLE = 200
_SHOWN_ADDRESS = 500


@dataclass(frozen=True, slots=True)
class Document:
    """A page that can be found and read."""

    id: str
    text: str
    title: str = ""
    url: str = ""

    @property
    def address(self) -> str:
        """What it is opened by: its url, or its id where it has none."""
        return self.url or self.id


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search."""

    title: str
    url: str
    """What the page is opened by: a url, or the id of a document that has none."""
    text: str
    """The passage that was found, or what the search engine shows of the page."""
    score: float = 0.0
    """Larger is better; comparable only within one search of one backend."""


@runtime_checkable
class SearchBackend(Protocol):
    """Finds pages; safe to call from many threads."""

    def search(self, query: str, count: int) -> list[Hit]:
        """Return the hits of a query, the best first.

        Args:
            query: Any text; one in which there is nothing to search for has no hits.
            count: Hits at most.

        Raises:
            ToolError: The backend cannot answer; the message is one sentence that the agent may read.
        """


def show_hits(hits: Sequence[Hit], snippet_characters: int) -> str:
    """Return hits as numbered text: title, address and snippet, each on a line of its own and of bounded length."""
    shown = []
    for number, hit in enumerate(hits, 1):
        title, address = _one_line(hit.title, _SHOWN_TITLE), _one_line(hit.url, _SHOWN_ADDRESS)
        lines = [line for line in (title, address, _one_line(hit.text, snippet_characters)) if line]
        shown.append(f"{number}. " + "\n   ".join(lines))
    return "\n".join(shown)


def shorten(text: str, characters: int) -> str:
    """Cut text at the end of a word, with an ellipsis, so that it has so many characters at most."""
    if len(text) <= characters:
        return text
    kept = text[: characters - 1]
    words = kept.rstrip() if text[characters - 1].isspace() else kept.rpartition(" ")[0]
    # A text without spaces, as Chinese is, or with one near its beginning is cut where it is full.
    return (words if len(words) > characters // 2 else kept) + "…"


def _one_line(text: str, characters: int) -> str:
    return shorten(" ".join(clean(text.encode("utf-8", "replace")).split()), characters)
