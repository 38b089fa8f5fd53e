"""Turns, resets and forks of every environment, 64 ALFWorld episodes in flight, and the official engine beside ours.

    python benchmarks/envs.py [--games FILE]

Actions are drawn from the admissible ones beforehand, so that what is timed is the environment alone. Environments
whose extra is not installed are left out. benchmarks/scienceworld_speed.py has more on ScienceWorld.
"""

import argparse
import importlib.util
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from agent_gym.env import TextEnv
from agent_gym.envs.alfworld.reference import reference_installed
from agent_gym.registry import make

EPISODES = 100
SLOW_EPISODES = 5
IN_FLIGHT = 64
ROUNDS = 3
ENVS: dict[str, dict[str, Any]] = {
    "alfworld tiny": {"id": "alfworld", "size": "tiny"},
    "alfworld official size": {"id": "alfworld", "size": "official"},
    "webshop": {"id": "webshop", "split": "test"},
}
SLOW_ENVS: dict[str, dict[str, Any]] = {
    "textworld": {"id": "textworld", "challenge": "coin-collector"},
    "textworld, unlisted": {"id": "textworld", "challenge": "coin-collector", "admissible": False},
    "scienceworld": {"id": "scienceworld", "tasks": ["boil"]},
    "alfworld in a process": {"id": "alfworld", "size": "official", "worker": "process"},
}
"""Those that live in another process."""


def main() -> None:
    """Print a row an environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", help="official ALFWorld games; generated ones of the official size if not given")
    options = parser.parse_args()
    print(f"{'environment':<24}{'turns/s':>12}{'worst turn':>13}{'reset':>11}{'fork':>11}")
    for name, arguments in ENVS.items():
        measure(name, arguments, EPISODES, forks=500)
    for name, arguments in SLOW_ENVS.items():
        if arguments["id"] == "alfworld" or importlib.util.find_spec(arguments["id"]) is not None:
            measure(name, arguments, SLOW_EPISODES, forks=5)
    print(f"{IN_FLIGHT} ALFWorld episodes in flight: {in_flight():,.0f} turns/s in all")
    if reference_installed():
        compare_with_the_official_engine(options.games)


def measure(name: str, arguments: dict[str, Any], episodes: int, *, forks: int) -> None:
    """Print a row; walks come from an environment that lists its actions, whether this one does or not."""
    env = make(**arguments)
    lister = make(**{key: value for key, value in arguments.items() if key != "admissible"})
    walks = [record_walk(lister, seed) for seed in range(episodes)]
    resets, turns = time_walks(env, walks)
    env.reset(seed=0)
    children, times = [], []
    for _ in range(forks):
        times.append(timed(lambda: children.append(env.fork())))
        children.pop().close()
    print(
        f"{name:<24}{len(turns) / sum(turns):12,.0f}{1e3 * max(turns):10.2f} ms"
        f"{1e3 * statistics.median(resets):8.2f} ms{1e6 * statistics.median(times):8,.0f} us",
        flush=True,
    )
    env.close()
    lister.close()


def compare_with_the_official_engine(games: str | None) -> None:
    """Walk both engines through the same games, in turns; both list the admissible actions at each turn."""
    given: dict[str, Any] = {"games": games, "split": "valid_unseen"} if games else {"size": "official"}
    ours, official = make("alfworld", **given), make("alfworld", engine="textworld", **given)
    walks = [record_walk(ours, seed)[:20] for seed in range(ROUNDS)]
    rates: dict[str, list[float]] = {"ours": [], "official": []}
    resets: dict[str, list[float]] = {"ours": [], "official": []}
    for seed, walk in enumerate(walks):
        for name, env in (("official", official), ("ours", ours)):
            resets[name].append(timed(lambda env=env, seed=seed: env.reset(seed=seed)))
            rates[name].append(len(walk) / timed(lambda env=env, walk=walk: follow(env, walk)))
    for what, numbers, unit in (("turns/s", rates, "turns/s"), ("reset", resets, "s")):
        one, other = statistics.median(numbers["ours"]), statistics.median(numbers["official"])
        times = max(one, other) / min(one, other)
        print(f"ALFWorld {what}: official engine {other:,.3g} {unit}, ours {one:,.3g} {unit}: {times:,.0f} times")
    official.close()


def follow(env: TextEnv, walk: Sequence[str]) -> None:
    """Take the turns of a walk, reading what can be done at each."""
    for action in walk:
        env.step(action)[4]["admissible_actions"]


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
