"""Turns, resets and forks of every environment, and 64 ALFWorld episodes in flight in one process.

    python benchmarks/envs.py

Actions are drawn from the admissible ones beforehand, so that what is timed is the environment alone.
"""

import argparse
import random
import statistics
import time
from typing import Any

from agent_gym.env import TextEnv
from agent_gym.registry import make

EPISODES = 100
IN_FLIGHT = 64
ENVS: dict[str, dict[str, Any]] = {
    "alfworld tiny": {"id": "alfworld", "size": "tiny"},
    "alfworld official size": {"id": "alfworld", "size": "official"},
    "webshop": {"id": "webshop", "split": "test"},
}


def main() -> None:
    """Print a row an environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(f"{'environment':<24}{'turns/s':>12}{'worst turn':>13}{'reset':>11}{'fork':>11}")
    for name, options in ENVS.items():
        env = make(**options)
        walks = [record_walk(env, seed) for seed in range(EPISODES)]
        resets, turns = time_walks(env, walks)
        env.reset(seed=0)
        forks = [timed(env.fork) for _ in range(500)]
        print(
            f"{name:<24}{len(turns) / sum(turns):12,.0f}{1e3 * max(turns):10.2f} ms"
            f"{1e3 * statistics.median(resets):8.2f} ms{1e6 * statistics.median(forks):8.1f} us"
        )
    print(f"{IN_FLIGHT} ALFWorld episodes in flight: {in_flight():,.0f} turns/s in all")


def record_walk(env: TextEnv, seed: int) -> list[str]:
    """Return random admissible actions of an episode."""
    rng = random.Random(seed)
    _, info = env.reset(seed=seed)
    walk, ended = [], False
    while not ended:
        walk.append(rng.choice(info["admissible_actions"]))
        *_, terminated, truncated, info = env.step(walk[-1])
        ended = terminated or truncated
    return walk


def time_walks(env: TextEnv, walks: list[list[str]]) -> tuple[list[float], list[float]]:
    """Return the seconds of every reset and of every turn."""
    resets, turns = [], []
    for seed, walk in enumerate(walks):
        resets.append(timed(lambda seed=seed: env.reset(seed=seed)))
        turns += [timed(lambda action=action: env.step(action)) for action in walk]
    return resets, turns


def in_flight() -> float:
    """Return turns a second where many episodes take turns one after the other."""
    envs = [make("alfworld", size="official") for _ in range(IN_FLIGHT)]
    walks = [record_walk(env, seed) for seed, env in enumerate(envs)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    started, turns = time.perf_counter(), 0
    for turn in range(max(map(len, walks))):
        for env, walk in zip(envs, walks, strict=True):
            if turn < len(walk):
                env.step(walk[turn])
                turns += 1
    return turns / (time.perf_counter() - started)


def timed(function: Any) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
