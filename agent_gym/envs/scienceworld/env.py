"""ScienceWorld as a TextEnv: science experiments of elementary school, in text.

Source: Wang et al., "ScienceWorld: Is your Agent Smarter than a 5th Grader?", 2022. The simulator is the original one;
it runs in a Java process, which an environment starts at its first reset and shares with its forks, and with other
environments where there would be more processes than processors.
"""

import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal, Self, get_args

from agent_gym.env import State, Task, TextEnv
from agent_gym.envs.scienceworld.jvm import JavaError
from agent_gym.envs.scienceworld.simulator import Answer, Process, Simulator
from agent_gym.envs.scienceworld.tasks import EASY, SPLITS, check_simplification, find_names, find_task, list_tasks
from agent_gym.errors import ConfigError, EpisodeEnded, UnknownIdError

Reward = Literal["delta", "final", "success"]

_RESET_TASK = "reset task"
_REFUSAL = "This is not possible here."
_NOT_UNDERSTOOD = ("No known action matches that input.", "Unknown action.")
"""How the simulator's answer begins when an action is none, or does not answer the question that it has asked."""
_FILLERS = {"a", "an", "the"}
"""Words that the simulator overlooks."""
_LONGEST_ACTION = 1000


class ScienceWorldEnv(TextEnv):
    """Boil water, find a plant, build a circuit: thirty tasks in text, each in many variations, scored in steps.

    A task id is "boil/3": variation 3 of the task "boil". The world of a variation is always the same, and so is all
    that happens in it. Where an action can mean several things, the simulator asks which one, and the next action must
    be a number of its list; anything else takes the action back.

    `info` has, beside the usual keys, "task" (name), "variation", "raw_score" (0 to 100; -100 after a fatal mistake)
    and "moves" (what the simulator counts: waiting is several, an action that is none is not counted). "score" is
    progress in [0, 1] and need not begin at 0. "admissible_actions" are asked for when they are read (some 30 ms) and
    can be read until the next step.

    Args:
        tasks: The tasks to draw from, as "boil", "task-1-boil" or "1-1"; all if None.
        split: "train", "dev" or "test"; the variations of each task are divided 2 : 1 : 1.
        simplification: "easy" for those that suit the task, "" for none, or some of `SIMPLIFICATIONS` with commas.
        reward: "delta": what a turn adds to the score, over 100, and -1 for a fatal mistake; "final": the score over
            100 at the end, and 0 before; "success": 1 at the end where the score is 100, and 0 otherwise.
        max_turns: The episode is truncated after so many turns.
        heap: Largest size of the Java heap for one environment, in MB.
        call_timeout: Seconds that Java may take for a turn before it is ended.
        recycle: Episodes after which Java is started anew.
        processes: Java processes (some 350 MB each) before environments share them, up to 16 in one; as many as
            processors, and at least 2, if None. What happens to a process happens to all episodes in it.
        render_mode: "ansi" or None.

    Raises:
        UnknownIdError: No such task, split, simplification or kind of reward.
        ConfigError: A number is out of range, or the simplifications do not suit the tasks.
        MissingExtraError: At the first reset: the scienceworld package or Java is missing.
        WorkerError: From reset and step: the Java process has died, or did not answer in time and was ended; the next
            reset starts another.
    """

    splits: ClassVar[tuple[str, ...]] = SPLITS
    requirements: ClassVar[tuple[str, ...]] = ("scienceworld",)
    blocking: bool = True

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        split: str = "train",
        simplification: str = EASY,
        reward: Reward = "delta",
        max_turns: int = 100,
        heap: int = 256,
        call_timeout: float = 30.0,
        recycle: int = 200,
        processes: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(max_turns=max_turns, split=split, render_mode=render_mode)
        if reward not in get_args(Reward):
            raise UnknownIdError.of("reward", reward, get_args(Reward))
        self._processes = max(os.cpu_count() or 1, 2) if processes is None else processes
        for name, value, least in (("heap", heap, 64), ("recycle", recycle, 1), ("processes", self._processes, 1)):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}.")
        if call_timeout <= 0:
            raise ConfigError(f"call_timeout must be more than 0 seconds, not {call_timeout}.")
        self._names = find_names(tasks)
        self._simplification = check_simplification(simplification, self._names)
        self._reward: Reward = reward
        self._heap, self._call_timeout, self._recycle = heap, call_timeout, recycle
        self._simulator: Simulator | None = None
        self._solutions: dict[str, tuple[str, ...]] = {}
        self._goal = ""
        self._raw_score = self._moves = 0

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the variations of a split, task after task, without starting Java."""
        return list_tasks(self._names, split)

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id, from whichever split has it.

        Raises:
            UnknownIdError: It is none of the environment's tasks, or has no such variation.
        """
        return find_task(task_id, self._names)

    def expert(self) -> Iterator[str] | None:
        """Return the simulator's own solution of the current task, or None before the first `reset`.

        It is found by a second simulator, in a second or a few, and kept; the episode is not disturbed.

        Raises:
            WorkerError: The Java process has died, or did not answer in time and was ended.
        """
        if self.task is None:
            return None
        if self.task.id not in self._solutions:
            self._solutions[self.task.id] = self._solve(self.task)
        return iter(self._solutions[self.task.id])

    def same_observation(self, expected: str, found: str) -> bool:
        """Return whether two observations say the same, in whatever order they list things.

        The order is the same each time on the usual Java; on one that does not know the option for that, it is not.
        """
        return expected == found or _unordered(expected) == _unordered(found)

    def close(self) -> None:
        """Leave the Java process, which ends unless a fork still uses it."""
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = None
        self._ended = True

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        simulator = self._fresh_simulator()
        name, variation = task.metadata["task"], task.metadata["variation"]
        description, answer = simulator.load(name, variation, self._simplification)
        self._goal = _without_opening(description)
        self._note(answer)
        return f"{description}\n\n{answer.text}", self._state(simulator, task)

    def _act(self, action: str) -> tuple[str, State]:
        simulator, task = self._simulator, self.task
        if simulator is None or task is None:
            raise EpisodeEnded("There is no episode: call reset() first.")
        words = _sanitised(action)
        if _is_reset(words):
            # It would take back a fatal mistake, and with it the end of the episode.
            return _REFUSAL, self._state(simulator, task, invalid=True)
        before = self._raw_score
        try:
            answer = simulator.step(words)
        except JavaError as error:
            return f"This action is not possible: {error}", self._state(simulator, task, invalid=True)
        self._note(answer)
        invalid = answer.text.startswith(_NOT_UNDERSTOOD)
        return answer.text, self._state(simulator, task, before, completed=answer.completed, invalid=invalid)

    def _copy(self) -> Self:
        fresh = type(self)(
            tasks=self._names,
            split=self.split,
            simplification=self._simplification,
            reward=self._reward,
            max_turns=self.max_turns,
            heap=self._heap,
            call_timeout=self._call_timeout,
            recycle=self._recycle,
            processes=self._processes,
            render_mode=self.render_mode,
        )
        fresh._solutions = dict(self._solutions)
        if self._simulator is not None and self._simulator.process.has_room:
            fresh._simulator = Simulator(self._simulator.process)
        try:
            return self._replay_on(fresh)
        except BaseException:
            fresh.close()
            raise

    def _fresh_simulator(self) -> Simulator:
        """Return a simulator in a Java process that lives and is not due to be replaced."""
        if self._simulator is not None:
            process = self._simulator.process
            if not process.alive or process.episodes >= self._recycle:
                self._simulator.close()
                self._simulator = None
        if self._simulator is None:
            self._simulator = self._new_simulator()
        return self._simulator

    def _solve(self, task: Task) -> tuple[str, ...]:
        first = self._simulator
        second = Simulator(first.process) if first is not None and first.process.alive else self._new_simulator()
        try:
            return tuple(second.solve(task.metadata["task"], task.metadata["variation"], self._simplification))
        finally:
            second.close()

    def _new_simulator(self) -> Simulator:
        process = Process.joined(
            heap=self._heap, timeout=self._call_timeout, recycle=self._recycle, most=self._processes
        )
        try:
            return Simulator(process)
        finally:
            # The simulator has joined by itself.
            process.leave()

    def _note(self, answer: Answer) -> None:
        self._raw_score, self._moves = answer.score, answer.moves

    def _state(
        self,
        simulator: Simulator,
        task: Task,
        before: int | None = None,
        *,
        completed: bool = False,
        invalid: bool = False,
    ) -> State:
        score = self._raw_score
        terminated = completed or score < 0
        ended = terminated or self.turn >= self.max_turns
        return State(
            goal=self._goal,
            reward=self._rewarded(score if before is None else before, score, ended=ended),
            terminated=terminated,
            success=score == 100,
            score=max(score, 0) / 100,
            invalid_action=invalid,
            admissible=_listing(simulator),
            extra={
                "task": task.metadata["task"],
                "variation": task.metadata["variation"],
                "raw_score": score,
                "moves": self._moves,
            },
        )

    def _rewarded(self, before: int, score: int, *, ended: bool) -> float:
        if self._reward == "delta":
            return max((score - before) / 100, -1.0)
        if not ended:
            return 0.0
        return max(score, 0) / 100 if self._reward == "final" else float(score == 100)


