"""Turns, resets, forks and memory of ScienceWorld, beside the official package's own environment.

    python benchmarks/scienceworld_speed.py

Both play the same random valid actions, recorded beforehand; they take turns, episode by episode, after each has
played all of them to warm up. The official environment's `step` asks for look, inventory and valid actions at
every turn, and ours for none of them, or for the valid actions alone.
"""

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from agent_gym.envs.scienceworld import ScienceWorldEnv

TASKS = ["boil", "find-plant", "power-component", "chemistry-mix", "lifespan-longest-lived", "use-thermometer"]
EPISODES = 20
FORKS = 20
FORK_AFTER = 10
Walk = tuple[str, int, list[str]]
"""A task, a variation, and the actions to take."""


def main() -> None:
    """Run every measurement and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10, help="turns of an episode")
    parser.add_argument("--official", action=argparse.BooleanOptionalAction, default=True, help="time the package too")
    arguments = parser.parse_args()
    env = ScienceWorldEnv(tasks=TASKS, max_turns=10**9)
    print(f"{'first reset, Java starting':<44}{timed(lambda: env.reset(seed=0)):10.2f} s")
    walks = [record_walk(env, episode, arguments.turns) for episode in range(EPISODES)]
    print(f"{'memory of Java after ' + str(EPISODES) + ' episodes':<44}{memory(java(env)):10.0f} MB")
    measure_turns(env, walks[: len(TASKS)], official() if arguments.official else None)
    measure_forks(env)
    print(f"{'memory of Java at the end':<44}{memory(java(env)):10.0f} MB")
    env.close()


def record_walk(env: ScienceWorldEnv, episode: int, turns: int) -> Walk:
    """Play random valid actions and write them down."""
    rng = random.Random(episode)
    _, info = env.reset(options={"task": f"{TASKS[episode % len(TASKS)]}/{episode // len(TASKS)}"})
    walk: list[str] = []
    for _ in range(turns):
        # Focusing on a thing that is not asked for ends the episode.
        walk.append(rng.choice([a for a in info["admissible_actions"] if not a.startswith("focus")]))
        *_, ended, _, info = env.step(walk[-1])
        if ended:
            break
    return info["task"], info["variation"], walk


def measure_turns(env: ScienceWorldEnv, walks: list[Walk], other: Any) -> None:
    """Print turns a second and milliseconds a reset, the environments taking turns."""
    rows: dict[str, tuple[list[float], list[float]]] = {}
    for warm in (False, False, True, True):
        for walk in walks:
            plays = {"ours": play(env, walk), "ours with admissible actions": play(env, walk, admissible=True)}
            if other is not None:
                plays["official"] = play_official(other, walk)
            for label, (reset, turn) in plays.items():
                resets, turns = rows.setdefault(label, ([], []))
                if warm:
                    resets.append(reset)
                    turns.append(turn)
    turns_played = 2 * sum(len(actions) for *_, actions in walks)
    for label, (resets, turns) in rows.items():
        print(f"{label + ', turns':<44}{turns_played / sum(turns):10.1f} a second")
        print(f"{label + ', reset, median':<44}{1e3 * statistics.median(resets):10.1f} ms")
    env.reset(seed=0)
    looks = timed(lambda: [env.step("look around") for _ in range(300)])
    print(f"{'ours, looking around':<44}{300 / looks:10.1f} a second")
    if other is not None:
        print(f"{'memory of Java, official':<44}{memory(other._gateway.java_process.pid):10.0f} MB")


def play(env: ScienceWorldEnv, walk: Walk, *, admissible: bool = False) -> tuple[float, float]:
    """Return the seconds that the reset and the turns of a walk take."""
    task, variation, actions = walk
    reset = timed(lambda: env.reset(options={"task": f"{task}/{variation}"}))
    started = time.perf_counter()
    for action in actions:
        info = env.step(action)[-1]
        if admissible:
            info["admissible_actions"]
    return reset, time.perf_counter() - started


def official() -> Any:
    """Return the environment of the package, which has the name of this file."""
    here = str(Path(__file__).parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    import scienceworld

    return scienceworld.ScienceWorldEnv("", envStepLimit=10**9)


def play_official(env: Any, walk: Walk) -> tuple[float, float]:
    """Return the seconds that the reset and the turns of a walk take."""
    task, variation, actions = walk

    def reset() -> None:
        env.load(task, variation, "easy")
        env.reset()

    return timed(reset), timed(lambda: [env.step(action) for action in actions])


def measure_forks(env: ScienceWorldEnv) -> None:
    """Print how long forks take, in the middle of an episode, and what they add to the memory of Java."""
    env.reset(options={"task": "find-plant/0"})
    for _ in range(FORK_AFTER):
        env.step("look around")
    before = memory(java(env))
    children: list[ScienceWorldEnv] = []
    seconds = [timed(lambda: children.append(env.fork())) for _ in range(FORKS)]
    print(f"{f'fork after {FORK_AFTER} turns, median':<44}{1e3 * statistics.median(seconds):10.1f} ms")
    print(f"{f'memory that {FORKS} forks add':<44}{memory(java(env)) - before:10.0f} MB")
    for child in children:
        child.close()


def java(env: ScienceWorldEnv) -> int:
    """Return the id of the environment's Java process."""
    assert env._simulator is not None
    return env._simulator.process.pid


def memory(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE") / 1e6


def timed(function: Any) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
