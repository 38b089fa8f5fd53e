"""Makes actions that do nothing cost something."""

from agent_gym.env import Info, TextEnv
from agent_gym.envs.wrappers.base import TextWrapper


class InvalidActionPenalty(TextWrapper):
    """Takes a penalty off the reward of each turn whose action did nothing.

    Args:
        env: The environment.
        penalty: What is taken off, 0.1 by default as in GiGPO (Feng et al., 2025).
    """

    def __init__(self, env: TextEnv, *, penalty: float = 0.1) -> None:
        super().__init__(env)
        self.penalty = penalty

    def reward(self, reward: float, info: Info) -> float:
        """Return the reward, less the penalty where the action did nothing."""
        return reward - self.penalty if info["invalid_action"] else reward
