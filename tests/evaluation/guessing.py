"""An environment and engines for the tests of evaluations; they work in the current folder and leave traces there."""

import asyncio
import copy
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from agent_gym.engines.base import Completion, Sampling, Usage
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.env import State, Task, TextEnv

TASKS = 30
ENDED = "ended.txt"
"""One line for each episode that has ended: its task and its seed."""
STOP = "stop.txt"
"""Where it is there, the process gets a signal when so many episodes have begun: the signal, how many, the count."""
BROKEN = "broken.txt"
"""Tasks that crash."""
HALFWAY = "halfway.txt"
"""Tasks that crash in their second turn."""


class Guess(TextEnv):
    """Three turns, whose end is left to the episode's chance."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(f"{split} {n}", split, {"task_type": "even" if n % 2 == 0 else "odd"}) for n in range(TASKS)]

    def content_of(self, task: Task) -> str:
        changed = Path("changed.txt")
        return f"guess {task.id}" + (changed.read_text() if changed.is_file() and task.id == "test 3" else "")

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        if Path(STOP).is_file():
            # A class of a file is loaded anew for each environment: they count together in a file.
            number, count, begun = map(int, Path(STOP).read_text().split())
            Path(STOP).write_text(f"{number} {count} {begun + 1}")
            if begun + 1 == count:
                os.kill(os.getpid(), number)
        if Path(BROKEN).is_file() and task.id in Path(BROKEN).read_text().split(","):
            raise RuntimeError("the table is broken")
        self._won = rng.random() < 0.5
        return "guess", State("guess", admissible=lambda: ["a", "b"])

    def _act(self, action: str) -> tuple[str, State]:
        assert self.task is not None
        if self.turn == 2 and Path(HALFWAY).is_file() and self.task.id in Path(HALFWAY).read_text().split(","):
            raise RuntimeError("the table breaks")
        if self.turn < 3:
            return f"{action}?", State("guess", admissible=lambda: ["a", "b"])
        with Path(ENDED).open("a") as file:
            file.write(f"{self.task.id} {self._episode_seed}\n")
        score = 1.0 if self._won else 0.25
        extra = {"answer": action}
        return "over", State("guess", reward=score, terminated=True, success=self._won, score=score, extra=extra)

    def _copy(self) -> Self:
        return copy.copy(self)


class Patient(ScriptedEngine):
    """Answers a little later, so that several episodes are in flight."""

    def __init__(self) -> None:
        super().__init__(["a", "b", "c"])

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        await asyncio.sleep(0)
        return await super().generate(prompt_ids, sampling, session)


class Silent(ScriptedEngine):
    """Answers the first episodes, and the others never."""

    answered = 6

    def __init__(self) -> None:
        super().__init__(["a"])

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        if self.answered == 0:
            await asyncio.Event().wait()
        self.answered -= 1
        return await super().generate(prompt_ids, sampling, session)


class Paid(ScriptedEngine):
    """Says what each request costs: a dollar."""

    def __init__(self) -> None:
        super().__init__(["a", "b", "c"])

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        completion = await super().generate(prompt_ids, sampling, session)
        completion.usage = Usage(10, 1, cost=1.0)
        return completion


def interrupt_at(folder: Path, count: int, number: signal.Signals) -> None:
    """Have the process that evaluates in a folder get a signal when so many episodes have begun."""
    (folder / STOP).write_text(f"{int(number)} {count} 0")
