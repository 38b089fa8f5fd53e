"""Episodes in an SQLite file: written a batch at a time, read by anyone at any moment."""

import json
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from agent_gym.errors import StoreError, UnknownIdError
from agent_gym.trajectory import Trajectory, Turn

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trajectories (
    id TEXT PRIMARY KEY,
    step INTEGER NOT NULL,
    phase TEXT NOT NULL,
    group_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    env_id TEXT NOT NULL,
    seed INTEGER NOT NULL,
    goal TEXT NOT NULL,
    success INTEGER NOT NULL,
    score REAL NOT NULL,
    reward REAL NOT NULL,
    terminated INTEGER NOT NULL,
    truncated INTEGER NOT NULL,
    error TEXT,
    parent_id TEXT,
    branch_turn INTEGER,
    branch_offset INTEGER,
    final_observation TEXT NOT NULL,
    metadata TEXT NOT NULL,
    turns TEXT NOT NULL,
    token_ids BLOB NOT NULL,
    action_mask BLOB NOT NULL,
    logprobs BLOB NOT NULL,
    entropies BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_step ON trajectories (step, phase);
"""

_COLUMNS = (
    "id, step, phase, group_id, task_id, env_id, seed, goal, success, score, reward, terminated, truncated, error, "
    "parent_id, branch_turn, branch_offset, final_observation, metadata, turns, token_ids, action_mask, logprobs, "
    "entropies"
)


class TrajectoryStore:
    """The database of one run. Use it as a context manager, or close it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _speaking(path):
            self._connection = sqlite3.connect(path)
            # Readers and the one writer do not wait for each other, and a killed writer leaves whole transactions.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
            self._add_missing_columns()

    def add(self, trajectories: Sequence[Trajectory], *, step: int, phase: str) -> None:
        """Store episodes in one transaction: all of them or none.

        Args:
            trajectories: Their ids must be new, or are replaced.
            step: The training step that they belong to.
            phase: "train", or what they measure.

        Raises:
            StoreError: They cannot be written.
        """
        places = ", ".join("?" * (_COLUMNS.count(",") + 1))
        rows = [_row(trajectory, step, phase) for trajectory in trajectories]
        with _speaking(self.path), self._connection:
            self._connection.executemany(f"INSERT OR REPLACE INTO trajectories ({_COLUMNS}) VALUES ({places})", rows)

    def forget_after(self, step: int) -> None:
        """Remove the episodes of later steps."""
        with _speaking(self.path), self._connection:
            self._connection.execute("DELETE FROM trajectories WHERE step > ?", (step,))

    def get(self, id: str) -> Trajectory:
        """Return one episode.

        Raises:
            UnknownIdError: There is none with that id.
        """
        with _speaking(self.path):
            row = self._connection.execute(f"SELECT {_COLUMNS} FROM trajectories WHERE id = ?", (id,)).fetchone()
            if row is None:
                known = [name for (name,) in self._connection.execute("SELECT id FROM trajectories")]
                raise UnknownIdError.of("episode", id, known)
        return _trajectory(row)

    def select(
        self, *, phase: str | None = None, step: int | None = None, limit: int = -1, newest: bool = False
    ) -> Iterator[Trajectory]:
        """Yield episodes in the order of their steps, or the newest first."""
        clauses = [("phase = ?", phase), ("step = ?", step)]
        used = [(clause, value) for clause, value in clauses if value is not None]
        where = " WHERE " + " AND ".join(clause for clause, _ in used) if used else ""
        order = "step DESC, rowid DESC" if newest else "step, rowid"
        query = f"SELECT {_COLUMNS} FROM trajectories{where} ORDER BY {order} LIMIT ?"
        with _speaking(self.path):
            for row in self._connection.execute(query, [*(value for _, value in used), limit]):
                yield _trajectory(row)

    def count(self, phase: str | None = None) -> int:
        """Return how many episodes there are."""
        with _speaking(self.path):
            query = "SELECT COUNT(*) FROM trajectories" + (" WHERE phase = ?" if phase else "")
            return int(self._connection.execute(query, (phase,) if phase else ()).fetchone()[0])

    def phases(self) -> list[str]:
        """Return the phases that there are episodes of."""
        with _speaking(self.path):
            rows = self._connection.execute("SELECT DISTINCT phase FROM trajectories ORDER BY phase")
            return [phase for (phase,) in rows]

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _add_missing_columns(self) -> None:
        """Bring a file that an earlier version has written up to date."""
        known = {name for _, name, *_ in self._connection.execute("PRAGMA table_info(trajectories)")}
        for name in ("branch_offset",):
            if name not in known:
                self._connection.execute(f"ALTER TABLE trajectories ADD COLUMN {name} INTEGER")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def _speaking(path: Path) -> Iterator[None]:
    """Turn an error of SQLite into a sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"The trajectories in {path} cannot be read or written ({error}): check that the disk has free space "
            "and that the file is a run's trajectories.sqlite, then go on with --resume."
        ) from error


def _row(trajectory: Trajectory, step: int, phase: str) -> tuple[object, ...]:
    return (
        trajectory.id,
        step,
        phase,
        trajectory.group_id,
        trajectory.task_id,
        trajectory.env_id,
        trajectory.seed,
        trajectory.goal,
        trajectory.success,
        trajectory.score,
        trajectory.reward,
        trajectory.terminated,
        trajectory.truncated,
        trajectory.error,
        trajectory.parent_id,
        trajectory.branch_turn,
        trajectory.branch_offset,
        trajectory.final_observation,
        json.dumps(trajectory.metadata),
        json.dumps([asdict(turn) for turn in trajectory.turns]),
        array("i", trajectory.token_ids).tobytes(),
        bytes(trajectory.action_mask),
        array("f", trajectory.logprobs).tobytes(),
        array("f", trajectory.entropies).tobytes(),
    )


def _trajectory(row: Sequence[object]) -> Trajectory:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return Trajectory(
        task_id=str(values["task_id"]),
        env_id=str(values["env_id"]),
        id=str(values["id"]),
        group_id=str(values["group_id"]),
        seed=int(values["seed"]),  # type: ignore[call-overload]
        goal=str(values["goal"]),
        turns=[Turn(**turn) for turn in json.loads(str(values["turns"]))],
        token_ids=[int(number) for number in _numbers("i", values["token_ids"])],
        action_mask=list(values["action_mask"]),  # type: ignore[call-overload]
        logprobs=_numbers("f", values["logprobs"]),
        entropies=_numbers("f", values["entropies"]),
        final_observation=str(values["final_observation"]),
        success=bool(values["success"]),
        score=float(values["score"]),  # type: ignore[arg-type]
        terminated=bool(values["terminated"]),
        truncated=bool(values["truncated"]),
        error=None if values["error"] is None else str(values["error"]),
        parent_id=None if values["parent_id"] is None else str(values["parent_id"]),
        branch_turn=_integer(values["branch_turn"]),
        branch_offset=_integer(values["branch_offset"]),
        metadata=json.loads(str(values["metadata"])),
    )


def _integer(value: object) -> int | None:
    return None if value is None else int(value)  # type: ignore[call-overload]


def _numbers(kind: str, blob: object) -> list[float]:
    numbers = array(kind)
    numbers.frombytes(bytes(blob))  # type: ignore[call-overload]
    return list(numbers)
