"""Measures the ALFWorld simulator: turns a second, resets, forks and memory.

Generated games of official size by default, those of a file with `--games PATH`.
"""

import argparse
import random
import statistics
import time
import tracemalloc

from agent_gym.envs.alfworld import AlfworldEnv, Simulator

GAMES = 100
TURNS_PER_GAME = 200


def main() -> None:
    """Run every measurement and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", help="file or folder of games; generated games of official size by default")
    parser.add_argument("--split", default="train")
    arguments = parser.parse_args()
    started = time.perf_counter()
    env = AlfworldEnv(arguments.games, split=arguments.split, size="official", max_turns=10**9)
    print(f"open                             {1e3 * (time.perf_counter() - started):10.1f} ms")
    walks = [record_walk(env, seed) for seed in range(GAMES)]
    measure_resets(env)
    measure_turns(env, walks)
    measure_forks(env)
    measure_memory(env)


def record_walk(env: AlfworldEnv, seed: int) -> list[str]:
    """Return random admissible commands for the game of that seed; half of them are not "go to"."""
    rng = random.Random(seed)
    _, info = env.reset(seed=seed)
    walk = []
    for _ in range(TURNS_PER_GAME):
        commands = info["admissible_actions"]
        deeds = [command for command in commands if not command.startswith("go to")]
        walk.append(rng.choice(deeds if rng.random() < 0.5 else commands))
        _, _, ended, _, info = env.step(walk[-1])
        if ended:
            break
    return walk


def measure_resets(env: AlfworldEnv) -> None:
    """Print how long a reset takes on games that are not in the cache."""
    tasks = env.tasks(env.split)
    chosen = random.Random(0).sample(range(len(tasks)), min(GAMES, len(tasks)))
    seconds = []
    for task in [tasks[index].id for index in chosen]:
        started = time.perf_counter()
        env.reset(options={"task": task})
        seconds.append(time.perf_counter() - started)
    print(f"reset, median                    {1e3 * statistics.median(seconds):10.2f} ms")
    print(f"reset, worst of {len(seconds):<4d}             {1e3 * max(seconds):10.2f} ms")


def measure_turns(env: AlfworldEnv, walks: list[list[str]]) -> None:
    """Print turns a second of the bare simulator and of the environment, with and without admissible commands."""
    for label, simulated, admissible in (
        ("simulator", True, False),
        ("simulator with admissible", True, True),
        ("environment", False, False),
        ("environment with admissible", False, True),
    ):
        turns, seconds = 0, 0.0
        for seed, walk in enumerate(walks):
            env.reset(seed=seed)
            seconds += time_simulator(env, walk, admissible) if simulated else time_env(env, walk, admissible)
            turns += len(walk)
        print(f"{label:<32s} {turns / seconds:10,.0f} turns/s")


def time_simulator(env: AlfworldEnv, walk: list[str], admissible: bool) -> float:
    """Return the seconds that the simulator takes for a walk."""
    simulator = Simulator(env.game)
    started = time.perf_counter()
    for command in walk:
        simulator.step(command)
        if admissible:
            simulator.admissible()
    return time.perf_counter() - started


def time_env(env: AlfworldEnv, walk: list[str], admissible: bool) -> float:
    """Return the seconds that the environment takes for a walk."""
    started = time.perf_counter()
    for command in walk:
        info = env.step(command)[-1]
        if admissible:
            info["admissible_actions"]
    return time.perf_counter() - started


def measure_forks(env: AlfworldEnv) -> None:
    """Print how long a fork takes in the middle of an episode."""
    env.reset(seed=0)
    forks, copies = [], []
    simulator = Simulator(env.game)
    for _ in range(2000):
        started = time.perf_counter()
        env.fork()
        forks.append(time.perf_counter() - started)
        started = time.perf_counter()
        simulator.copy()
        copies.append(time.perf_counter() - started)
    print(f"fork of the environment, median  {1e6 * statistics.median(forks):10.1f} us")
    print(f"copy of the simulator, median    {1e6 * statistics.median(copies):10.1f} us")


def measure_memory(env: AlfworldEnv) -> None:
    """Print the memory that each further live game takes."""
    tasks = env.tasks(env.split)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    live = []
    for index in range(min(GAMES, len(tasks))):
        env.reset(options={"task": tasks[index].id})
        live.append(env.fork())
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"memory of a live game            {(after - before) / len(live) / 1024:10.1f} KiB")


if __name__ == "__main__":
    main()