def _listing(simulator: Simulator) -> Callable[[], list[str]]:
    """Return a function that lists the valid actions of this very moment."""
    moment = simulator.moment

    def listed() -> list[str]:
        return [action for action in dict.fromkeys(simulator.valid_actions(moment)) if not _is_reset(action)]

    return listed


def _sanitised(action: str) -> str:
    """Return what of an action is sent: no control characters, no lone surrogates, nothing where it is too long."""
    if len(action) > _LONGEST_ACTION:
        return ""
    return "".join(" " if ord(c) < 32 else c for c in action.encode("utf-8", "replace").decode())


def _is_reset(action: str) -> bool:
    return " ".join(word for word in action.lower().split() if word not in _FILLERS) == _RESET_TASK


def _without_opening(description: str) -> str:
    """Return what a description asks for: "Boil water" of "Your task is to boil water."."""
    goal = re.sub(r"\s+", " ", description).strip().removeprefix("Your task is to ").removesuffix(".")
    return goal[:1].upper() + goal[1:]


def _unordered(text: str) -> list[list[str]]:
    """Return the things that each line lists, sorted, and the lines sorted."""
    return sorted(
        sorted(re.findall(r"[^\s,.:()][^,.:()]*", line.replace("containing", ","))) for line in text.split("\n")
    )
