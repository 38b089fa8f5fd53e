"""TextWorld: games from files, and games that are generated when they are first asked for."""

from agent_gym.envs.textworld.env import TextWorldEnv
from agent_gym.envs.textworld.games import CHALLENGES

__all__ = ["CHALLENGES", "TextWorldEnv"]
