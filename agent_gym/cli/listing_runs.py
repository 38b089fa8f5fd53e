"""`agent-gym runs`: what there is in a folder of runs, the newest first.

A run's configuration and a few lines of its metrics are read, never the whole: a thousand long runs are listed at once.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent_gym.errors import AgentGymError, StoreError
from agent_gym.evaluation.resuming import suite_records
from agent_gym.store.holding import holder
from agent_gym.store.trajectories import TrajectoryStore

_WHOLE = 65_536
"""Bytes of metrics that are read as they are: of a longer file its end, and a line here and there."""
_SAMPLES = 24
_WIDTH = 12
_DEPTH = 3
_BARS = "▁▂▃▄▅▆▇█"
_MEASURED = ("after", "during", "before", "eval")
_WRITTEN = ("metrics.jsonl", "trajectories.sqlite", "trajectories.sqlite-wal", "config.yaml")
_UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(AgentGymError, yaml.YAMLError, sqlite3.Error),
)
_COLORS = {"running": "green", "stopped": "yellow", "unreadable": "red"}


@dataclass(frozen=True, slots=True)
class Listed:
    """One run, as it is listed."""

    name: str
    kind: str
    env: str
    method: str
    done: int
    total: int | None
    """Steps, or episodes of an evaluation; None where nobody has said how many there will be."""
    success: float | None
    """What was measured last; in training, where nothing was, of the last step."""
    curve: tuple[float, ...]
    """Success over the steps, or the reward where nothing ever succeeded."""
    failed: int
    """Episodes of an evaluation that say nothing of the agent."""
    written: float
    """When something was last written, in seconds since 1970."""
    state: str
    """running, finished, stopped or unreadable."""


def run_listing(folder: Path, *, count: int) -> None:
    """Print the runs in a folder.

    Raises:
        StoreError: There is no such folder.
    """
    if not folder.is_dir():
        raise StoreError(f"There is no folder {folder}: give one that holds runs, or start one with agent-gym train.")
    console = Console()
    places = find_runs(folder)
    shown = [describe(place, folder, at) for at, place in places[: count if count >= 0 else None]]
    if not shown:
        console.print(f"no runs in {folder}; agent-gym train and agent-gym eval --name make some", soft_wrap=True)
    elif console.is_terminal:
        console.print(_table(shown))
    else:
        for each in shown:
            typer.echo("\t".join(_cells(each)))
    if len(places) > len(shown):
        console.print(f"{len(places) - len(shown)} more: --count -1 lists all", soft_wrap=True)


def find_runs(folder: Path) -> list[tuple[float, Path]]:
    """Return the runs in a folder, or the folder itself where it is one, with when each was last written to."""
    found = [(_last_written(place), place) for place in _walk(folder, _DEPTH)]
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "config.yaml").is_file():
        yield folder
    elif depth:
        with suppress(OSError):
            for inner in folder.iterdir():
                if inner.is_dir() and not inner.is_symlink():
                    yield from _walk(inner, depth - 1)


def _last_written(run: Path) -> float:
    times = [0.0]
    for name in _WRITTEN:
        with suppress(OSError):
            times.append((run / name).stat().st_mtime)
    return max(times)


def describe(run: Path, folder: Path, written: float) -> Listed:
    """Return what is to be said about a run; one that cannot be read is said to be so."""
    name = str(run.relative_to(folder)) if run != folder else run.resolve().name
    try:
        config = _config(run / "config.yaml")
        kind = "train" if "algorithm" in config else "eval"
        records = sampled(run / "metrics.jsonl")
        describing = _training if kind == "train" else _evaluation
        env, method, done, total, finished = describing(run, config, records)
        success, curve = _success(records), _curve(records)
        failed = sum(record["failed"] for record in _evaluated(records))
    except _UNREADABLE:
        return Listed(name, "?", "?", "?", 0, None, None, (), 0, written, "unreadable")
    state = "running" if holder(run) is not None else "finished" if finished else "stopped"
    return Listed(name, kind, env, method, done, total, success, curve, failed, written, state)


def _config(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with path.open(encoding="utf-8") as file:
        config: dict[str, Any] = yaml.load(file, loader)["config"]
    return config


def sampled(path: Path) -> list[dict[str, Any]]:
    """Return records of a file of metrics: all of a short one, of a long one its end and some on the way there."""
    if not path.is_file():
        return []
    lines: list[bytes] = []
    with path.open("rb") as file:
        size = path.stat().st_size
        end = max(size - _WHOLE, 0)
        for number in range(_SAMPLES if end else 0):
            file.seek(end * number // _SAMPLES)
            if number:
                file.readline()
            lines.append(file.readline())
        file.seek(end)
        if end:
            file.readline()
        lines += file.read().splitlines()
    records = []
    for line in lines:
        # A line may be half written.
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                records.append(record)
    return records


_Described = tuple[str, str, int, int | None, bool]
"""Environment, method or model, what is done, what there is to do, and whether that is all."""


def _training(run: Path, config: dict[str, Any], records: Sequence[dict[str, Any]]) -> _Described:
    steps = [record["step"] for record in records if record.get("phase") == "train"]
    done, total = max(steps, default=0), config["steps"]
    measured = not config["measure"]["tasks"] or any(record.get("phase") == "after" for record in records)
    return config["env"]["id"], config["algorithm"]["name"], done, total, done >= total and measured


def _evaluation(run: Path, config: dict[str, Any], records: Sequence[dict[str, Any]]) -> _Described:
    suites = config.get("suites") or []
    done = 0
    if (run / "trajectories.sqlite").is_file():
        with TrajectoryStore.reading(run / "trajectories.sqlite") as store:
            done = store.count_matching()
    planned = [len(record["tasks"]) * record["attempts"] for record in suite_records(run)]
    scored = {record.get("suite") for record in records if record.get("phase") == "eval"}
    complete = len(scored) >= max(len(suites), 1)
    return ", ".join(suites) or config["env"]["id"], config["model"], done, sum(planned) or None, complete


def _evaluated(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last record of each suite of an evaluation."""
    return list({record.get("suite"): record for record in records if record.get("phase") == "eval"}.values())


