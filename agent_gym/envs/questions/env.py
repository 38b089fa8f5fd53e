"""QuestionEnv: a ToolEnv whose tasks are the questions of a source."""

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from agent_gym.env import Task
from agent_gym.envs.questions.sources import SPLITS, Source
from agent_gym.envs.tool_env import AnyTool, ToolEnv
from agent_gym.errors import EpisodeEnded

T = TypeVar("T")


class QuestionEnv(ToolEnv, Generic[T]):
    """Asks the questions of a source. A subclass writes `_worded` and `_grade`.

    Args:
        source: Where the questions come from.
        tools: See `ToolEnv`.
        **options: See `ToolEnv`.
    """

    splits: ClassVar[tuple[str, ...]] = SPLITS

    def __init__(self, source: Source[T], tools: Sequence[AnyTool] = (), **options: Any) -> None:
        super().__init__(tools, **options)
        self._source = source
        self._question: T | None = None

    @abstractmethod
    def _worded(self, question: T) -> str:
        """Return a question as the agent reads it."""

    def _said(self, question: T) -> Sequence[str]:
        """Return what decides a question: what it asks, and what is right; nothing where that cannot be told."""
        return ()

    def _kind(self, question: T) -> str:
        """Return what kind of question it is, for tables; may be empty."""
        return ""

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the questions of a split; none where the data has no such split."""
        return self._source.tasks(split)

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id, from whichever split has it."""
        return self._source.find(task_id)

    @property
    def held_out_split(self) -> str:
        """The split to measure on where none is named: "valid" or "test" if the data has it, else what there is."""
        usual = (split for split in ("valid", "test", "train") if self.tasks(split))
        return next(usual, self.split)

    def content_of(self, task: Task) -> str:
        """Return a question and its right answers."""
        return "\n".join(self._said(self._source.question(task)))

    def data_files(self) -> Mapping[str, Path]:
        """Return the files that the questions are read from."""
        return self._source.files()

    def _ask(self, task: Task, rng: random.Random) -> str:
        self._question = self._source.question(task)
        if kind := self._kind(self._question):
            # Whether a question is generated or read, its kind is not known before.
            self.task = Task(task.id, task.split, {**task.metadata, "task_type": kind})
        return self._worded(self._question)

    def _asked(self) -> T:
        if self._question is None:
            raise EpisodeEnded("There is no question yet: call reset() first.")
        return self._question
