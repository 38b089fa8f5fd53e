"""Measures what an evaluation costs beside the model and the environment: ours and that of inspect_ai, in one run.

Both play the same number of samples and turns with a model that answers at once, all in flight, and keep every
episode: ours in the run folder, each as soon as it ends; inspect_ai in its log. Printed are microseconds a turn, on the
clock and of the processor (which other work on the machine disturbs less), the median of repetitions that alternate
between the two: of a whole evaluation, set-up and all, and of a turn more (the difference between the two sizes, over
the turns between them).

    make inspect && python benchmarks/inspect_overhead.py
    python benchmarks/inspect_overhead.py --inspect /path/to/venv/bin/python
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from loop import TrivialEnv

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.env import Task
from agent_gym.evaluation.runner import evaluate

ANSWER = "go to cabinet 1"
SIZES = (16, 64)
Side = Callable[[int, int, int], tuple[float, float]]
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


def ours(samples: int, turns: int, width: int) -> tuple[float, float]:
    """Return the seconds of one evaluation of ours, on the clock and of the processor."""
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
        began, worked = time.perf_counter(), time.process_time()
        evaluation = evaluate(config, Path(folder) / "run")
        seconds = time.perf_counter() - began, time.process_time() - worked
    score = evaluation.score
    if (score.episodes, score.failed, score.env_turns) != (samples, 0, samples * turns):
        raise SystemExit(f"The evaluation was not what was to be measured: {score}.")
    return seconds


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
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for samples in SIZES:
            for name, side in sides.items():
                seconds.setdefault((name, samples), []).append(side(samples, turns, samples))
    few, many = SIZES
    for place, kind in enumerate(("on the clock", "of the processor")):
        medians = {key: statistics.median(each[place] for each in values) for key, values in seconds.items()}
        print(f"{'microseconds a turn, ' + kind:38} {'agent_gym':>10} {'inspect_ai':>11} {'ratio':>6}")
        for samples in SIZES:
            row = [1e6 * medians[name, samples] / (samples * turns) for name in sides]
            show(f"{samples} samples x {turns} turns", row)
        between = (many - few) * turns
        show("a turn more", [1e6 * (medians[name, many] - medians[name, few]) / between for name in sides])


def show(title: str, row: list[float]) -> None:
    """Print a line of the table."""
    own, other = row
    print(f"{title:38} {own:10.1f} {other:11.1f} {other / own:5.0f}x")


if __name__ == "__main__":
    main()
