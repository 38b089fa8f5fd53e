"""What all wrappers share: everything is the wrapped environment's, until a subclass changes it."""

import copy
import random
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Self

import numpy as np

from agent_gym.env import Info, State, Task, TextEnv


class TextWrapper(TextEnv):
    """An environment around another one.

    A subclass changes what the agent reads (`observation`), what the environment gets (`action`) or what a turn is
    worth (`reward`). What it remembers of the episode it forgets in `_begin` and copies in `_fork_memory`.

    Args:
        env: The environment to wrap; may be wrapped itself.
    """

    def __init__(self, env: TextEnv) -> None:
        # Not TextEnv's own __init__: the wrapped environment keeps the state of the episode.
        self.env = env
        self.splits = env.splits  # type: ignore[misc]
        self.task_noun = env.task_noun  # type: ignore[misc]
        self.blocking = env.blocking
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.render_mode = env.render_mode

    def __getattr__(self, name: str) -> Any:
        """Look up in the wrapped environment what the wrapper does not have."""
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    # -- what a subclass may change --------------------------------------------------------------------------------

    def observation(self, observation: str, info: Info) -> str:
        """Return what the agent reads instead of `observation`."""
        return observation

    def action(self, action: str) -> str:
        """Return what the environment gets instead of `action`."""
        return action

    def reward(self, reward: float, info: Info) -> float:
        """Return what the turn is worth instead of `reward`."""
        return reward

    def _begin(self) -> None:
        """Forget the episode before; called at every reset."""

    def _fork_memory(self, parent: Self) -> None:
        """Copy, in a fork, what the wrapper remembers of the episode; called on the child."""

    # -- the interface of TextEnv ----------------------------------------------------------------------------------

    @property
    def max_turns(self) -> int:
        """The wrapped environment's limit of turns."""
        return self.env.max_turns

    @max_turns.setter
    def max_turns(self, turns: int) -> None:
        self.env.max_turns = turns

    @property
    def np_random(self) -> np.random.Generator:
        """The wrapped environment's source of chance."""
        return self.env.np_random

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self.env.np_random = value

    @property
    def unwrapped(self) -> TextEnv:
        """The innermost environment."""
        inner: TextEnv = self.env.unwrapped  # type: ignore[assignment]
        return inner

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Begin an episode, see `TextEnv.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._begin()
        return self.observation(observation, info), info

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Apply one action, see `TextEnv.step`."""
        observation, reward, terminated, truncated, info = self.env.step(self.action(action))
        return self.observation(observation, info), self.reward(reward, info), terminated, truncated, info

    def fork(self) -> Self:
        """Return an independent twin, the wrapped environment included."""
        twin = copy.copy(self)
        twin.env = self.env.fork()
        twin.observation_space, twin.action_space = twin.env.observation_space, twin.env.action_space
        twin._fork_memory(self)
        return twin

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split."""
        return self.env.tasks(split)

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id."""
        return self.env.find_task(task_id)

    def content_of(self, task: Task) -> str:
        """Return what the wrapped environment's task says."""
        return self.env.content_of(task)

    def same_observation(self, expected: str, found: str) -> bool:
        """Return whether two observations say the same."""
        return self.env.same_observation(expected, found)

    def expert(self) -> Iterator[str] | None:
        """Return the actions that solve the current task."""
        return self.env.expert()

    def demonstrate(self, observation: str, rng: random.Random) -> Generator[str, str, object] | None:
        """Return the wrapped environment's demonstrator, who reads what that environment says itself."""
        policy = self.env.demonstrate(self.env._last_observation, rng)
        return None if policy is None else self._follow(policy)

    def _follow(self, policy: Generator[str, str, object]) -> Generator[str, str, object]:
        action = next(policy, None)
        while action is not None:
            yield action
            try:
                action = policy.send(self.env._last_observation)
            except StopIteration as end:
                return end.value
        return None

    def render(self) -> str | None:
        """Render the wrapped environment."""
        return self.env.render()

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        return self.env._start(task, rng)

    def _act(self, action: str) -> tuple[str, State]:
        return self.env._act(action)
