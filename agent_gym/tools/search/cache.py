"""Results of paid searches on the disk, shared by threads and processes."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from agent_gym.errors import ToolError
from agent_gym.tools.search.base import Hit

_BUSY_SECONDS = 10.0


class SearchCache:
    """Keeps the hits of searches in an sqlite file.

    A connection lives as long as one call: it is shared by no threads, and survives no fork.

    Args:
        path: The file; its folder is made.
        seconds: After so long a result is asked for anew; never by default.
        clock: Seconds since 1970; for tests.

    Raises:
        ToolError: The file cannot be made, or it is something else.
    """

    def __init__(
        self, path: Path | str, *, seconds: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = Path(path)
        self._seconds = seconds
        self._clock = clock
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ToolError(f"The search cache {path} cannot be made: {error}; name another file.") from error
        with self._connection() as connection:
            # A reader does not wait for a writer, and a process that is killed leaves no half of a row.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS searches (key TEXT PRIMARY KEY, hits TEXT, time REAL)")

    def get(self, key: str) -> list[Hit] | None:
        """Return the hits that were kept under a key, or None."""
        with self._connection() as connection:
            row = connection.execute("SELECT hits, time FROM searches WHERE key = ?", (key,)).fetchone()
        if row is None or (self._seconds is not None and self._clock() - row[1] > self._seconds):
            return None
        return [Hit(*fields) for fields in json.loads(row[0])]

    def put(self, key: str, hits: Sequence[Hit]) -> None:
        """Keep the hits of a key, over older ones."""
        row = (key, json.dumps([astuple(hit) for hit in hits]), self._clock())
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO searches VALUES (?, ?, ?)", row)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise ToolError(f"The search cache {self._path} cannot be used: {error}; name another file.") from error


def cache_key(**what: Any) -> str:
    """Return the key of a search: a digest of all that its result depends on, and of no secret."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
