"""Searches that were recorded: their queries are answered as they were then, offline."""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from agent_gym.tools.search.base import Document, Hit
from agent_gym.tools.search.documents import read_recording, recorded_pages
from agent_gym.tools.search.index import LocalIndex

_PREFIX = re.compile(r"^(search )?query:\s*")


class RecordedSearch:
    """Answers the queries of a recording.

    Args:
        recording: A file, see `read_recording`, or the text of the results of each query ("Page 1: ...").
        nearest: A query that was not recorded is answered as the one that shares the most telling words with it; its
            hits have that query as their title. Needs bm25s.

    Raises:
        DataError: The file cannot be read, or holds something else.
        MissingExtraError: `nearest` is asked for, and bm25s is not installed.
    """

    def __init__(self, recording: Mapping[str, str] | Path | str, *, nearest: bool = False) -> None:
        if not isinstance(recording, Mapping):
            recording = read_recording(Path(recording))
        self._pages = list(recording.values())
        self._queries = list(recording)
        self._numbers: dict[str, int] = {}
        for number, query in enumerate(recording):
            self._numbers.setdefault(_normalised(query), number)
        queries = (Document(id=str(number), text=query) for number, query in enumerate(recording))
        self._index = LocalIndex.build(queries) if nearest else None

    def __len__(self) -> int:
        return len(self._pages)

    def search(self, query: str, count: int) -> list[Hit]:
        """See `SearchBackend.search`; a query is recognised whatever its case, spaces and question mark."""
        number, title = self._numbers.get(_normalised(query)), ""
        if number is None and self._index is not None:
            number = next((int(hit.url) for hit in self._index.search(query, 1)), None)
            title = "" if number is None else self._queries[number]
        pages = [] if number is None else recorded_pages(self._pages[number])
        return [Hit(title, "", page) for page in pages[: max(count, 0)]]


def _normalised(query: str) -> str:
    words = " ".join(unicodedata.normalize("NFKC", query).casefold().split())
    return _PREFIX.sub("", words).rstrip(" ?.!")
