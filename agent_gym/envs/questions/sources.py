"""Where the questions of an environment come from: a generator, files, or the hub; all look the same to it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from agent_gym.env import LazyTasks, Task
from agent_gym.envs.questions.files import Row, read_rows
from agent_gym.envs.questions.hub import HubData
from agent_gym.errors import ConfigError, DataError, UnknownIdError
from agent_gym.task_ids import number_in

SPLITS: Final = ("train", "valid", "test")
_ATTEMPTS: Final = 1000

T = TypeVar("T")
Data = str | Path | Mapping[str, str | Path]
"""A file, a name known to the hub, or a file for each split."""


class Source(ABC, Generic[T]):
    """Questions by task. Shared by environments; never changed once it is read."""

    @abstractmethod
    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split; none where the source has no such split."""

    @abstractmethod
    def find(self, task_id: str) -> Task:
        """Return the task with that id.

        Raises:
            UnknownIdError: There is none.
        """

    @abstractmethod
    def question(self, task: Task) -> T:
        """Return what a task asks."""

    def files(self) -> Mapping[str, Path]:
        """Return the files that it is read from, by a name that is the same on every machine."""
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Source[T]":
        return self


def split_of(text: str) -> str:
    """Return the split that a generated question belongs to, whatever it was drawn for: 8 in 10 are for training."""
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return "train" if (place := int.from_bytes(digest, "little") % 10) < 8 else SPLITS[place - 7]


def draw_for_split(split: str, make: Callable[[int], T], text: Callable[[T], str]) -> T:
    """Make questions until one belongs to the split, so that no other split has it.

    Args:
        split: One of `SPLITS`.
        make: Makes the question of an attempt, counted from 0; the same one every time.
        text: What two questions have in common that are the same.

    Raises:
        ConfigError: None of many does: there are too few different ones.
    """
    for attempt in range(_ATTEMPTS):
        if split_of(text(question := make(attempt))) == split:
            return question
    raise ConfigError(f"So few different questions can be generated that none is left for {split!r}: allow more kinds.")


class Generated(Source[T]):
    """Questions that are made when they are asked for. The ids are "train/0", "train/1" ...

    Args:
        make: Makes the question of a split and an index; the same one every time.
        count: How many a split has.
    """

    def __init__(self, make: Callable[[str, int], T], count: Callable[[str], int]) -> None:
        self._make = make
        self._count = count

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split; nothing is generated."""
        return LazyTasks(self._count(split), lambda index: Task(f"{split}/{index}", split))

    def find(self, task_id: str) -> Task:
        """Return the task with that id."""
        split, _, _ = task_id.partition("/")
        index = number_in(task_id, f"{split}/")
        if split not in SPLITS or index is None or index >= self._count(split):
            ends = ", ".join(f"'{split}/0' to '{split}/{self._count(split) - 1}'" for split in SPLITS)
            raise UnknownIdError(f"Unknown task {task_id!r}: the ids go from {ends}.")
        return Task(task_id, split)

    def question(self, task: Task) -> T:
        """Make what a task asks."""
        return self._make(task.split, number_in(task.id, f"{task.split}/") or 0)


class Loaded(Source[T]):
    """Questions from files or the hub, read when a split is first asked for. The ids are "test/" and the row's own.

    Args:
        data: A file; a file for each split, `{"train": path, "test": path}`; a name in `known`; or "owner/name" of
            the hub. A file alone is the split that is asked for by `split`.
        split: See `data`.
        known: Data sets that have a short name.
        read: Makes a question of a row, and the row's own id ("" where it has none); None for a row to leave out.

    Raises:
        ConfigError: A split is none of "train", "valid" and "test".
        DataError: There is no such file.
        UnknownIdError: It is neither a file nor a known name.
    """

    def __init__(
        self, data: Data, *, split: str, known: Mapping[str, HubData], read: Callable[[Row], tuple[str, T] | None]
    ) -> None:
        self._read = read
        self._hub: HubData | None = None
        self._paths: dict[str, Path] = {}
        self._questions: dict[str, dict[str, T]] = {}
        if isinstance(data, Mapping):
            self._paths = {name: Path(path) for name, path in data.items()}
        elif isinstance(data, str) and not Path(data).exists() and (hub := _hub_data(data, known)) is not None:
            self._hub = hub
        else:
            self._paths = {split: Path(data)}
        for name, path in self._paths.items():
            if name not in SPLITS:
                raise ConfigError(f"data has a file for {name!r}, which is no split: name train, valid or test.")
            if not path.is_file():
                raise DataError(f"There is no data file {path}: give the path of one.")

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split, reading it if need be."""
        ids = list(self._read_split(split))
        return LazyTasks(len(ids), lambda index: Task(ids[index], split))

    def find(self, task_id: str) -> Task:
        """Return the task with that id."""
        split, _, _ = task_id.partition("/")
        if split not in SPLITS or task_id not in self._read_split(split):
            known = [task for split in SPLITS for task in self._read_split(split)]
            raise UnknownIdError.of("task", task_id, known)
        return Task(task_id, split)

    def question(self, task: Task) -> T:
        """Return what a task asks."""
        return self._read_split(task.split)[task.id]

    def questions(self) -> list[T]:
        """Return those of all splits."""
        return [question for split in SPLITS for question in self._read_split(split).values()]

    def files(self) -> Mapping[str, Path]:
        """Return the file of each split."""
        return dict(self._paths)

    def _read_split(self, split: str) -> dict[str, T]:
        if split not in self._questions:
            self._questions[split] = self._parsed(split)
        return self._questions[split]

    def _parsed(self, split: str) -> dict[str, T]:
        where, rows = self._rows(split)
        questions: dict[str, T] = {}
        for number, row in enumerate(rows):
            try:
                found = self._read(row)
            except (KeyError, ValueError, TypeError) as error:
                raise DataError(f"Row {number + 1} of {where} is no question ({error}): correct the data.") from error
            if found is None:
                continue
            own_id, question = found
            task_id = f"{split}/{own_id or number}"
            if task_id in questions:
                raise DataError(f"Row {number + 1} of {where} has the id {own_id!r} of another row: give it its own.")
            questions[task_id] = question
        return questions

    def _rows(self, split: str) -> tuple[str, list[Row]]:
        """Return the rows of a split, and where they are from."""
        if self._hub is not None:
            return self._hub.path, self._hub.rows(split) if split in self._hub.splits else []
        path = self._paths.get(split)
        return str(path), read_rows(path) if path is not None else []


def _hub_data(name: str, known: Mapping[str, HubData]) -> HubData | None:
    """Return the data set of that name; None where it is the name of a file that is missing."""
    if name in known:
        return known[name]
    if Path(name).suffix:
        return None
    if name.count("/") == 1:
        return HubData.named(name)
    raise UnknownIdError.of("data set", name, known)
