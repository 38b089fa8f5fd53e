"""The demo with several seeds: success on unseen games before and after, minutes, peak memory.

    python benchmarks/demo.py --seeds 0 1 2

Targets: at most 0.45 before, at least 0.80 after, at most 10 minutes on 2 cores and 3 GB. Run it on a machine that does
nothing else: two threads that wait for each other lose far more than half when a third process runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "examples" / "household.yaml"
COMMAND = "from agent_gym.cli import main; main()"


def run_once(seed: int, folder: Path) -> tuple[float, float, float, float]:
    """Train once; return success before and after, minutes, and gigabytes."""
    name = f"seed-{seed}"
    arguments = ["train", "--config", str(CONFIG), "--runs", str(folder), "--name", name, "--seed", str(seed)]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    minutes = (time.perf_counter() - started) / 60
    if status:
        raise SystemExit(f"the run with seed {seed} failed")
    records = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    success = {record["phase"]: record["success_rate"] for record in records}
    return success["before"], success["after"], minutes, usage.ru_maxrss / 1024**2


def main() -> None:
    """Print a row a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    print("seed  before  after  minutes  peak GB")
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            before, after, minutes, memory = run_once(seed, Path(folder))
            print(f"{seed:4d}  {before:6.2f}  {after:5.2f}  {minutes:7.1f}  {memory:7.2f}", flush=True)


if __name__ == "__main__":
    main()
