"""TextEnv: a gymnasium environment whose observations and actions are text, and which can be forked.

Knows nothing of tokens, models or training.
"""

import copy
import math
import random
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, overload

import gymnasium
import numpy as np

from agent_gym.errors import EnvError, EpisodeEnded, ForkDiverged, UnknownIdError
from agent_gym.info import INFO_KEYS, Info

__all__ = ["INFO_KEYS", "AnyText", "Info", "LazyTasks", "State", "Task", "TextEnv"]


_WRITTEN = ("tasks", "_start", "_act")
"""Methods that every environment writes itself."""


class AnyText(gymnasium.spaces.Text):
    """A text space that holds every string up to a length.

    `gymnasium.spaces.Text` refuses spaces, punctuation and the empty string by default; an agent writes all of them.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length=max_length, min_length=0)

    def contains(self, x: object) -> bool:
        """Return whether `x` is a string of at most `max_length` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"


@dataclass(frozen=True, slots=True)
class Task:
    """One instance to solve: its id, its split, and what else is known about it before it is played."""

    id: str
    split: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


class LazyTasks(Sequence[Task]):
    """Tasks of a split that are made one at a time, when they are asked for.

    Args:
        count: How many there are.
        task_at: Makes the task at an index in [0, count).
    """

    def __init__(self, count: int, task_at: Callable[[int], Task]) -> None:
        self._count = count
        self._task_at = task_at

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Task: ...

    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...

    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self._task_at(i) for i in range(*index.indices(self._count))]
        return self._task_at(range(self._count)[index])


