"""Small environments for the tests; this module imports nothing heavy, so that worker processes begin at once."""

import copy
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from agent_gym.env import State, Task, TextEnv

WORDS = ("apple", "bread", "chair", "dish")


class WordEnv(TextEnv):
    """The observation names a word; saying it is worth 1. One turn."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(word, split) for word in (WORDS if split == "train" else ["elbow"])]

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        return f"say {task.id}", self._state()

    def _act(self, action: str) -> tuple[str, State]:
        right = action == self._word()
        return "done", self._state(reward=float(right), terminated=True, success=right, score=float(right))

    def _copy(self) -> Self:
        return copy.copy(self)

    def expert(self) -> Iterator[str]:
        return iter([self._word()])

    def _word(self) -> str:
        assert self.task is not None
        return self.task.id

    def _state(self, **values: Any) -> State:
        return State(goal=f"say {self._word()}", admissible=lambda: list(WORDS), **values)


class CountEnv(TextEnv):
    """Count "up" or "down" to 3; "stop" gives up, "crash" raises; every observation ends with a random number."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = 0
        self.rng = random.Random(0)
        self.closed = False

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(f"count {number}", split) for number in range(5)]

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        self.rng, self.value = rng, 0
        return self._said(), self._state()

    def _act(self, action: str) -> tuple[str, State]:
        if action == "crash":
            raise RuntimeError("the environment broke")
        known = action in ("up", "down", "stop")
        self.value += {"up": 1, "down": -1}.get(action, 0)
        won = self.value == 3
        ended = won or action == "stop"
        return self._said(), self._state(
            reward=float(won), terminated=ended, success=won, score=max(self.value, 0) / 3, invalid_action=not known
        )

    def _copy(self) -> Self:
        twin = copy.copy(self)
        twin.rng = random.Random()
        twin.rng.setstate(self.rng.getstate())
        return twin

    def expert(self) -> Iterator[str]:
        return iter(["up", "up", "up"])

    def close(self) -> None:
        self.closed = True

    def _said(self) -> str:
        return f"the number is {self.value}; {self.rng.randrange(100)}"

    def _state(self, **values: Any) -> State:
        value = self.value
        return State(goal="count to 3", admissible=lambda: ["up", "down", f"stop {value}"], **values)


class Numbered(CountEnv):
    """Says where it lies in memory: no two instances are alike."""

    def _said(self) -> str:
        return f"{id(self)}: {super()._said()}"


class Fragile(CountEnv):
    """Can be told to kill its own process, to hang, and to do either only while a file exists."""

    def _act(self, action: str) -> tuple[str, State]:
        word, _, path = action.partition(" unless ")
        if word in ("die", "hang") and not (path and Path(path).exists()):
            if path:
                Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL if word == "die" else signal.SIGSTOP)
        return super()._act("up" if word in ("die", "hang") else action)


class Waiting(CountEnv):
    """Says that it waits for another process."""

    blocking: ClassVar[bool] = True


class Limited(CountEnv):
    """Says how many turns it may take."""

    def _said(self) -> str:
        return f"{self.turn} of {self.max_turns}"


class Held(CountEnv):
    """Holds on in the first turn of one episode, until its folder has a file "go"; "held" then holds the process's id.

    Args:
        folder: The folder.
        hold_seed: Seed of that episode.
        hold_time: Which time that an episode of this seed is played.
    """

    def __init__(self, folder: str, hold_seed: int = -1, hold_time: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder, self.hold_seed, self.hold_time = Path(folder), hold_seed, hold_time

    def _act(self, action: str) -> tuple[str, State]:
        if self.turn == 1 and self.np_random_seed == self.hold_seed and not (self.folder / "go").exists():
            with (self.folder / "times").open("ab") as times:
                times.write(b".")
            if (self.folder / "times").stat().st_size == self.hold_time:
                self._hold()
        return super()._act(action)

    def _hold(self) -> None:
        (self.folder / "holding").write_text(str(os.getpid()))
        (self.folder / "holding").rename(self.folder / "held")
        deadline = time.monotonic() + 60
        while not (self.folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)


class Meeting(CountEnv):
    """Waits in its first turn until another one in the same process takes its own."""

    blocking: ClassVar[bool] = True
    met: ClassVar[threading.Barrier] = threading.Barrier(2)

    def _act(self, action: str) -> tuple[str, State]:
        if self.turn == 1:
            self.met.wait(20)
        return super()._act(action)
