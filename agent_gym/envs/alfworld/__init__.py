"""ALFWorld: household tasks in text, simulated word for word like the official engine."""

from agent_gym.envs.alfworld.engine import Simulator
from agent_gym.envs.alfworld.env import AlfworldEnv
from agent_gym.envs.alfworld.loading import GameLibrary, load_games
from agent_gym.envs.alfworld.scene import TASK_TYPES, Game

__all__ = ["TASK_TYPES", "AlfworldEnv", "Game", "GameLibrary", "Simulator", "load_games"]
