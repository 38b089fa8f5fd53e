"""The tool with which an agent reads pages: it opens one, goes on in it, looks for words and for links."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from agent_gym.errors import ConfigError, ToolError
from agent_gym.tools.base import Tool
from agent_gym.tools.browse.pages import Page, Pages, WebPages
from agent_gym.tools.search.base import shorten
from agent_gym.tools.search.documents import cut_passages
from agent_gym.tools.search.words import document_words, query_words

_AROUND = 200
"""Characters shown on each side of what is found."""
_MOST_FOUND = 5
_MOST_LINKS = 40
_SHOWN_LINK = 300
_PASSAGE_WORDS = 80


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an episode stands: a page, and the chunk of it that was shown last."""

    page: Page
    chunks: tuple[tuple[int, int], ...]
    chunk: int = 0


class _Passage(NamedTuple):
    """A part of the text of a page, and the position in it that matters."""

    start: int
    end: int
    at: int


class BrowseTool(Tool):
    """Reads pages of the web or of a corpus, chunk by chunk. Its state is the page that is open.

    Args:
        pages: Where pages come from. `CorpusPages(index)` reads what a local index finds; by default it is the public
            web, through one `WebPages` for all the tools of a process.
        chunk_characters: Length of a chunk.

    Raises:
        MissingExtraError: No pages are given, and trafilatura is not installed.
        ConfigError: A chunk is shorter than 100 characters.
    """

    blocking = True
    shared = ("pages",)

    def __init__(self, pages: Pages | None = None, *, chunk_characters: int = 4000) -> None:
        if chunk_characters < 100:
            raise ConfigError(f"A chunk of a page needs at least 100 characters, not {chunk_characters}.")
        self.pages = _pages_of_the_web() if pages is None else pages
        self._chunk_characters = chunk_characters
        self._place: _Place | None = None

    def setup(self) -> None:
        """Begin an episode, in which no page is open."""
        self._place = None

    def run(self, url: str = "", action: Literal["open", "next", "find", "links"] = "open", query: str = "") -> str:
        """Read a page. A long page is shown in chunks; "next", "find" and "links" are about the page that is open.

        Args:
            url: The page to open.
            action: "open" a page, show the "next" chunk of it, "find" words in it, or list its "links".
            query: The words to find.
        """
        if action == "open" or url.strip():
            self._open(url.strip())
        place = self._current()
        if action == "find":
            return _find(place, query)
        if action == "links":
            return _links(place.page)
        if action == "next":
            if place.chunk + 1 >= len(place.chunks):
                raise ToolError("The page has no further chunk.")
            self._place = place = _Place(place.page, place.chunks, place.chunk + 1)
        return _shown(place)

    def _open(self, url: str) -> None:
        if not url:
            raise ToolError("There is no url: say which page to open.")
        page = self.pages.open(url)
        self._place = _Place(page, _chunks(page.text, self._chunk_characters))

    def _current(self) -> _Place:
        if self._place is None:
            raise ToolError("No page is open: open one first.")
        return self._place


@lru_cache(maxsize=1)
def _pages_of_the_web() -> WebPages:
    return WebPages()


def _shown(place: _Place) -> str:
    page = place.page
    start, end = place.chunks[place.chunk]
    head = [line for line in (shorten(page.title, _SHOWN_LINK), shorten(page.url, _SHOWN_LINK)) if line]
    head.append(f"[chunk {place.chunk + 1} of {len(place.chunks)}]")
    text = page.text[start:end].strip() or "(The page has no text.)"
    last = place.chunk + 1 == len(place.chunks)
    rest = ["(The page is longer than can be read; this is its beginning.)"] if page.cut and last else []
    return "\n".join([*head, "", text, *rest])


def _chunks(text: str, characters: int) -> tuple[tuple[int, int], ...]:
    """Cut text where a paragraph, a line or a word ends, if one does in the second half of a chunk."""
    chunks = []
    start = 0
    while len(text) - start > characters:
        end = start + characters
        for mark in ("\n\n", "\n", ". ", " "):
            at = text.rfind(mark, start + characters // 2, end)
            if at > 0:
                end = at + len(mark)
                break
        chunks.append((start, end))
        start = end
    return (*chunks, (start, len(text)))


def _find(place: _Place, query: str) -> str:
    words = query.split()[:50]
    if not words:
        raise ToolError("There is nothing to find: give words as the query.")
    text = place.page.text
    pattern = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    found = [match.span() for match in pattern.finditer(text)]
    if found:
        passages = _surroundings(found, len(text))
        times = "once" if len(found) == 1 else f"{len(found)} times"
        head = f"{shorten(query.strip(), _AROUND)!r} is in the page {times}."
    else:
        passages = _similar(text, query)
        head = f"{shorten(query.strip(), _AROUND)!r} is not in the page."
        if passages:
            head += " Passages with some of the words:"
    shown = [
        f"[chunk {_chunk_at(place, passage.at)}] … {_one_line(text[passage.start : passage.end])} …"
        for passage in passages[:_MOST_FOUND]
    ]
    if len(passages) > _MOST_FOUND:
        shown.append(f"({len(passages) - _MOST_FOUND} more passages are not shown.)")
    return "\n".join([head, *shown])


def _surroundings(found: list[tuple[int, int]], length: int) -> list[_Passage]:
    """Return what stands around the places; those near each other share a passage, if it stays short."""
    passages: list[_Passage] = []
    for at, end in found:
        start, end = max(at - _AROUND, 0), min(end + _AROUND, length)
        last = passages[-1] if passages else None
        if last and start <= last.end and end - last.start <= 6 * _AROUND:
            passages[-1] = _Passage(last.start, end, last.at)
        else:
            passages.append(_Passage(start, end, at))
    return passages


def _similar(text: str, query: str) -> list[_Passage]:
    """Return the passages with the most of the words, the best first."""
    wanted = set(query_words(query))
    passages = cut_passages(text, _PASSAGE_WORDS, _PASSAGE_WORDS // 4)
    counted = [(len(wanted.intersection(document_words(text[start:end]))), start, end) for start, end in passages]
    ranked = sorted((passage for passage in counted if passage[0]), key=lambda passage: (-passage[0], passage[1]))
    return [_Passage(start, end, start) for _, start, end in ranked[:3]]


def _chunk_at(place: _Place, position: int) -> int:
    return next((number for number, (_, end) in enumerate(place.chunks, 1) if position < end), len(place.chunks))


def _links(page: Page) -> str:
    if not page.links:
        return "The page has no links."
    lines = [f"- {link.text or '(no text)'}: {shorten(link.target, _SHOWN_LINK)}" for link in page.links[:_MOST_LINKS]]
    if len(page.links) > _MOST_LINKS:
        lines.append(f"({len(page.links) - _MOST_LINKS} more links are not shown.)")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())
