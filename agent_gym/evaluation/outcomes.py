"""The outcomes of many episodes in columns: read one row at a time, some 90 bytes an episode, none of its text."""

import math
from array import array
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from operator import attrgetter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent_gym.store.episodes import EpisodeRow

Metric = Literal["success", "score", "reward"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


_NUMBERS = (
    "score",
    "reward",
    "turns",
    "generated_tokens",
    "prompt_tokens",
    "tool_calls",
    "invalid_actions",
    "entropy",
    "seconds",
    "cost",
)
_FLAGS: dict[str, Callable[[EpisodeRow], bool]] = {
    "success": lambda row: row.success,
    "failed": lambda row: row.error is not None,
    "limited": lambda row: row.truncated_by is not None,
    "retried": lambda row: row.retried is not None,
    "answered": lambda row: row.answer is not None,
}
_read_numbers = attrgetter(*_NUMBERS)


class Outcomes:
    """Episodes of one suite. Failed ones are kept, and enter no mean."""

    def __init__(self, rows: Iterable[EpisodeRow] = ()) -> None:
        self._places: dict[str, int] = {}
        self._types: list[str] = []
        self._tasks = array("i")
        self._answers = array("q")
        self._numbers = {name: array("d") for name in _NUMBERS}
        self._flags = {name: array("b") for name in _FLAGS}
        self._appends = [self._numbers[name].append for name in _NUMBERS]
        self._marks = [(self._flags[name].append, read) for name, read in _FLAGS.items()]
        for row in rows:
            self.add(row)

    def add(self, row: EpisodeRow) -> None:
        """Take up one episode."""
        place = self._places.setdefault(row.task_id, len(self._types))
        if place == len(self._types):
            self._types.append(row.task_type)
        self._tasks.append(place)
        for append, value in zip(self._appends, _read_numbers(row), strict=True):
            append(math.nan if value is None else value)
        for mark, holds in self._marks:
            mark(holds(row))
        self._answers.append(_digest(row.answer) if row.answer is not None else 0)

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def task_ids(self) -> list[str]:
        """The tasks in the order in which they were first seen."""
        return list(self._places)

    @property
    def task_types(self) -> list[str]:
        """The type of each task, "" where none is known."""
        return self._types

    def flags(self, name: str) -> Booleans:
        """Return "success", "failed", "limited", "retried" or "answered" of every episode, (episodes,)."""
        return np.array(self._flags[name], dtype=np.bool_)

    def numbers(self, name: str) -> Floats:
        """Return a number of every episode, NaN where it is unknown, (episodes,)."""
        return np.array(self._numbers[name], dtype=np.float64)

    def values(self, metric: Metric) -> Floats:
        """Return what is measured of every episode, (episodes,)."""
        return self.flags("success").astype(np.float64) if metric == "success" else self.numbers(metric)

    def tasks(self, metric: Metric = "success", *, failures_as: float | None = None) -> "Tasks":
        """Return what came of each task.

        Args:
            metric: What is measured.
            failures_as: What a failed episode counts as; by default it is left out.
        """
        failed = self.flags("failed")
        values = self.values(metric)
        if failures_as is None:
            used = ~failed & ~np.isnan(values)
        else:
            values = np.where(failed, failures_as, values)
            used = ~np.isnan(values)
        return Tasks.of(np.array(self._tasks, dtype=np.int64)[used], values[used], len(self._types), self._types)

    def votes(self) -> list[tuple[dict[Hashable, tuple[int, float]], int]]:
        """Return for each task its answers, with attempts and right ones of each, and the attempts without one."""
        used = ~self.flags("failed")
        tasks = np.array(self._tasks, dtype=np.int64)[used]
        answers = np.array(self._answers, dtype=np.int64)[used]
        answered, right = self.flags("answered")[used], self.flags("success")[used]
        found: list[tuple[dict[Hashable, tuple[int, float]], int]] = [({}, 0) for _ in self._types]
        keys = np.stack([tasks[answered], answers[answered]])
        kinds, places, counts = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
        successes = np.bincount(places.ravel(), weights=right[answered], minlength=kinds.shape[1])
        for (task, answer), count, won in zip(kinds.T.tolist(), counts.tolist(), successes.tolist(), strict=True):
            found[task][0][answer] = (count, won)
        silent = np.bincount(tasks[~answered], minlength=len(self._types))
        return [(votes, int(number)) for (votes, _), number in zip(found, silent, strict=True)]


@dataclass(frozen=True, slots=True)
class Tasks:
    """What came of each task, (tasks,) each; tasks without an attempt that counts have a count of 0."""

    counts: Integers
    """Attempts that count."""
    sums: Floats
    """Of their values."""
    types: list[str]
    order: Floats
    """The values of all attempts, task after task, (attempts,)."""

    @classmethod
    def of(cls, tasks: Integers, values: Floats, number: int, types: list[str]) -> "Tasks":
        """Group values by task.

        Args:
            tasks: The place of each value's task, (attempts,).
            values: (attempts,).
            number: How many tasks there are.
            types: The type of each.
        """
        counts = np.bincount(tasks, minlength=number)
        sums = np.bincount(tasks, weights=values, minlength=number).astype(np.float64)
        return cls(counts, sums, types, values[np.argsort(tasks, kind="stable")])

    @property
    def means(self) -> Floats:
        """The mean of each task, NaN where no attempt counts."""
        empty = np.full(len(self.sums), np.nan)
        return np.asarray(np.divide(self.sums, self.counts, out=empty, where=self.counts > 0), dtype=np.float64)

    def scores(self) -> list[Floats]:
        """Return the values of each task."""
        return np.split(self.order, np.cumsum(self.counts)[:-1]) if len(self.counts) else []

    def of_type(self, name: str) -> Booleans:
        """Return which tasks are of a type."""
        return np.array([type_ == name for type_ in self.types], dtype=np.bool_)


def _digest(answer: str) -> int:
    """Return a number for an answer: answers of any length take eight bytes."""
    digest = blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
