"""How fast the viewer answers over HTTP, on a run with many episodes and on one with many steps.

    python benchmarks/viewer_store.py
    python benchmarks/viewer.py /tmp/agent_gym_viewer_store/1000000.sqlite

The server is the one that `agent-gym view` starts. "first" is the first answer after the start, in which files are
opened and long ones are read; "median" and "worst" are over the repetitions after it.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from agent_gym.store.run import RunFolder

LIMIT = 300.0
"""Milliseconds that a page may take."""


def main() -> None:
    """Print a table of milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path, help="the episodes of a run with many, see viewer_store.py")
    parser.add_argument("--steps", type=int, default=100_000, help="records of the run that has many")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--word", default="mug", help="what is searched for")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        long = Path(folder) / "long"
        write_long(long, arguments.steps)
        many = RunFolder.create(Path(folder) / "many", {"env": {"id": "none"}, "algorithm": {"name": "grpo"}}).path
        (many / "trajectories.sqlite").symlink_to(arguments.database.resolve())
        with serving(many, long) as client:
            measure(client, arguments.repeat, arguments.word, arguments.steps)


def measure(client: httpx.Client, repeat: int, word: str, steps: int) -> None:
    """Ask for each page and print how long the answers took."""
    about = client.get("/api/runs").json()["runs"][0]
    listed = client.get("/api/episodes").json()
    row = listed["episodes"][0]
    deep = client.get("/api/episodes?limit=500").json()["next"]
    kind = (client.get("/api/facets").json()["types"] or [""])[0]
    print(f"{about['episodes']:,} episodes; {steps:,} records; {repeat} repetitions after the first; milliseconds")
    pages: list[tuple[str, str, dict[str, Any]]] = [
        ("the page itself", "/", {}),
        ("version (polled)", "/api/version", {}),
        ("runs", "/api/runs", {}),
        ("facets", "/api/facets", {}),
        ("episodes, newest", "/api/episodes", {}),
        ("episodes, a page further down", "/api/episodes", {"after": deep}),
        ("episodes, highest reward", "/api/episodes", {"order": "-reward"}),
        ("episodes, most turns", "/api/episodes", {"order": "-turns"}),
        ("episodes, successes", "/api/episodes", {"success": 1}),
        ("episodes, failed", "/api/episodes", {"failed": 1}),
        ("episodes, of one step", "/api/episodes", {"step": row["step"] // 2}),
        ("episodes, of one task", "/api/episodes", {"task": row["task_id"]}),
        ("episodes, of one type", "/api/episodes", {"type": kind}),
        ("episodes, reward and length", "/api/episodes", {"min_reward": 0.5, "max_turns": 8, "failed": 0}),
        (f"search {word!r}", "/api/episodes", {"q": word}),
        ("search for what is not there", "/api/episodes", {"q": "zyzzyva"}),
        (f"search {word!r} among failures", "/api/episodes", {"q": word, "success": 0}),
        ("groups", "/api/groups", {}),
        (f"groups, search {word!r}", "/api/groups", {"q": word}),
        ("groups whose rewards are equal", "/api/groups", {"rewards": "equal"}),
        (f"the same, search {word!r}", "/api/groups", {"rewards": "equal", "q": word}),
        ("one group", "/api/group", {"id": row["group_id"]}),
        ("one episode", "/api/episode", {"id": row["id"]}),
        (f"metrics, {steps:,} records", "/api/metrics", {"run": 1}),
        ("metrics, what is new", "/api/metrics", {"run": 1, "since": steps - 5}),
    ]
    print(f"{'':34}{'first':>8}{'median':>8}{'worst':>8}{'kB':>8}")
    worst = 0.0
    for name, path, parameters in pages:
        times, size = timed(client, path, parameters, repeat)
        worst = max(worst, statistics.median(times[1:]))
        numbers = f"{times[0]:8.1f}{statistics.median(times[1:]):8.1f}{max(times[1:]):8.1f}{size / 1e3:8.1f}"
        print(f"{name:34}{numbers}")
    print(f"the slowest median is {worst:.1f} ms; the limit is {LIMIT:.0f} ms")


def timed(client: httpx.Client, path: str, parameters: dict[str, Any], repeat: int) -> tuple[list[float], int]:
    """Return milliseconds of the first answer and of those after it, and the size of one in bytes."""
    times = []
    for _ in range(repeat + 1):
        begun = time.perf_counter()
        answer = client.get(path, params=parameters)
        times.append(1e3 * (time.perf_counter() - begun))
        answer.raise_for_status()
    return times, len(answer.content)


@contextmanager
def serving(*runs: Path) -> Iterator[httpx.Client]:
    """Start `agent-gym view` and give a client of it."""
    command = [sys.executable, "-c", "from agent_gym.cli import main; main()", "view", *map(str, runs), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            with httpx.Client(base_url=address, timeout=600) as client:
                yield client
        finally:
            server.terminate()


def write_long(path: Path, steps: int) -> None:
    """Write a run of many steps with some 40 numbers each."""
    run = RunFolder.create(path, {"env": {"id": "none"}, "algorithm": {"name": "grpo"}, "steps": steps})
    with run.metrics_path.open("w") as file:
        for step in range(1, steps + 1):
            numbers = {f"number_{place}": math.sin(step / (50 + place)) for place in range(40)}
            seconds = {"total": 1.0 + math.cos(step)}
            file.write(json.dumps({"phase": "train", "step": step, **numbers, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
