"""ALFWorld's own checks: the official engine and ours walk through the same games and must say the same."""

import random

from agent_gym.envs.alfworld.env import AlfworldEnv
from agent_gym.envs.alfworld.reference import open_reference, reference_installed, walk_both
from agent_gym.envs.conformance import NotApplicableError
from agent_gym.envs.walks import MakeEnv

_GAMES = 6
_TURNS = 20


def check_official_engine(make: MakeEnv) -> str:
    """Walk both engines at random through games of the environment's split."""
    if not reference_installed():
        raise NotApplicableError("needs the official engine: pip install 'agent-gym[alfworld-reference]'")
    env = make().unwrapped
    if not isinstance(env, AlfworldEnv):
        env.close()
        raise NotApplicableError("runs on the environment itself: leave worker and wrappers out")
    tasks = env.tasks(env.split)
    host = open_reference()
    turns, games = 0, min(_GAMES, len(tasks))
    try:
        for number in range(games):
            task = tasks[number * (len(tasks) - 1) // max(games - 1, 1)]
            env.reset(seed=0, options={"task": task.id})
            turns += sum(1 for _ in walk_both(host, env.game, env.written(task.id), random.Random(number), _TURNS))
    finally:
        host.close()
        env.close()
    return f"{games} games and {turns} turns came out word for word the same"
