"""Programming tasks with hidden tests, judged in sandboxes that the agent has never touched."""

from agent_gym.envs.code.env import CodeEnv

__all__ = ["CodeEnv"]
