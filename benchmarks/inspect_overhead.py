"""Measures what an evaluation costs beside the model and the environment: ours and that of inspect_ai, in one run.

Both play the same number of samples and turns with a model that answers at once, all in flight, and keep every
episode: ours in the run folder, each as soon as it ends; inspect_ai in its log. Printed are microseconds a turn, on the
clock and of the processor (which other work on the machine disturbs less), the median and the smallest of repetitions
that alternate between the two: of a whole evaluation, set-up and all, and of a turn more (the difference between the
two sizes, over the turns between them). Ours is told by its parts, too: storing the episodes, which is timed by itself
in the same evaluations, and all the rest, which is the loop.

    make inspect && python benchmarks/inspect_overhead.py
    python benchmarks/inspect_overhead.py --inspect /path/to/venv/bin/python
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from loop import TrivialEnv

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.env import Task
from agent_gym.evaluation.runner import evaluate
from agent_gym.store.trajectories import TrajectoryStore

ANSWER = "go to cabinet 1"
SIZES = (16, 64)
Side = Callable[[int, int, int], tuple[float, ...]]
PACKAGES = Path(__file__).parents[1] / "build" / "inspect" / "site-packages"


class CabinetEnv(TrivialEnv):
    """Every action is right and nothing ends before the limit, in as many tasks as asked for."""

    splits = ("test",)

    def __init__(self, *, count: int = 64, split: str = "test", max_turns: int = 50) -> None:
        super().__init__(split=split, max_turns=max_turns)
        self.count = count

    def tasks(self, split: str) -> Sequence[Task]:
        """Return as many tasks as asked for."""
        return [Task(f"t{number}", split) for number in range(self.count)]


def ours(samples: int, turns: int, width: int) -> tuple[float, float, float, float]:
    """Return the seconds of one evaluation of ours, on the clock and of the processor, and those of storing alone."""
    with tempfile.TemporaryDirectory(prefix="agent-gym-runs-") as folder:
        answers = Path(folder) / "answers.jsonl"
        answers.write_text(f'"{ANSWER}"\n')
        options = {"count": samples, "max_turns": turns}
        config = build(
            EvalConfig,
            {
                "env": {"id": f"{__file__}:CabinetEnv", "options": options},
                "model": f"scripted:{answers}",
                "split": "test",
                "tasks": samples,
                "rollout": {"concurrency": width},
            },
        )
        with storing() as stored:
            began, worked = time.perf_counter(), time.process_time()
            evaluation = evaluate(config, Path(folder) / "run")
            seconds = time.perf_counter() - began, time.process_time() - worked
    score = evaluation.score
    if (score.episodes, score.failed, score.env_turns) != (samples, 0, samples * turns):
        raise SystemExit(f"The evaluation was not what was to be measured: {score}.")
    return (*seconds, *stored)


@contextmanager
def storing() -> Iterator[list[float]]:
    """Sum up the seconds that storing takes, on the clock and of the processor."""
    spent, add = [0.0, 0.0], TrajectoryStore.add

    @functools.wraps(add)
    def timed(*arguments: object, **named: object) -> None:
        began, worked = time.perf_counter(), time.process_time()
        add(*arguments, **named)
        spent[0] += time.perf_counter() - began
        spent[1] += time.process_time() - worked

    with mock.patch.object(TrajectoryStore, "add", timed):
        yield spent


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inspect", help="A Python that has inspect_ai; by default what `make inspect` has installed.")
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if not arguments.inspect and not PACKAGES.is_dir():
        parser.error("inspect_ai is not here: run make inspect, or give --inspect PYTHON")
    path = {} if arguments.inspect else {"PYTHONPATH": str(PACKAGES)}
    command = [arguments.inspect or sys.executable, str(Path(__file__).with_name("inspect_peer.py"))]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": {**os.environ, **path}}
    with subprocess.Popen(command, **pipe) as peer:  # type: ignore[call-overload]

        def theirs(samples: int, turns: int, width: int) -> tuple[float, float]:
            print(samples, turns, width, file=peer.stdin, flush=True)
            said = peer.stdout.readline()
            if not said:
                raise SystemExit("inspect_ai has broken off: what it said stands above.")
            clock, processor = map(float, said.split())
            return clock, processor

        measure({"agent_gym": ours, "inspect_ai": theirs}, arguments.turns, arguments.repeats)


def measure(sides: dict[str, Side], turns: int, repeats: int) -> None:
    """Measure both sides in turn, and print."""
    for side in sides.values():
        side(min(SIZES), turns, min(SIZES))
    seconds: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for _ in range(repeats):
        for samples in SIZES:
            for name, side in sides.items():
                seconds.setdefault((name, samples), []).append(side(samples, turns, samples))
    for place, kind in enumerate(("on the clock", "of the processor")):
        for title, middle in (("median", statistics.median), ("smallest", min)):
            print(f"{f'microseconds a turn, {kind}, {title}':50} {'agent_gym':>10} {'inspect_ai':>11} {'ratio':>6}")
            table(sides, {key: middle([each[place] for each in values]) for key, values in seconds.items()}, turns)
            for samples in SIZES:
                times = seconds["agent_gym", samples]
                storage = middle([each[2 + place] for each in times])
                loop = middle([each[place] - each[2 + place] for each in times])
                turn = 1e-6 * samples * turns
                print(f"  of ours with {samples} samples: storage {storage / turn:.1f}, all else {loop / turn:.1f}")


def table(sides: dict[str, Side], seconds: dict[tuple[str, int], float], turns: int) -> None:
    """Print what a turn takes in evaluations of both sizes, and a turn more."""
    few, many = SIZES
    for samples in SIZES:
        row = [1e6 * seconds[name, samples] / (samples * turns) for name in sides]
        show(f"{samples} samples x {turns} turns", row)
    between = (many - few) * turns
    show("a turn more", [1e6 * (seconds[name, many] - seconds[name, few]) / between for name in sides])


def show(title: str, row: list[float]) -> None:
    """Print a line of the table."""
    own, other = row
    print(f"{title:50} {own:10.1f} {other:11.1f} {other / own:5.0f}x")


if __name__ == "__main__":
    main()
