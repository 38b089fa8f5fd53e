"""Episodes in an SQLite file: written a batch at a time, read by anyone at any moment.

`schema` says what the tables hold.
"""

import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from agent_gym.errors import StoreError, UnknownIdError
from agent_gym.store import episodes, rows, schema, signals, spending
from agent_gym.store.episodes import EpisodeFilter, EpisodeRow, GroupRow, Order
from agent_gym.store.texts import with_storable_texts
from agent_gym.trajectory import Trajectory

_EVERYTHING = EpisodeFilter()


class TrajectoryStore:
    """The database of one run, to write and to read. Use it as a context manager, or close it.

    Args:
        path: The file; it is made where there is none, and brought up to date where an earlier version has written it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _speaking(path):
            self._connection = sqlite3.connect(path)
            # Readers and the one writer do not wait for each other, and a killed writer leaves whole transactions.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            # Every episode touches the same pages of the indexes: seldom moved to the file, they are so once for many.
            self._connection.execute("PRAGMA wal_autocheckpoint = 4000")
            if not schema.is_current(self._connection):
                self._upgrade("main")

    @property
    def _columns(self) -> str:
        """What to read of a whole episode; a file of an earlier version, opened to be read, lacks a column."""
        stored = {name for _, name, *_ in self._connection.execute("PRAGMA table_info(trajectories)")}
        return ", ".join(name if name in stored else f"NULL AS {name}" for name in rows.COLUMNS)

    @classmethod
    def reading(cls, path: Path) -> Self:
        """Open a database to read alone, while another process may be writing to it.

        The file is left as it is: the narrow table that one of an earlier version lacks is made in memory, of the
        episodes that there are at this moment. The store may move between threads, one at a time.

        Raises:
            StoreError: There is no such file, or it cannot be read.
        """
        if not path.is_file():
            raise StoreError(f"There are no episodes in {path.parent}: wait until the run has stored some.")
        store = cls.__new__(cls)
        store.path = path
        with _speaking(path):
            store._connection = _read_only(path)
            if not store._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'trajectories'").fetchone():
                store.close()
                raise StoreError(f"There are no episodes in {path.parent}: wait until the run has stored some.")
            if not schema.is_current(store._connection):
                store._upgrade("temp")
        return store

    # -- writing ---------------------------------------------------------------------------------------------------

    def add(self, trajectories: Sequence[Trajectory], *, step: int, phase: str) -> None:
        """Store episodes in one transaction: all of them or none.

        Args:
            trajectories: Their ids must be new, or are replaced.
            step: The training step that they belong to.
            phase: "train", or what they measure.

        Raises:
            StoreError: They cannot be written, or a number of theirs is too large.
        """
        # Of those with the same id the last one counts.
        unique = list({each.id: each for each in map(with_storable_texts, trajectories)}.values())
        with _speaking(self.path), self._connection:
            stored = [rows.row_of(trajectory, step, phase) for trajectory in unique]
            self._forget([trajectory.id for trajectory in unique])
            self._connection.executemany(rows.INSERT, stored)
            episodes.insert(self._connection, unique, step, phase)

    def add_signals(self, step: int, values: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        """Store, in one transaction, what training made of the tokens of episodes.

        Args:
            step: The training step that did.
            values: By the episode's id and the signal's name one number for each of the episode's tokens, (T,); what
                stands on tokens that the model did not generate is left out.

        Raises:
            StoreError: An episode is not stored or has another number of tokens, or they cannot be written.
        """
        with _speaking(self.path), self._connection:
            signals.insert(self._connection, step, values)

    def remove(self, ids: Sequence[str]) -> None:
        """Remove episodes with all that belongs to them; ids that there are none of are passed over."""
        with _speaking(self.path), self._connection:
            self._forget(ids)

    def forget_after(self, step: int) -> None:
        """Remove the episodes of later steps, and what later steps made of others."""
        with _speaking(self.path), self._connection:
            self._connection.execute("DELETE FROM signals WHERE step > ?", (step,))
            for table in ("signals", "trajectories"):
                later = "SELECT id FROM episodes WHERE step > ?"
                self._connection.execute(f"DELETE FROM {table} WHERE id IN ({later})", (step,))
            self._connection.execute("DELETE FROM episodes WHERE step > ?", (step,))

    def _forget(self, ids: Sequence[str]) -> None:
        for table in ("signals", "trajectories", "episodes"):
            self._connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(id,) for id in ids])

    # -- whole episodes --------------------------------------------------------------------------------------------

    def get(self, id: str) -> Trajectory:
        """Return one episode.

        Raises:
            UnknownIdError: There is none with that id.
        """
        with _speaking(self.path):
            row = self._connection.execute(f"SELECT {self._columns} FROM trajectories WHERE id = ?", (id,)).fetchone()
            if row is None:
                raise UnknownIdError.of("episode", id, self._neighbours(id))
        return rows.trajectory_of(row)

    def select(
        self, *, phase: str | None = None, step: int | None = None, limit: int = -1, newest: bool = False
    ) -> Iterator[Trajectory]:
        """Yield episodes in the order in which they were stored, or the newest first."""
        order: Order = "newest" if newest else "oldest"
        for row in self.episodes(EpisodeFilter(phase=phase, step=step), order=order, limit=limit):
            yield self.get(row.id)

    def signals(self, id: str) -> dict[str, list[float]]:
        """Return what training made of an episode's tokens; nothing where it was not trained on.

        Returns:
            By name one number for each token, (T,); 0 on all that the model did not generate.
        """
        with _speaking(self.path):
            return signals.read(self._connection, id)

    def row(self, id: str) -> EpisodeRow:
        """Return one episode as lists show it.

        Raises:
            UnknownIdError: There is none with that id.
        """
        with _speaking(self.path):
            found = episodes.one(self._connection, id)
            if found is None:
                raise UnknownIdError.of("episode", id, self._neighbours(id))
        return found

    # -- lists, see the module `episodes` --------------------------------------------------------------------------

    def episodes(
        self, wanted: EpisodeFilter = _EVERYTHING, *, order: Order = "newest", limit: int = 50, after: str | None = None
    ) -> list[EpisodeRow]:
        """Return a page of episodes.

        Args:
            wanted: Which ones.
            order: By the place in which they were stored, or by a number; episodes whose reward is not a number have
                no place in an order by it.
            limit: Episodes on the page, at most; -1 for all.
            after: `EpisodeRow.cursor` of the last one on the page before.

        Raises:
            StoreError: `after` belongs to another order, or the file cannot be read.
        """
        with _speaking(self.path):
            return episodes.page(self._connection, wanted, order, limit, after)

    def count_matching(self, wanted: EpisodeFilter = _EVERYTHING, *, at_most: int | None = None) -> int:
        """Return how many episodes match; counting stops at `at_most`."""
        with _speaking(self.path):
            return episodes.count(self._connection, wanted, at_most)

    def groups(
        self, wanted: EpisodeFilter = _EVERYTHING, *, limit: int = 50, after: str | None = None
    ) -> list[GroupRow]:
        """Return a page of groups, those with the newest matching episodes first.

        Args:
            wanted: Which episodes one of the group must be; the group's numbers are those of all its episodes.
            limit: Groups on the page, at most.
            after: `str(number)` of the last one on the page before.

        Raises:
            StoreError: The file cannot be read.
        """
        with _speaking(self.path):
            return episodes.groups(self._connection, wanted, limit, after)

    def count_groups(self, wanted: EpisodeFilter = _EVERYTHING, *, at_most: int | None = None) -> int:
        """Return how many groups have a matching episode; counting stops at `at_most`."""
        with _speaking(self.path):
            return episodes.count_groups(self._connection, wanted, at_most)

    def outcomes(self, phase: str | None = None, suite: str | None = None) -> Iterator[EpisodeRow]:
        """Yield all episodes of a phase or suite in the order in which they were stored, a row at a time."""
        with _speaking(self.path):
            yield from episodes.stream(self._connection, EpisodeFilter(phase=phase, suite=suite))

    def known(self, phase: str, suite: str | None = None) -> dict[str, str | None]:
        """Return the ids of the stored episodes, each with the error of one that failed."""
        query = "SELECT id, error FROM episodes WHERE phase = ?" + ("" if suite is None else " AND suite = ?")
        with _speaking(self.path):
            return dict(self._connection.execute(query, (phase,) if suite is None else (phase, suite)))

    def spent(self, phase: str) -> tuple[int, float]:
        """Return the tokens and the known dollars that a phase has used up, given up tries of its episodes included."""
        with _speaking(self.path):
            return spending.spent(self._connection, phase)

    def kinds(self) -> list[tuple[str, str, str]]:
        """Return the combinations of phase, suite and type of task that there are episodes of."""
        with _speaking(self.path):
            return episodes.kinds(self._connection)

    def steps(self) -> tuple[int, int]:
        """Return the first and the last step that there are episodes of; (0, 0) where there are none."""
        with _speaking(self.path):
            # Each minimum by itself: SQLite looks it up in the index.
            row = self._connection.execute(
                "SELECT (SELECT min(step) FROM episodes), (SELECT max(step) FROM episodes)"
            ).fetchone()
        return row[0] or 0, row[1] or 0

    def count(self, phase: str | None = None) -> int:
        """Return how many episodes there are."""
        return self.count_matching(EpisodeFilter(phase=phase))

    def phases(self) -> list[str]:
        """Return the phases that there are episodes of."""
        return sorted({phase for phase, _, _ in self.kinds()})

    # -- the file --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _upgrade(self, where: str) -> None:
        """Make what tables are missing, and fill the narrow one with the episodes that the file has already."""
        connection = self._connection
        with connection:
            connection.execute("BEGIN IMMEDIATE" if where == "main" else "BEGIN")
            if where == "main":
                schema.create(connection)
                connection.execute(f"PRAGMA user_version = {schema.VERSION}")
            else:
                schema.create_narrow(connection, where)
            missing = "WHERE id NOT IN (SELECT id FROM episodes)"
            for row in connection.execute(f"SELECT {self._columns} FROM trajectories {missing} ORDER BY rowid"):
                episodes.insert(connection, [with_storable_texts(rows.trajectory_of(row))], row[1], row[2])

    def _neighbours(self, id: str) -> list[str]:
        """Return the ids that stand around this one in their order: among a million, those that may have been meant."""
        before = self._connection.execute("SELECT id FROM episodes WHERE id < ? ORDER BY id DESC LIMIT 200", (id,))
        found = [name for (name,) in before]
        after = self._connection.execute("SELECT id FROM episodes WHERE id > ? ORDER BY id LIMIT 200", (id,))
        return found + [name for (name,) in after]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _read_only(path: Path) -> sqlite3.Connection:
    """Open a file to read; one that stands where nothing can be written is read as one that nobody writes to."""
    address = f"{path.resolve().as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True, check_same_thread=False)
    try:
        connection.execute("SELECT name FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        connection = sqlite3.connect(address + "&immutable=1", uri=True, check_same_thread=False)
    connection.execute("PRAGMA mmap_size = 2147418112")
    connection.execute("PRAGMA cache_size = -65536")
    return connection


@contextmanager
def _speaking(path: Path) -> Iterator[None]:
    """Turn an error of SQLite, or of what it is given, into a sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"The trajectories in {path} cannot be read or written ({error}): check that the disk has free space "
            "and that the file is a run's trajectories.sqlite, then go on with --resume."
        ) from error
    except (OverflowError, UnicodeError, struct.error) as error:
        raise StoreError(
            f"{path} cannot hold a number or a text of an episode ({error}): seeds have 64 bits, token ids 32, and "
            "texts must be UTF-8."
        ) from error
