"""Questions of mathematics, with Python or a calculator at hand."""

from agent_gym.envs.math.env import MathEnv

__all__ = ["MathEnv"]
