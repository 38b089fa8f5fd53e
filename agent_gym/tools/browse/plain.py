"""Text, title and links of HTML without a parser of trees: whatever the input, in time that grows with its length.

What a page must not be able to do, such as nest a million elements, has no effect here.
"""

import html
import re
from dataclasses import dataclass

# No part of it crosses a "<", and what it has matched it does not give back: each character is looked at once or twice.
_TAG = re.compile(r"""<(/?)([a-zA-Z][a-zA-Z0-9:-]*)((?:[^<>"']++|"[^"<]*"|'[^'<]*'|["'])*+)>|<!--|<[!?/][^<>]*>?""")
_HREF = re.compile(r"""(?:^|[\s"'])href\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
_SKIPPED = {
    name: re.compile(rf"</{name}\b[^<>]*>?", re.IGNORECASE)
    for name in ("script", "style", "noscript", "template", "svg", "iframe", "textarea", "title")
}
_BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote body br caption dd div dl dt fieldset figcaption figure footer form h1 h2 h3 "
        "h4 h5 h6 head header hr li main nav ol option p pre section table tbody tfoot thead tr ul",
    )
)
_CELLS = frozenset(("td", "th"))
_SPACE = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")
MOST_LINKS = 500
_LINK_TEXT = 200


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page."""

    text: str
    target: str
    """As it stands in the page; perhaps relative."""


@dataclass(frozen=True, slots=True)
class PlainPage:
    """What can be read of a page."""

    text: str
    title: str
    links: tuple[Link, ...]


def read_html(source: str) -> PlainPage:
    """Return text, title and links; scripts and styles are left out.

    Args:
        source: The HTML, however broken.
    """
    reader = _Reader()
    unclosed: set[str] = set()
    at = 0
    while (tag := _TAG.search(source, at)) is not None:
        reader.text(source[at : tag.start()])
        at = tag.end()
        if tag[0] == "<!--":
            end = source.find("-->", at)
            at = len(source) if end < 0 else end + 3
        elif tag[2] is None:
            continue
        elif (name := tag[2].lower()) in _SKIPPED and not tag[1] and name not in unclosed:
            closing = _SKIPPED[name].search(source, at)
            if closing is None:  # nor is any other of its kind from here on: none of them is looked for again
                unclosed.add(name)
                continue
            if name == "title":
                reader.set_title(source[at : closing.start()])
            at = closing.end()
        else:
            reader.tag(name, tag[3], closing=bool(tag[1]))
    reader.text(source[at:])
    return reader.page()


class _Reader:
    """Takes tags and the text between them."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._links: list[Link] = []
        self._title = ""
        self._target: str | None = None
        self._link_begins = 0

    def text(self, text: str) -> None:
        if text:
            self._parts.append(html.unescape(text.replace("\n", " ")))

    def set_title(self, text: str) -> None:
        if not self._title:
            self._title = _one_line(html.unescape(text))

    def tag(self, name: str, attributes: str, *, closing: bool) -> None:
        if name in _BLOCKS:
            self._parts.append("\n")
        elif name in _CELLS:
            self._parts.append(" ")
        elif name == "a":
            self._end_link()
            found = None if closing else _HREF.search(attributes)
            if found:
                self._target = html.unescape(found[1] or found[2] or found[3] or "").strip()
                self._link_begins = len(self._parts)

    def page(self) -> PlainPage:
        self._end_link()
        text = _LINES.sub("\n", _SPACE.sub(" ", "".join(self._parts))).strip()
        return PlainPage(text, self._title, tuple(self._links))

    def _end_link(self) -> None:
        if self._target and not self._target.startswith("#") and len(self._links) < MOST_LINKS:
            # The text of a link that is never closed is all that follows: only its beginning is of interest.
            text = "".join(self._parts[self._link_begins : self._link_begins + 50])
            self._links.append(Link(_one_line(text)[:_LINK_TEXT], self._target))
        self._target = None


def _one_line(text: str) -> str:
    return " ".join(text.split())
