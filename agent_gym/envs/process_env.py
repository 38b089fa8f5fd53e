"""Any environment in a process of its own: what it crashes, hangs or scribbles on is that process alone.

It forks by forking the process, so that an environment which cannot be copied, forks all the same.
"""

import copy
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from agent_gym.env import LazyTasks, State, Task, TextEnv
from agent_gym.envs.host import Host
from agent_gym.errors import ConfigError, EpisodeEnded
from agent_gym.registry import importable, make


class ProcessEnv(TextEnv):
    """Runs an environment in a worker process; `agent_gym.make(id, worker="process")` makes one.

    The worker starts with the first question and is replaced at the reset after its death. Admissible actions are
    computed at every turn, asked for or not, and everything that the environment reports travels by pickle.

    Args:
        id: See `agent_gym.make`.
        call_timeout: Seconds that a turn may take before the worker is ended and the episode fails.
        **kwargs: Arguments of the environment.
    """

    blocking: bool = True

    def __init__(self, id: str, *, call_timeout: float = 60.0, **kwargs: Any) -> None:
        self._entry_point, own = importable(id, who="worker", otherwise="worker='inline'")
        self._kwargs = {**own, **kwargs}
        self._timeout = call_timeout
        self._host: Host | None = None
        self._episode_host: Host | None = None
        """Where the episode is played; a worker that was started since knows nothing of it."""
        self._policies = 0
        about = self._worker().call("about")
        self.splits = about.pop("splits")  # type: ignore[misc]
        self.task_noun = about.pop("task_noun")  # type: ignore[misc]
        super().__init__(**about)

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split; each crosses over when it is asked for."""
        return LazyTasks(self._worker().call("count", split), lambda index: self._worker().call("task", split, index))

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id.

        Raises:
            UnknownIdError: No split has it.
        """
        task: Task = self._worker().call("find_task", task_id)
        return task

    def expert(self) -> Iterator[str] | None:
        """Return the actions that solve the current task from its start, or None where no oracle exists."""
        actions = self._episode_host.call("expert") if self._episode_host is not None else None
        return None if actions is None else iter(actions)

    def demonstrate(self, observation: str, rng: random.Random) -> Generator[str, str, object] | None:
        """Return the environment's demonstrator; it acts in the worker."""
        self._policies += 1
        number = self._policies
        if not self._playing().call("demonstrate", number, observation, rng):
            return None
        return self._follow(number)

    def _follow(self, number: int) -> Generator[str, str, object]:
        observation: str | None = None
        while (action := self._playing().call("demonstrated", number, observation)) is not None:
            observation = yield action
        return None

    def same_observation(self, expected: str, found: str) -> bool:
        """Return whether two observations say the same."""
        return expected == found or bool(self._worker().call("same_observation", expected, found))

    def data_files(self) -> Mapping[str, Path]:
        """Return the files and folders that decide what it says."""
        files: Mapping[str, Path] = self._worker().call("data_files")
        return files

    def close(self) -> None:
        """Close the environment and end the worker."""
        if self._host is not None:
            self._host.close()
        self._host = self._episode_host = None

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        self._episode_host = self._worker()
        return _received(self._episode_host.call("start", task, rng, self.max_turns))

    def _act(self, action: str) -> tuple[str, State]:
        return _received(self._playing().call("act", action, self.turn, self.max_turns))

    def _playing(self) -> Host:
        if self._episode_host is None:
            raise EpisodeEnded("There is no episode yet: call reset() first.")
        return self._episode_host

    def _worker(self) -> Host:
        if self._host is None or not self._host.alive:
            self._host = Host(
                f"{__name__}:Hosted",
                self._entry_point,
                self._kwargs,
                timeout=self._timeout,
                preload=self._entry_point,
                name=self._entry_point,
            )
        return self._host

    def _copy(self) -> Self:
        twin = copy.copy(self)
        playing = self._episode_host or self._host
        twin._host = playing.fork() if playing is not None else None
        twin._episode_host = twin._host if self._episode_host is not None else None
        return twin


def _received(answer: tuple[str, State, list[str] | None]) -> tuple[str, State]:
    observation, state, admissible = answer
    if admissible is not None:
        state.admissible = lambda: list(admissible)
    return observation, state


class Hosted:
    """The worker's side: makes the environment and answers for it.

    Args:
        entry_point: "module:Class" or "file.py:Class".
        kwargs: Arguments of the environment.
    """

    def __init__(self, entry_point: str, kwargs: dict[str, Any]) -> None:
        self._env = make(entry_point, worker="inline", **kwargs)
        if self._env.blocking:
            self._env.close()
            raise ConfigError(
                f"{entry_point} has a process of its own already, which another around it could not fork: leave out "
                "worker='process'."
            )
        self._policies: dict[int, Generator[str, str, object]] = {}

    def about(self) -> dict[str, Any]:
        """Return what the other side must know from the beginning."""
        env = self._env
        return {name: getattr(env, name) for name in ("splits", "task_noun", "max_turns", "split", "render_mode")}

    def count(self, split: str) -> int:
        """Return how many tasks a split has."""
        return len(self._env.tasks(split))

    def task(self, split: str, index: int) -> Task:
        """Return a task of a split."""
        return self._env.tasks(split)[index]

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id."""
        return self._env.find_task(task_id)

    def data_files(self) -> dict[str, Path]:
        """Return the files and folders that decide what the environment says."""
        return dict(self._env.data_files())

    def expert(self) -> list[str] | None:
        """Return the actions that solve the current task."""
        actions = self._env.expert()
        return None if actions is None else list(actions)

    def demonstrate(self, number: int, observation: str, rng: random.Random) -> bool:
        """Begin a demonstration; return whether the environment has a demonstrator."""
        policy = self._env.demonstrate(observation, rng)
        # Only the latest is followed: an episode that was given up leaves its demonstrator behind.
        self._policies = {} if policy is None else {number: policy}
        return policy is not None

    def demonstrated(self, number: int, observation: str | None) -> str | None:
        """Return the demonstrator's next action, or None at the end."""
        policy = self._policies[number]
        try:
            return next(policy) if observation is None else policy.send(observation)
        except StopIteration:
            return None

    def same_observation(self, expected: str, found: str) -> bool:
        """Return whether two observations say the same."""
        return self._env.same_observation(expected, found)

    def start(self, task: Task, rng: random.Random, max_turns: int) -> tuple[str, State, list[str] | None]:
        """Begin a task."""
        self._env.task, self._env.turn, self._env.max_turns = task, 0, max_turns
        return _sent(*self._env._taken("_start", task, rng))

    def act(self, action: str, turn: int, max_turns: int) -> tuple[str, State, list[str] | None]:
        """Apply an action."""
        self._env.turn, self._env.max_turns = turn, max_turns
        return _sent(*self._env._taken("_act", action))

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _sent(observation: str, state: State) -> tuple[str, State, list[str] | None]:
    """Compute what is lazy: a function does not travel."""
    admissible = None if state.admissible is None else list(state.admissible())
    state.admissible = None
    return observation, state, admissible
