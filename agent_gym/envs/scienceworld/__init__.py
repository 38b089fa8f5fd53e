"""ScienceWorld: elementary science experiments in text, thirty tasks in 7,207 variations; needs Java.

`ScienceWorldEnv` is the environment, `TASKS` the tasks with their numbers of variations.
"""

from agent_gym.envs.scienceworld.env import ScienceWorldEnv
from agent_gym.envs.scienceworld.tasks import SIMPLIFICATIONS, TASKS

__all__ = ["SIMPLIFICATIONS", "TASKS", "ScienceWorldEnv"]
