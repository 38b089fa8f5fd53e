"""The outcomes of many episodes in columns: read one row at a time, some 90 bytes an episode, none of its text."""

import math
from array import array
from collections.abc import Iterable, Iterator
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
_FLAGS = ("success", "failed", "limited", "retried", "answered")
_read_numbers = attrgetter(*_NUMBERS)


class Outcomes:
    """Episodes of one suite. Failed ones are kept, and enter no mean."""

    def __init__(self, rows: Iterable[EpisodeRow] = ()) -> None:
        self._places: dict[str, int] = {}
        self._types: list[str] = []
        self.env_ids: set[str] = set()
        self._tasks = array("i")
        self._answers = array("q")
        self._numbers = {name: array("d") for name in _NUMBERS}
        self._flags = {name: array("b") for name in _FLAGS}
        self._appends = [self._numbers[name].append for name in _NUMBERS]
        self._marks = [self._flags[name].append for name in _FLAGS]
        for row in rows:
            self.add(row)

    def add(self, row: EpisodeRow) -> None:
        """Take up one episode."""
        place = self._places.setdefault(row.task_id, len(self._types))
        if place == len(self._types):
            self._types.append(row.task_type)
        self._tasks.append(place)
        self.env_ids.add(row.env_id)
        for append, value in zip(self._appends, _read_numbers(row), strict=True):
            append(math.nan if value is None else value)
        answer = row.answer
        flags = (
            row.success,
            row.error is not None,
            row.truncated_by is not None,
            row.retried is not None,
            answer is not None,
        )
        for mark, holds in zip(self._marks, flags, strict=True):
            mark(holds)
        self._answers.append(0 if answer is None else _digest(answer))

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

    def votes(self) -> Iterator[tuple[list[tuple[int, int]], int]]:
        """Yield for each task how often each of its answers was given and was right, and the attempts without one."""
        used = ~self.flags("failed")
        tasks = np.array(self._tasks, dtype=np.int64)[used]
        answered, right = self.flags("answered")[used], self.flags("success")[used]
        silent = np.bincount(tasks[~answered], minlength=len(self._types)).tolist()
        tasks, answers, right = (
            tasks[answered],
            np.array(self._answers, dtype=np.int64)[used][answered],
            right[answered],
        )
        order = np.lexsort((answers, tasks))
        tasks, answers, right = tasks[order], answers[order], right[order]
        new = np.flatnonzero(np.diff(tasks, prepend=-1) | np.diff(answers, prepend=0)) if len(tasks) else order
        counts = np.diff(new, append=len(tasks)).tolist()
        wins = np.add.reduceat(right.astype(np.int64), new).tolist() if len(new) else []
        ends = np.cumsum(np.bincount(tasks[new], minlength=len(self._types))).tolist()
        start = 0
        for end, number in zip(ends, silent, strict=True):
            yield list(zip(counts[start:end], wins[start:end], strict=True)), number
            start = end


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

    def scores(self) -> Iterator[list[float]]:
        """Yield the values of each task."""
        start = 0
        for end in np.cumsum(self.counts).tolist():
            yield self.order[start:end].tolist()
            start = end

    def of_type(self, name: str) -> Booleans:
        """Return which tasks are of a type."""
        return np.asarray(np.array(self.types, dtype=object) == name, dtype=np.bool_)


def _digest(answer: str) -> int:
    """Return a number for an answer: answers of any length take eight bytes."""
    digest = blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
