"""One simulated world in a Java process that it may share with others.

The simulator's code keeps four things for the whole process: the generator of random numbers, the counter that numbers
new objects, the simplifications in force, and a table of type numbers that only grows and is read for listings in JSON
alone. Worlds that take turns would disturb each other through the first three, so each world has its own: what a turn
draws is decided before it, and the other two are exchanged when another world is at work.
"""

import importlib.metadata
import random
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from agent_gym.envs.scienceworld.jvm import Call, JavaError, Jvm, Reference
from agent_gym.errors import MissingExtraError, StaleInfo, WorkerError

_INTERFACE = "scienceworld.runtime.pythonapi.PythonInterface"
_IDENTIFIERS = "util.UniqueIdentifier"
_SIMPLIFIER = "main.scala.scienceworld.runtime.SimplifierProcessor"
_RANDOM = "scala.util.Random$"
_WORLDS = 16
"""Worlds in a process, at most: each needs some 12 MB, and what happens to the process happens to all of them."""
_MB_A_WORLD = 16
_GOLD_SECONDS = 300.0
"""What finding a solution may take, at least; on a busy machine it is half a minute for some tasks."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a turn came to."""

    text: str
    score: int
    """In [0, 100], or -100 after a fatal mistake."""
    completed: bool
    moves: int
    """Moves that the simulator has counted; not the same as turns."""


@dataclass(slots=True)
class _Globals:
    """What the simulator's code keeps once for the process and should keep once for each world."""

    identifiers: int = 0
    simplifications: str = ""


class Process(Jvm):
    """The Java process of simulators, which lets one world at a time use what is global in it.

    Args:
        heap: Largest size of the Java heap for one world, in MB; some more is allowed for others.
        timeout: Seconds that starting or one call may take.

    Raises:
        MissingExtraError: Java or the scienceworld package is missing.
        WorkerError: Java does not start.
    """

    _living: ClassVar["weakref.WeakSet[Process]"] = weakref.WeakSet()
    _guard: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, *, heap: int, timeout: float) -> None:
        self._at_work: _Globals | None = None
        self._made_with = heap, timeout
        self.episodes = 0
        """Worlds that were built in it."""
        super().__init__(_find_jar(), heap=heap + _MB_A_WORLD * (_WORLDS - 1), timeout=timeout)
        self.chance = self._find_chance()

    @classmethod
    def joined(cls, *, heap: int, timeout: float, recycle: int, most: int) -> "Process":
        """Return a process that the caller has joined: a new one, or where there are many, that with the fewest worlds.

        Args:
            heap: Largest size of the Java heap for one world, in MB.
            timeout: Seconds that starting or one call may take.
            recycle: Worlds after which nobody joins a process any more.
            most: New processes are started while there are fewer that could be joined, and where all are full.
        """
        with cls._guard:
            open_ = [p for p in cls._living if p.alive and p._made_with == (heap, timeout) and p.episodes < recycle]
            if len(open_) >= most:
                for process in sorted((p for p in open_ if p.has_room), key=lambda process: process.users):
                    if process.join():
                        return process
                    process.leave()
            process = cls(heap=heap, timeout=timeout)
            process.join()
            cls._living.add(process)
            return process

    @property
    def has_room(self) -> bool:
        """Whether another world can join."""
        return self.alive and self.users < _WORLDS

    def hand_over(self, globals_: _Globals) -> None:
        """Put a world's own values in the place of those of the world that was at work before it."""
        if self._at_work is globals_:
            return
        if self._at_work is not None:
            self._at_work.identifiers = self.call(_IDENTIFIERS, "count")
        self._at_work = globals_
        _, outcome = self.call_all(
            [
                Call(_IDENTIFIERS, "count_$eq", (globals_.identifiers,)),
                Call(_SIMPLIFIER, "parseSimplificationStr", (globals_.simplifications,)),
            ]
        )
        self.forget(outcome)

    def _find_chance(self) -> Reference:
        """Return the simulator's generator of random numbers."""
        loaded = self.call("java.lang.Class", "forName", _RANDOM)
        only = self.call(loaded, "getField", "MODULE$")
        generator = self.call(only, "get", None)
        self.forget(loaded, only)
        assert isinstance(generator, Reference)
        return generator


