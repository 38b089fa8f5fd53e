"""What environments share whose tasks are seeds, and what those need that draw from the process's global generators."""

import io
import random
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, ClassVar, Final

import numpy as np

from agent_gym.env import LazyTasks, Task, TextEnv
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.task_ids import SEEDS_A_SPLIT, number_in, split_of_seed

_MARK: Final = "/seed-"
_LOCK: Final = threading.RLock()
"""Held while the process's generators are borrowed; an episode in another thread waits for it."""


class SeededEnv(TextEnv):
    """An environment whose tasks are seeds; the splits are disjoint ranges of them.

    Args:
        size: Tasks a split.
        **options: See `TextEnv`.

    Raises:
        ConfigError: The size is out of range.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")

    def __init__(self, *, size: int = SEEDS_A_SPLIT, **options: Any) -> None:
        super().__init__(**options)
        if not 1 <= size <= SEEDS_A_SPLIT:
            raise ConfigError(f"size must be from 1 to {SEEDS_A_SPLIT:,}, not {size}.")
        self._size = size

    @abstractmethod
    def _family(self, seed: int) -> str:
        """Return what the task of a seed is called before its seed."""

    def tasks(self, split: str) -> Sequence[Task]:
        """Return one task a seed; nothing is generated."""
        start = self.splits.index(split) * SEEDS_A_SPLIT
        return LazyTasks(self._size, lambda index: self._task(start + index, split))

    def find_task(self, task_id: str) -> Task:
        """Return the task of a seed.

        Raises:
            UnknownIdError: No split has such a task.
        """
        seed = number_in(task_id, task_id.rpartition(_MARK)[0] + _MARK)
        split = split_of_seed(seed, self.splits, self._size)
        if seed is not None and split is not None and task_id == self._task_id(seed):
            return self._task(seed, split)
        ends = ", ".join(f"{split} from {self.tasks(split)[0].id!r}" for split in self.splits)
        raise UnknownIdError(f"Unknown task {task_id!r}: there are {self._size:,} a split, {ends}.")

    def _task(self, seed: int, split: str) -> Task:
        return Task(self._task_id(seed), split, {"task_type": self._family(seed)})

    def _task_id(self, seed: int) -> str:
        return f"{self._family(seed)}{_MARK}{seed}"


def seed_of(task: Task) -> int:
    """Return the seed that a task's id names."""
    return int(task.id.rpartition(_MARK)[2])


class Dice:
    """Generators of an episode's own for code that draws from the global ones of `random` and `numpy.random`.

    Args:
        seed: From it everything follows that is drawn.
    """

    def __init__(self, seed: int) -> None:
        self._states: tuple[Any, Any] = (
            random.Random(seed).getstate(),
            np.random.RandomState(seed % 2**32).get_state(),
        )

    @contextmanager
    def on_the_table(self) -> Iterator[None]:
        """Let these stand in for the global generators; afterwards those are as they were.

        Code that is so free with what belongs to the whole process is apt to print, too; that is dropped.
        """
        with _LOCK, redirect_stdout(io.StringIO()):
            others = _global_states()
            _set_global_states(self._states)
            try:
                yield
            finally:
                self._states = _global_states()
                _set_global_states(others)


def _global_states() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()  # noqa: NPY002 - others draw from it


def _set_global_states(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002 - others draw from it
