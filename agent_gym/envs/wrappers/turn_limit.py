"""Ends episodes after a number of turns."""

from agent_gym.env import Info, TextEnv
from agent_gym.envs.wrappers.base import TextWrapper
from agent_gym.errors import EpisodeEnded


class TurnLimit(TextWrapper):
    """Truncates an episode after so many turns, if the environment's own limit does not do so before.

    Args:
        env: The environment.
        turns: The limit (at least 1).

    Raises:
        ValueError: The limit is below 1.
    """

    def __init__(self, env: TextEnv, *, turns: int) -> None:
        super().__init__(env)
        if turns < 1:
            raise ValueError(f"A limit of turns must be at least 1, not {turns}.")
        self.turns = turns
        self._over = False
        """Whether this limit, and not the environment, has ended the episode."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Apply one action.

        Raises:
            EpisodeEnded: The limit was reached before.
        """
        if self._over:
            raise EpisodeEnded(f"The episode ended after {self.turns} turns: call reset() before the next step().")
        observation, reward, terminated, truncated, info = super().step(action)
        self._over = not (terminated or truncated) and info["turn"] >= self.turns
        return observation, reward, terminated, truncated or self._over, info

    def _begin(self) -> None:
        self._over = False