class Simulator:
    """A world in a Java process; it leaves the process when it is closed or garbage.

    Args:
        process: Where it lives.

    Raises:
        WorkerError: From here and from every method that calls Java: the process has died, or did not answer in time
            and was ended.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.moment = 0
        """Tells states of the world apart: it follows from the task and the actions, as the world does."""
        self._globals = _Globals()
        self._chance = random.Random(0)
        if not process.join():
            process.leave()
            raise WorkerError("The Java process of the simulator has ended: call reset() to start another.")
        try:
            self._world = process.construct(_INTERFACE)
        except BaseException:
            process.leave()
            raise
        self._finalizer = weakref.finalize(self, process.leave, self._world)

    def close(self) -> None:
        """Leave the process; the last one to leave ends it."""
        self._finalizer()

    def load(self, task: str, variation: int, simplification: str) -> tuple[str, Answer]:
        """Build the world of a task and look around in it.

        Returns:
            The description of the task, and what is seen.
        """
        with self.process.lock:
            self._load(task, variation, simplification, gold=False)
            # What is left to chance in an episode follows from the variation, as the world does.
            self._chance = random.Random(variation)
            description = str(self.process.call(self._world, "getTaskDescription"))
            return description, self.step("look around")

    def step(self, action: str) -> Answer:
        """Let the agent act.

        The generator of random numbers is set before each turn, because listing the valid actions draws from it:
        otherwise an episode would go another way when somebody had looked at the list.
        """
        self.moment = hash((self.moment, action))
        turn = [
            Call(self.process.chance, "setSeed", (self._chance.getrandbits(48),)),
            Call(self._world, "step", (action,)),
            Call(self._world, "getScore"),
            Call(self._world, "getCompleted"),
            Call(self._world, "getNumMoves"),
        ]
        with self.process.lock:
            self.process.hand_over(self._globals)
            _, text, score, completed, moves = self.process.call_all(turn)
        return Answer(str(text), round(100 * score), bool(completed), int(moves))

    def valid_actions(self, moment: int) -> list[str]:
        """Return the actions that are valid in the world as it was at `moment`.

        Raises:
            StaleInfo: The world has changed since.
        """
        with self.process.lock:
            if moment != self.moment or not self._finalizer.alive:
                raise StaleInfo(
                    "The admissible actions of an earlier turn were read after the world had changed: read "
                    "info['admissible_actions'] before the next step(), reset() or close()."
                )
            self.process.hand_over(self._globals)
            # Seeded so that two listings of the same moment are the same.
            self.process.call(self.process.chance, "setSeed", 0)
            return self._strings(self.process.call(self._world, "getValidActionObjectCombinations"))

    def solve(self, task: str, variation: int, simplification: str) -> list[str]:
        """Return the simulator's own solution of a task; the world that was there is lost."""
        with self.process.patience(_GOLD_SECONDS):
            self._load(task, variation, simplification, gold=True)
            return self._strings(self.process.call(self._world, "getGoldActionSequence"))

    def _load(self, task: str, variation: int, simplification: str, *, gold: bool) -> None:
        self.moment = hash((task, variation, simplification))
        self.process.episodes += 1
        self.process.hand_over(self._globals)
        error = self.process.call(self._world, "load", task, variation, simplification, gold)
        if error:
            raise JavaError(f"The simulator cannot load variation {variation} of task {task!r}: {error}.")
        used = str(self.process.call(self._world, "getSimplificationsUsed"))
        self._globals.simplifications = used.replace(" ", "")

    def _strings(self, listed: Any) -> list[str]:
        """Return the strings of a list in Java, in one round trip."""
        joined = str(self.process.call("java.lang.String", "join", "\n", listed))
        self.process.forget(listed)
        return [text for text in joined.split("\n") if text]


def _find_jar() -> Path:
    # The package itself is not imported: it would bring a client and settings that we do not use.
    try:
        found = importlib.metadata.distribution("scienceworld").locate_file("scienceworld/scienceworld.jar")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError.of("scienceworld", "ScienceWorld") from error
    return Path(str(found))