class TextEnv(gymnasium.Env[str, str]):
    """A text environment: `reset` gives an observation, `step` takes an action, `fork` makes an independent twin.

    A subclass writes `tasks`, `_start` and `_act`, and `_copy` where its state can be copied; the bookkeeping
    (turn limit, ended episodes, info keys, seeding) is done here, so that every environment behaves alike.

    Args:
        max_turns: The episode is truncated after so many turns (at least 1).
        split: The split that `reset` draws tasks from.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - gymnasium declares it so
        "render_modes": ["ansi"],
        "render_fps": 1,
    }
    splits: ClassVar[tuple[str, ...]] = ("train",)
    task_noun: ClassVar[str] = "task"
    """What one task is called when speaking to people."""
    checks: ClassVar[Mapping[str, str]] = {}
    """Checks of its own that `agent-gym check` runs after those for every environment: "module:function" by name."""
    requirements: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version decides what it says; a manifest records them."""
    isolate: ClassVar[bool] = False
    """Whether `agent_gym.make` runs it in a process of its own: it is not thread-safe, or can take the process down."""
    blocking: bool = False
    """Whether a turn waits for another process; rollouts then take it in a thread, so that others can go on."""

    def __init__(self, *, max_turns: int = 50, split: str = "train", render_mode: str | None = None) -> None:
        missing = [name for name in _WRITTEN if getattr(type(self), name) is getattr(TextEnv, name)]
        if missing:
            raise EnvError(f"{type(self).__name__} lacks {', '.join(missing)}: write {', '.join(_WRITTEN)}.")
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {max_turns}.")
        if split not in self.splits:
            raise UnknownIdError.of("split", split, self.splits)
        self.observation_space = AnyText(max_length=65536)
        self.action_space = AnyText(max_length=65536)
        self.max_turns = max_turns
        self.split = split
        self.render_mode = render_mode
        self.task: Task | None = None
        self.turn = 0
        self._ended = True
        self._last_observation = ""
        self._episode_seed = 0
        self._history: list[tuple[str, str]] = []
        """Actions of the episode and what they were answered, the first observation under an empty action."""

    # -- what a subclass writes ------------------------------------------------------------------------------------

    @abstractmethod
    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split, without loading them."""

    @abstractmethod
    def _start(self, task: Task, rng: random.Random) -> tuple[str, "State"]:
        """Begin `task`; return the first observation and the state of the episode."""

    @abstractmethod
    def _act(self, action: str) -> tuple[str, "State"]:
        """Apply `action`; return the observation and the new state. Must not raise on any string."""

    def _copy(self) -> Self:
        """Return a twin with its own copy of the episode's state; the default copies everything deeply.

        An environment that copies faster overrides this; one whose state cannot be copied (another process holds it)
        returns `self._replay_on(fresh)`, where `fresh` is a new instance made like this one.

        Raises:
            EnvError: An attribute cannot be copied.
        """
        try:
            return copy.deepcopy(self)
        except Exception as error:
            raise EnvError(
                f"{type(self).__name__} cannot be forked: {error}; write _copy, or make it with worker='process', "
                "which forks the whole process."
            ) from error

    def _replay_on(self, fresh: Self) -> Self:
        """Bring a new instance to this one's state by playing the episode's actions again.

        Raises:
            ForkDiverged: An observation differs from the one that was seen; the message names the turn.
        """
        if self.task is None:
            return fresh
        fresh.task = self.task
        for turn, (action, expected) in enumerate(self._history):
            if turn == 0:
                observation, _ = fresh._start(self.task, random.Random(self._episode_seed))
            else:
                observation, _ = fresh._act(action)
            if not fresh.same_observation(expected, observation):
                raise ForkDiverged(
                    f"Replaying task {self.task.id} gave another observation at turn {turn}: the environment is not "
                    "deterministic; make it draw from the generator that _start is given."
                )
        fresh._history, fresh._episode_seed = list(self._history), self._episode_seed
        return fresh

    def same_observation(self, expected: str, found: str) -> bool:
        """Return whether two observations say the same; overridden where the order of a listing is left to chance."""
        return expected == found

    def expert(self) -> Iterator[str] | None:
        """Return the actions that solve the current task from its start, or None where no oracle exists."""
        return None

    def demonstrate(self, observation: str, rng: random.Random) -> Generator[str, str, object] | None:
        """Return a policy for the episode that was just reset, or None where there is none.

        The generator yields actions and is sent observations. Where an environment can, its policy acts on what it has
        observed alone, as an agent must; the default repeats `expert()`, which may know more.

        Args:
            observation: The first observation.
            rng: The policy's own source of chance.
        """
        actions = self.expert()
        return _repeat(actions) if actions is not None else None

    def content_of(self, task: Task) -> str:
        """Return what a task says, without playing it; empty where that cannot be told.

        The same text means the same task: a suite's checksum is made of it, so that a change is noticed.
        """
        return ""

    def data_files(self) -> Mapping[str, Path]:
        """Return the files and folders that decide what it says, by a name that is the same on every machine."""
        return {}

    @staticmethod
    def from_gymnasium(env: "str | Callable[[], gymnasium.Env[Any, Any]]", **options: Any) -> "TextEnv":
        """Make a TextEnv of a gymnasium environment whose observations and actions are text.

        Args:
            env: An id that gymnasium knows, or a function that makes the environment.
            **options: See `agent_gym.gymnasium_env.GymnasiumTextEnv`: split, goal, success, max_turns ...
        """
        from agent_gym.gymnasium_env import GymnasiumTextEnv

        return GymnasiumTextEnv(env, **options)

    @property
    def held_out_split(self) -> str:
        """The split to measure on where none is named: "valid_unseen", "valid", "dev" or "test", else the last one."""
        usual = (split for split in ("valid_unseen", "valid", "dev", "test") if split in self.splits)
        return next(usual, self.splits[-1])

    # -- the gymnasium interface -----------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Begin an episode.

        Args:
            seed: Seeds the environment's own generator; the same seed gives the same task and the same episode.
            options: `{"task": id}` selects a task; otherwise the generator draws one from the split.

        Returns:
            The first observation and `info` with the keys of `INFO_KEYS`.

        Raises:
            UnknownIdError: No such task, or an option that the environment does not know.
            EnvError: `tasks` or `_start` is not as it must be.
        """
        super().reset(seed=seed)
        unknown = set(options or ()) - {"task"}
        if unknown:
            raise UnknownIdError.of("reset option", sorted(unknown)[0], ["task"])
        # Until the new episode has begun there is none: a reset that fails must not leave the old one to be played on.
        self._ended = True
        self.task = self._choose((options or {}).get("task"))
        self._episode_seed = int(self.np_random.integers(2**63))
        self.turn = 0
        observation, state = self._taken("_start", self.task, random.Random(self._episode_seed))
        self._ended = False
        self._last_observation = observation
        self._history = [("", observation)]
        return observation, self._info(state)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Apply one action; a bad action is an observation, never an exception.

        Raises:
            EpisodeEnded: The episode is over, or `reset` was never called.
            EnvError: `_act` is not as it must be.
        """
        if self._ended:
            raise EpisodeEnded("The episode has ended: call reset() before the next step().")
        self.turn += 1
        observation, state = self._taken("_act", action)
        terminated = bool(state.terminated)
        truncated = not terminated and self.turn >= self.max_turns
        self._ended = terminated or truncated
        self._last_observation = observation
        self._history.append((action, observation))
        return observation, state.reward, terminated, truncated, self._info(state)

    def fork(self) -> Self:
        """Return an independent environment in the same state, its random generator included.

        The parent and the child do not disturb each other.
        """
        child = self._copy()
        child.task, child.turn = self.task, self.turn
        child._ended, child._last_observation = self._ended, self._last_observation
        child._episode_seed, child._history = self._episode_seed, list(self._history)
        if self._np_random is not None:
            child._np_random = _copy_generator(self._np_random)
            child._np_random_seed = self._np_random_seed
        child.action_space = _copy_space(self.action_space)
        child.observation_space = _copy_space(self.observation_space)
        return child

    def render(self) -> str | None:
        """Return the last observation (render mode "ansi")."""
        return self._last_observation if self.render_mode == "ansi" else None

    # -- shared bookkeeping ----------------------------------------------------------------------------------------

    def _taken(self, method: str, *given: Any) -> "tuple[str, State]":
        """Call `_start` or `_act`; return what it gave, if that is an observation and a state."""
        try:
            answer = getattr(self, method)(*given)
        except SystemExit as error:
            # It would end the whole run, and all other episodes with it.
            raise EnvError(f"{type(self).__name__}.{method} ended the program: raise an error instead.") from error
        if type(answer) is tuple and len(answer) == 2:
            observation, state = answer
            sound = type(observation) is str and type(state) is State and type(state.reward) is float
            if sound and -math.inf < state.reward < math.inf:
                return observation, state
        from agent_gym.misfits import fitted

        return fitted(self, method, answer)

    def _choose(self, task_id: str | None) -> Task:
        from agent_gym.misfits import tasks_of

        tasks = tasks_of(self, self.split)
        if task_id is None and not tasks:
            raise UnknownIdError(f"The split {self.split!r} has no tasks: choose another split.")
        if task_id is None:
            return tasks[int(self.np_random.integers(len(tasks)))]
        return self.find_task(task_id)

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id, from whichever split has it.

        Raises:
            UnknownIdError: No split has it; the message names the nearest id.
        """
        known: list[str] = []
        for split in (self.split, *(s for s in self.splits if s != self.split)):
            for task in self.tasks(split):
                if task.id == task_id:
                    return task
                known.append(task.id)
        raise UnknownIdError.of("task", task_id, known)

    def _info(self, state: "State") -> Info:
        task = self.task
        return Info(
            {
                "task_id": task.id if task else "",
                "goal": state.goal,
                "success": bool(state.success),
                "score": state.score,
                "invalid_action": bool(state.invalid_action),
                "turn": self.turn,
                "admissible_actions": None,
                **state.extra,
            },
            {"admissible_actions": state.admissible} if state.admissible else None,
        )


@dataclass(slots=True)
class State:
    """What `_start` and `_act` report about the turn just made."""

    goal: str
    reward: float = 0.0
    terminated: bool = False
    success: bool = False
    score: float = 0.0
    """Progress in [0, 1]; 1 when solved."""
    invalid_action: bool = False
    admissible: Callable[[], Sequence[str]] | None = None
    """Computes the admissible actions of this very state when asked; None where there is no such list."""
    extra: dict[str, Any] = field(default_factory=dict)


def _copy_space(space: gymnasium.Space[str]) -> gymnasium.Space[str]:
    """Copy a space, so that drawing samples from one does not disturb the other."""
    twin = copy.copy(space)
    if space._np_random is not None:
        twin._np_random = _copy_generator(space._np_random)
    return twin


def _repeat(actions: Iterator[str]) -> Generator[str, str, object]:
    """Yield the actions whatever is observed."""
    for action in actions:  # noqa: UP028 - "yield from" would send the observations on to a plain iterator
        yield action
    return None


def _copy_generator(generator: np.random.Generator) -> np.random.Generator:
    twin = type(generator)(type(generator.bit_generator)())
    twin.bit_generator.state = generator.bit_generator.state
    return twin
