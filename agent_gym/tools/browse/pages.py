"""Where the pages come from that an agent reads: the web, or the documents of a corpus."""

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urldefrag, urljoin

from agent_gym.errors import ToolError
from agent_gym.sandbox.base import clean
from agent_gym.tools.browse.decoding import decode, looks_binary
from agent_gym.tools.browse.extracting import Extractor
from agent_gym.tools.browse.fetching import Fetched, Fetcher
from agent_gym.tools.browse.plain import Link, read_html
from agent_gym.tools.search.base import Document

_LITTLE_TEXT = 200
"""An article is longer: where less is found, the page is something else, and all of its text is taken."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page as an agent reads it. Nothing in it can be trusted: it is what somebody wrote on the web."""

    url: str
    title: str
    text: str
    links: tuple[Link, ...] = ()
    """With targets that can be opened."""
    cut: bool = False
    """Whether the page is longer than may be read."""


class Pages(Protocol):
    """Opens pages; safe to call from many threads."""

    def open(self, url: str) -> Page:
        """Return a page.

        Raises:
            ToolError: It cannot be opened; the message is one sentence that the agent may read.
        """


class Corpus(Protocol):
    """Documents that can be had by their address, such as `agent_gym.tools.search.LocalIndex`."""

    def get(self, address: str) -> Document | None:
        """Return the document with this url or id, or None."""


class CorpusPages:
    """The documents of a corpus as pages, offline.

    Args:
        corpus: The documents.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def open(self, url: str) -> Page:
        """See `Pages.open`."""
        document = self._corpus.get(url)
        if document is None:
            raise ToolError(f"There is no page {url[:200]!r}: open one that a search has shown.")
        return Page(_cleaned(document.address), _cleaned(document.title), _cleaned(document.text))


class WebPages:
    """Pages of the public web: HTML as readable text, other text as it is.

    Args:
        fetcher: Gets the pages, and refuses those that are not public; see there for limits and exceptions.
        extractor: Takes the main text out of a page.

    Raises:
        MissingExtraError: trafilatura is not installed.
    """

    def __init__(self, fetcher: Fetcher | None = None, extractor: Extractor | None = None) -> None:
        self._fetcher = fetcher or Fetcher()
        self._extractor = extractor or Extractor()

    def open(self, url: str) -> Page:
        """See `Pages.open`."""
        fetched = self._fetcher.fetch(url)
        text = decode(fetched.body, fetched.content_type)
        if looks_binary(text):
            raise ToolError(f"The page {fetched.url[:200]!r} is no text that can be read.")
        if _is_html(fetched, text):
            return self._read(fetched, text)
        return Page(_cleaned(fetched.url), "", _cleaned(text), cut=fetched.cut)

    def close(self) -> None:
        """End the processes of the extractor."""
        self._extractor.close()

    def _read(self, fetched: Fetched, source: str) -> Page:
        plain = read_html(source)
        main = self._extractor.extract(source)
        text = main if len(main) >= min(_LITTLE_TEXT, len(plain.text)) else plain.text
        links = {_absolute(fetched.url, link.target): _cleaned(link.text) for link in reversed(plain.links)}
        shown = tuple(Link(text, target) for target, text in reversed(links.items()) if target)
        return Page(_cleaned(fetched.url), _cleaned(plain.title), _cleaned(text), shown, fetched.cut)


def _is_html(fetched: Fetched, text: str) -> bool:
    if fetched.content_type:
        return "html" in fetched.content_type.partition(";")[0]
    return text.lstrip()[:1] == "<"


def _absolute(base: str, target: str) -> str:
    """Return a link as a url without its fragment; nothing if it does not lead to a page."""
    try:
        url = urldefrag(urljoin(base, target)).url
    except ValueError:
        return ""
    return _cleaned(url) if url.startswith(("http://", "https://")) and url != urldefrag(base).url else ""


def _cleaned(text: str) -> str:
    """Return text that a terminal and a model may see: without control characters."""
    return clean(text.encode("utf-8", "replace"))
