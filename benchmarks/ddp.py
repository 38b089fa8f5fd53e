"""One process against several on the same training step: sampling, update, and all of it.

    python benchmarks/ddp.py                    one process against two, a thread each
    python benchmarks/ddp.py --processes 4 --model 256

Each run is `agent-gym train` on the same tasks with the same seed, started by torchrun; the first steps, which warm up,
are left out. The runs take turns, so that a machine that is busy for a while is busy for both. Printed are medians over
the steps of all turns, and their ratios. The target is a whole step 1.6 times as fast with two processes, on a machine
with a free core for each of them; the last line says whether it was met, and the exit status is 1 where it was not.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

WARM_UP = 2
"""Steps that are left out."""
PARTS = ("rollout", "update", "total")
TARGET = 0.8
"""A step is to be so many times as fast for each process: 1.6 for two of them."""


def configuration(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what is trained: multi-turn household tasks with a model of some millions of parameters."""
    return {
        "env": {"id": "alfworld", "options": {"max_turns": arguments.turns}},
        "model": {
            "hidden": arguments.model,
            "layers": 4,
            "heads": 8,
            "feed_forward": 4 * arguments.model,
            "vocabulary": 1024,
        },
        "rollout": {"tasks": arguments.tasks, "concurrency": arguments.tasks * arguments.group, "max_tokens": 12},
        "algorithm": {"name": "grpo", "options": {"group_size": arguments.group, "entropy_coefficient": 0.001}},
        "update": {"learning_rate": 1e-5, "micro_batch_tokens": 8192},
        "measure": {"tasks": 0},
        "steps": arguments.steps + WARM_UP,
        "checkpoint_every": 1000,
        "threads": 1,
    }


def run(processes: int, config: Path, runs: Path, name: str, limit: float) -> list[dict[str, float]]:
    """Train, and return the seconds of each step after those that warm up."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "agent_gym", "train", "--config", str(config), "--runs", str(runs), "--name", name]
    log = runs / f"{name}.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = f"no end after {limit:g} s (--limit)"
        finally:
            if process.poll() is None:
                # torchrun's own processes are in its group.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status != 0:
        raise SystemExit(f"{processes} processes: {status}\n{log.read_text()[-3000:]}")
    records = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
    return [record["seconds"] for record in records if record["phase"] == "train"][WARM_UP:]


def main() -> None:
    """Run the benchmark.

    Raises:
        SystemExit: The target was missed, or a run failed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="steps of each run that count")
    parser.add_argument("--turns-taken", type=int, default=2, help="how often the runs take turns")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--turns", type=int, default=8, help="turns of an episode")
    parser.add_argument("--model", type=int, default=192, help="width; 192 are 3 million parameters")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds that a run may take")
    arguments = parser.parse_args()
    seconds: dict[int, list[dict[str, float]]] = {1: [], arguments.processes: []}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "ddp.yaml"
        config.write_text(yaml.safe_dump(configuration(arguments)))
        for turn in range(arguments.turns_taken):
            for processes in seconds:
                seconds[processes] += run(processes, config, Path(folder), f"{processes}-{turn}", arguments.limit)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} at the end; seconds a step, medians of {len(seconds[1])} steps")
    print(f"{'':10}" + "".join(f"{f'{processes} processes':>14}" for processes in seconds) + f"{'ratio':>8}")
    for part in PARTS:
        medians = [statistics.median(step[part] for step in steps) for steps in seconds.values()]
        ratio = medians[0] / medians[1]
        print(f"{part:10}" + "".join(f"{median:14.2f}" for median in medians) + f"{ratio:8.2f}")
    target = TARGET * arguments.processes
    # The last part is the whole step.
    print(f"target: a step at least {target:.1f} times as fast: {'met' if ratio >= target else 'MISSED'} ({ratio:.2f})")
    if ratio < target:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