def _success(records: Sequence[dict[str, Any]]) -> float | None:
    """Return the last measured success: over all suites of an evaluation, else of the last measurement or step."""
    if evaluated := _evaluated(records):
        valid = sum(record["episodes"] - record["failed"] for record in evaluated)
        return sum(record["successes"] for record in evaluated) / valid if valid else None
    for phases in (_MEASURED, ("train",)):
        for record in reversed(records):
            if record.get("phase") in phases and "success_rate" in record:
                return float(record["success_rate"])
    return None


def _curve(records: Sequence[dict[str, Any]]) -> tuple[float, ...]:
    """Return what training came to over its steps, of as many stretches of equal length as are drawn."""
    trained = [record for record in records if record.get("phase") == "train"]
    for key in ("success_rate", "reward"):
        points = [(record["step"], float(record[key])) for record in trained if key in record]
        if any(value for _, value in points):
            first, last = points[0][0], points[-1][0]
            stretches: dict[int, list[float]] = {}
            for step, value in points:
                stretches.setdefault((step - first) * _WIDTH // (last - first + 1), []).append(value)
            return tuple(sum(values) / len(values) for _, values in sorted(stretches.items()))
    return ()


def sparkline(values: Sequence[float]) -> str:
    """Return values as a row of bars, from 0 to 1, or from the least to the greatest where they leave that range."""
    low, high = min(0.0, *values, 0.0), max(1.0, *values, 1.0)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in values)


def age(seconds: float) -> str:
    """Return how long ago something was, in the largest unit of which it has one."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _cells(each: Listed) -> tuple[str, ...]:
    return (
        each.name,
        each.kind,
        each.env,
        each.method,
        f"{each.done}/{'?' if each.total is None else each.total}" + (f", {each.failed} failed" if each.failed else ""),
        "-" if each.success is None else f"{each.success:.2f}",
        sparkline(each.curve),
        age(time.time() - each.written),
        each.state,
    )


def _table(shown: Sequence[Listed]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "", "environment", "method or model", "done", "success", "over the steps", "age", "state"):
        right = heading in ("done", "success", "age")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "environment")
    for each in shown:
        *cells, state = _cells(each)
        table.add_row(*map(Text, cells), Text(state, style=_COLORS.get(state, "")))
    return table
