"""Measures what sampling ahead saves: wall seconds a step of whole training runs, in turns and ahead.

    python benchmarks/ahead.py --repeats 3

Three environments: one whose turns wait 50 ms for something else (a search, a browser), so that sampling needs little
of the processor; one of whose turns an eighth wait ten times as long, so that steps have long tails; and one that
answers at once, so that sampling and training want the same processors. Runs of all kinds alternate; the ratio is that
of the means over all their steps but the first ones.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from agent_gym.env import State, Task, TextEnv

SETTLING = 2
"""First steps that are left out: caches are cold, and nothing has been played ahead."""
WAIT = 0.05
"""Seconds a turn."""
TURNS = 4


class Even(TextEnv):
    """Rewards an answer by its number of letters, even or odd, so that groups differ; never ends by itself."""

    def tasks(self, split: str) -> Sequence[Task]:
        """Return a few tasks that are alike."""
        return [Task(f"even {number}", split) for number in range(16)]

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        return "Say something of even length.", State(goal="even")

    def _act(self, action: str) -> tuple[str, State]:
        return f"That had {len(action)} letters.", State(goal="even", reward=float(len(action) % 2 == 0))

    def _copy(self) -> Self:
        raise NotImplementedError


class Waiting(Even):
    """The same, behind something slow."""

    blocking: ClassVar[bool] = True

    def _act(self, action: str) -> tuple[str, State]:
        time.sleep(self._seconds(action))
        return super()._act(action)

    def _seconds(self, action: str) -> float:
        return WAIT


class Tailed(Waiting):
    """The same, behind something that is very slow now and then."""

    def _seconds(self, action: str) -> float:
        return WAIT * (10 if zlib.crc32(action.encode()) % 8 == 0 else 1)


def seconds(env: str, max_lag: int, threads: int, steps: int, folder: Path) -> list[dict[str, float]]:
    """Train, and return what the log says of the seconds of each step that counts."""
    from agent_gym.config import TrainConfig
    from agent_gym.config_files import build
    from agent_gym.trainers.trainer import train

    config: dict[str, Any] = {
        "env": {"id": f"{__file__}:{env}", "options": {"max_turns": TURNS}},
        "rollout": {"tasks": 2, "concurrency": 8, "max_tokens": 16, "max_lag": max_lag},
        "algorithm": {"options": {"group_size": 4}},
        "update": {"importance": "token" if max_lag else "off", "updates_per_step": 2},
        "measure": {"tasks": 0},
        "steps": steps,
        "checkpoint_every": steps,
        "signals": False,
        "threads": threads,
    }
    result = train(build(TrainConfig, config), folder)
    return [record["seconds"] for record in result.metrics if record["phase"] == "train"][SETTLING:]


def main() -> None:
    """Print a line for each environment and way of sampling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=8, help=f"of a run, the first {SETTLING} of which do not count")
    parser.add_argument(
        "--envs", nargs="+", default=["Waiting", "Tailed", "Even"], choices=["Waiting", "Tailed", "Even"]
    )
    arguments = parser.parse_args()
    if arguments.steps <= SETTLING:
        parser.error(f"--steps must be more than {SETTLING}")
    print(
        f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}; means of {arguments.repeats} runs of "
        f"{arguments.steps} steps"
    )
    for env in arguments.envs:
        measured: dict[tuple[int, int], list[dict[str, float]]] = {(0, 1): [], (0, 2): [], (1, 1): [], (2, 1): []}
        for _ in range(arguments.repeats):
            for (max_lag, threads), steps in measured.items():
                with tempfile.TemporaryDirectory() as folder:
                    steps += seconds(env, max_lag, threads, arguments.steps, Path(folder) / "run")
        totals = {way: statistics.fmean(step["total"] for step in steps) for way, steps in measured.items()}
        for (max_lag, threads), steps in measured.items():
            parts = {
                name: statistics.fmean(step[name] for step in steps)
                for name in ("rollout", "update", "waiting", "sampling_idle", "throughput")
                if name in steps[0]
            }
            shown = ", ".join(f"{name} {value:.3g}" for name, value in parts.items())
            print(
                f"{env:8} max_lag={max_lag} threads={threads}: {totals[max_lag, threads]:.3f} s a step, "
                f"{totals[0, 1] / totals[max_lag, threads]:.2f} times as fast as in turns ({shown})"
            )


if __name__ == "__main__":
    main()
