"""Writes down what happens, as text."""

import json
from pathlib import Path
from typing import Any, Self

from agent_gym.env import Info, TextEnv
from agent_gym.envs.wrappers.base import TextWrapper
from agent_gym.errors import StoreError


class EpisodeRecorder(TextWrapper):
    """Appends each episode to a file as one line of JSON: the task, and for each turn action, observation and reward.

    An episode is written when it ends, or as far as it went when the next one begins or the environment is closed.
    A fork records into the same file, its parent's turns included.

    Args:
        env: The environment.
        path: The file; made if it is not there.
    """

    def __init__(self, env: TextEnv, *, path: str | Path) -> None:
        super().__init__(env)
        self.path = Path(path)
        self._turns: list[dict[str, Any]] = []
        self._head: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Begin an episode.

        Raises:
            StoreError: The episode before cannot be written.
        """
        self._write(ended=False)
        observation, info = super().reset(seed=seed, options=options)
        self._head = {"task": info["task_id"], "goal": info["goal"], "seed": seed, "start": observation}
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Apply one action.

        Raises:
            StoreError: The episode has ended and cannot be written.
        """
        observation, reward, terminated, truncated, info = super().step(action)
        self._turns.append({"action": action, "observation": observation, "reward": reward})
        if terminated or truncated:
            self._write(ended=True, success=info["success"], score=info["score"])
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Write what there is of an episode, and close the environment."""
        self._write(ended=False)
        super().close()

    def _write(self, **outcome: Any) -> None:
        if self._turns:
            line = json.dumps({**self._head, **outcome, "turns": self._turns})
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:
                raise StoreError(f"{self.path} cannot be written: {error}; choose another path.") from error
        self._turns = []

    def _fork_memory(self, parent: Self) -> None:
        self._turns = list(parent._turns)
