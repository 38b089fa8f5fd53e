"""What each method buys: GRPO against EPO, ARPO, AEPO, EMPG and SPEAR, on three environments, with several seeds.

    python benchmarks/methods.py --quick            # everything, at most 40 minutes on 2 cores
    python benchmarks/methods.py --only search      # one set-up
    python benchmarks/methods.py --report           # tables and pictures of what has been run so far

All runs of an environment start from one model, which clones a demonstrator and is made once; all have the same number
of steps, of tasks a step and of trajectories a task, and the same tasks with the same seed. Runs are kept under
--folder and not repeated. Needs the extras search, scienceworld and plots.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Two runs share two cores: torch must not take both. Read when it is imported, by the workers, too.
os.environ["OMP_NUM_THREADS"] = "1"

from methods_report import draw, summary, table, write_numbers
from methods_runs import COMPARED, SETUPS, Job, Outcome, run, warm


def main() -> None:
    """Run what is missing, and print a table a set-up."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--quick", action="store_true", help="measure on fewer tasks")
    parser.add_argument("--only", nargs="+", choices=SETUPS, default=SETUPS, metavar="SETUP", help=", ".join(SETUPS))
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"), help="where runs are kept")
    parser.add_argument("--images", type=Path, help="where pictures go; into the folder by default")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    folder = options.folder.resolve() / ("quick" if options.quick else "full")
    jobs = [
        Job(setup, method, seed, folder, options.quick)
        # Seed after seed, so that a benchmark that is cut short has compared something.
        for seed in range(options.seeds)
        for setup in options.only
        for method in COMPARED[setup]
        if not options.methods or method in options.methods
    ]
    started = time.perf_counter()
    outcomes = [run(job) for job in jobs if _done(job)] if options.report else _run_all(jobs, options.processes)
    report(outcomes, folder, options.images or folder)
    print(
        f"{len(outcomes)} runs; {(time.perf_counter() - started) / 60:.1f} minutes; all numbers: {folder}/methods.json"
    )


def _done(job: Job) -> bool:
    return (job.run_folder / "outcome.json").is_file()


def _run_all(jobs: Sequence[Job], processes: int) -> list[Outcome]:
    """Make the models first, then the runs, several at a time."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        setups = dict.fromkeys("alfworld" if job.setup == "collapse" else job.setup for job in jobs)
        made = {setup: pool.submit(warm, setup, jobs[0].folder) for setup in setups}
        for setup, seconds in made.items():
            print(f"warm start of {setup}: {seconds.result():.0f} CPU s", file=sys.stderr, flush=True)
        running = {pool.submit(run, job): job for job in jobs}
        for done, future in enumerate(as_completed(running), start=1):
            job, outcome = running[future], future.result()
            print(
                f"{done}/{len(jobs)} {job.setup} {job.method} seed {job.seed}: success {outcome.curve[0][1]:.2f} -> "
                f"{outcome.curve[-1][1]:.2f}, {outcome.cpu_seconds:.0f} CPU s",
                file=sys.stderr,
                flush=True,
            )
        return [future.result() for future in running]


def report(outcomes: Sequence[Outcome], folder: Path, images: Path) -> None:
    """Print tables, draw pictures and write the numbers."""
    summaries: dict[str, dict[str, Any]] = {}
    for setup in dict.fromkeys(outcome.setup for outcome in outcomes):
        here = [outcome for outcome in outcomes if outcome.setup == setup]
        base = [outcome for outcome in here if outcome.method == "grpo"]
        summaries[setup] = {
            method: summary([outcome for outcome in here if outcome.method == method], base)
            for method in dict.fromkeys(outcome.method for outcome in here)
        }
        seeds = max(row["seeds"] for row in summaries[setup].values())
        before = max(row["before"] for row in summaries[setup].values())
        print(f"\n## {setup}: {seeds} seeds, success {before:.2f} after the warm start\n")
        print(table(summaries[setup]), flush=True)
        draw(setup, here, images / f"methods_{setup}.png")
    write_numbers(summaries, outcomes, folder / "methods.json")


if __name__ == "__main__":
    main()
