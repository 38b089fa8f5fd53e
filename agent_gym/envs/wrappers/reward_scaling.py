"""Brings rewards to another scale."""

from agent_gym.env import Info, TextEnv
from agent_gym.envs.wrappers.base import TextWrapper


class RewardScaling(TextWrapper):
    """Multiplies every reward, then cuts it to bounds.

    Args:
        env: The environment.
        scale: The factor.
        low: Smallest reward of a turn; None for no bound.
        high: Largest reward of a turn; None for no bound.

    Raises:
        ValueError: `low` is above `high`.
    """

    def __init__(
        self, env: TextEnv, *, scale: float = 1.0, low: float | None = None, high: float | None = None
    ) -> None:
        super().__init__(env)
        if low is not None and high is not None and low > high:
            raise ValueError(f"The lower bound {low} of a reward must not be above the upper one, {high}.")
        self.scale, self.low, self.high = scale, low, high

    def reward(self, reward: float, info: Info) -> float:
        """Return the reward on the new scale."""
        scaled = reward * self.scale
        if self.low is not None:
            scaled = max(scaled, self.low)
        return scaled if self.high is None else min(scaled, self.high)
