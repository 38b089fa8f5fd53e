"""Any gymnasium environment of text as a TextEnv: tasks are seeds, and a fork plays the episode's actions again."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import gymnasium

from agent_gym.env import LazyTasks, State, Task, TextEnv
from agent_gym.errors import ConfigError, UnknownIdError, suggestion
from agent_gym.task_ids import SEEDS_A_SPLIT, number_in, split_of_seed

AnyEnv = gymnasium.Env[Any, Any]
Judge = Callable[[float, Mapping[str, Any]], bool]
"""Tells from the sum of an episode's rewards and the last info whether the task is solved."""

_SUCCESS_KEYS = ("success", "is_success", "won")
_ADMISSIBLE_KEYS = ("admissible_actions", "admissible_commands", "available_actions", "valid_actions")


def rewarded(total: float, info: Mapping[str, Any]) -> bool:
    """Return what the info says ("success", "is_success" or "won"), else whether the rewards add up to more than 0."""
    for key in _SUCCESS_KEYS:
        if key in info:
            return bool(info[key])
    return total > 0


class GymnasiumTextEnv(TextEnv):
    """Wraps a gymnasium environment whose observations and actions are text; see `TextEnv.from_gymnasium`.

    Args:
        env: An id that gymnasium knows, or a function that makes the environment.
        split: "train", "valid" or "test"; they are disjoint ranges of seeds.
        goal: What the agent is told to reach; may contain nothing that differs between tasks.
        success: Judges an episode when it ends.
        bad_action: What the environment raises on an action that it does not understand; it becomes an observation.
        max_turns: The episode is truncated after so many turns.
        render_mode: "ansi" or None.
        **kwargs: Arguments for `gymnasium.make`, where `env` is an id.

    Raises:
        UnknownIdError: gymnasium does not know the id.
        ConfigError: Its observations or actions are no text, an option is not known, or `env` is made already.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")

    def __init__(
        self,
        env: str | Callable[[], AnyEnv],
        *,
        split: str = "train",
        goal: str = "",
        success: Judge = rewarded,
        bad_action: tuple[type[Exception], ...] = (ValueError, KeyError),
        max_turns: int = 50,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_turns=max_turns, split=split, render_mode=render_mode)
        self._make = _maker(env, kwargs)
        self._goal, self._success, self._bad_action = goal, success, bad_action
        self._env = self._make()
        _check_text(self._env)
        self._total = 0.0

    def tasks(self, split: str) -> Sequence[Task]:
        """Return one task a seed."""
        start = self.splits.index(split) * SEEDS_A_SPLIT
        return LazyTasks(SEEDS_A_SPLIT, lambda index: Task(f"seed-{start + index}", split))

    def find_task(self, task_id: str) -> Task:
        """Return the task of a seed.

        Raises:
            UnknownIdError: The id is not "seed-N" with a seed of one of the splits.
        """
        split = split_of_seed(number_in(task_id, "seed-"), self.splits)
        if split is not None:
            return Task(task_id, split)
        raise UnknownIdError(f"Unknown task {task_id!r}: the ids go from 'seed-0' to 'seed-{3 * SEEDS_A_SPLIT - 1}'.")

    def close(self) -> None:
        """Close the wrapped environment."""
        self._env.close()

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        observation, info = self._env.reset(seed=int(task.id.removeprefix("seed-")))
        self._total = 0.0
        return str(observation), self._state(info)

    def _act(self, action: str) -> tuple[str, State]:
        try:
            observation, reward, terminated, truncated, info = self._env.step(action)
        except self._bad_action as error:
            return f"This action is not understood: {error}.", self._state({}, invalid_action=True)
        self._total += float(reward)
        ended = bool(terminated or truncated)
        success = ended and self._success(self._total, info)
        invalid = bool(info.get("invalid_action", False))
        state = self._state(info, float(reward), terminated=ended, success=success, invalid_action=invalid)
        return str(observation), state

    def _state(self, info: Mapping[str, Any], reward: float = 0.0, **values: Any) -> State:
        admissible = next((info[key] for key in _ADMISSIBLE_KEYS if info.get(key) is not None), None)
        listed = None if admissible is None else list(map(str, admissible))
        return State(
            goal=self._goal,
            reward=reward,
            score=float(values.get("success", False)),
            admissible=None if listed is None else lambda: list(listed),
            **values,
        )

    def _copy(self) -> Self:
        fresh = type(self)(
            self._make,
            split=self.split,
            goal=self._goal,
            success=self._success,
            bad_action=self._bad_action,
            max_turns=self.max_turns,
            render_mode=self.render_mode,
        )
        return self._replay_on(fresh)


_OPTIONS = ("split", "goal", "success", "bad_action", "max_turns", "render_mode")


def _maker(env: str | Callable[[], AnyEnv], kwargs: dict[str, Any]) -> Callable[[], AnyEnv]:
    if isinstance(env, gymnasium.Env):
        raise ConfigError(f"{env} is made already, and a fork needs a second one: give its class, or lambda: MyEnv().")
    if not isinstance(env, str):
        if kwargs:
            unknown = next(iter(kwargs))
            raise ConfigError(f"Unknown option {unknown!r} of TextEnv.from_gymnasium{suggestion(unknown, _OPTIONS)}")
        return env

    def make() -> AnyEnv:
        try:
            return gymnasium.make(env, **kwargs)
        except gymnasium.error.UnregisteredEnv as error:
            raise UnknownIdError(f"gymnasium does not know the environment {env!r}: {error}") from error

    return make


def _check_text(env: AnyEnv) -> None:
    for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not isinstance(space, gymnasium.spaces.Text):
            raise ConfigError(f"The {what} of {env} are {space}, not text: wrap it so that they become text.")
