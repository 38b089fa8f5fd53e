"""Multi-hop questions that are answered by searching and reading: a generated world, or the usual data sets."""

from agent_gym.envs.search_qa.env import SearchQAEnv
from agent_gym.envs.search_qa.reward import arpo_reward

__all__ = ["SearchQAEnv", "arpo_reward"]
