"""`agent-gym compare`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import typer
from rich.console import Console

from agent_gym.cli.tabling import print_table, say
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.evaluation.comparison import adjusted, compare_suites
from agent_gym.evaluation.outcomes import Metric
from agent_gym.evaluation.selection import Selection, measured_phases, select
from agent_gym.evaluation.verdict import Comparison, Difference, amount, number

_UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be compared, and how it is shown."""

    suite: str | None = None
    metric: str | None = None
    level: float = 0.95
    by_type: bool = False
    tasks: int = 0
    """So many of the tasks that differ are listed."""


def run_compare(runs: Sequence[str], wanted: Wanted, *, as_json: bool = False, fail_if_worse: bool = False) -> None:
    """Compare runs with the first one, and print what came of it.

    Args:
        runs: RUN, RUN:PHASE, RUN@STEP or RUN:PHASE@STEP, the one that the others are compared with first. A training
            run alone is compared with itself before training.
        wanted: What is compared.
        as_json: Print JSON.
        fail_if_worse: End with exit code 1 where one is worse, and the test tells, or where nothing can be told.

    Raises:
        ConfigError: There is only one run, and it is not of training.
        AgentGymError: A run cannot be read, or has nothing in common with the first.
    """
    if wanted.metric is not None and wanted.metric not in get_args(Metric):
        raise UnknownIdError.of("metric", wanted.metric, get_args(Metric))
    metric = cast("Metric | None", wanted.metric)
    first, *others = _selections(runs)
    found = [
        one for other in others for one in compare_suites(first, other, wanted.suite, metric=metric, level=wanted.level)
    ]
    compared = adjusted(found)
    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in compared], allow_nan=False, indent=1))
    else:
        console = Console()
        for place, one in enumerate(compared):
            if place:
                say(console, "")
            _print(console, one, wanted)
        if len(compared) > 1:
            say(console, "")
            _print_all(console, compared)
    if fail_if_worse:
        _fail_if_worse(compared)


def _fail_if_worse(compared: Sequence[Comparison]) -> None:
    unknown = [f"{one.suite} of {one.b.run}" for one in compared if one.overall.difference is None]
    if unknown:
        # A run of which nothing is known has not passed.
        typer.echo(f"--fail-if-worse: nothing can be said of {', '.join(unknown)}, which counts as worse.", err=True)
    if unknown or any(one.told_apart and (one.overall.difference or 0) < 0 for one in compared):
        raise typer.Exit(1)


def _selections(runs: Sequence[str]) -> list[Selection]:
    selections = [select(run) for run in runs]
    if len(selections) > 1:
        return selections
    only = selections[0]
    if only.phase is None and only.step is None and {"before", "after"} <= set(measured_phases(only.run)):
        return [Selection(only.run, "before"), Selection(only.run, "after")]
    raise ConfigError(
        f"There is nothing to compare {only} with: name another run, or two measurements of one, as RUN:before and "
        "RUN:after."
    )


def _print(console: Console, one: Comparison, wanted: Wanted) -> None:
    for name, side in (("A", one.a), ("B", one.b)):
        failed = f", {side.failed:,} failed" if side.failed else ""
        say(console, f"{name}: {side.run} ({side.tasks:,} tasks, {side.attempts:,} episodes{failed})")
    rows = [_row("all", one, one.overall)]
    if wanted.by_type:
        rows += [_row(name or "unknown", one, difference) for name, difference in one.types.items()]
    headings = ["tasks", "pairs", "A", "B", "B - A", f"{one.level:.0%} interval", "p", "p (Holm)"]
    print_table(console, headings, rows, title=f"{one.suite}: {one.metric}")
    if wanted.tasks:
        worth = [[task.task_id, task.task_type, f"{task.a:.2f}", f"{task.b:.2f}"] for task in one.differing]
        title = f"tasks that differ, {min(wanted.tasks, len(worth)):,} of {len(worth):,}"
        print_table(console, ["task", "type", "A", "B"], worth[: wanted.tasks], title=title)
    say(console, one.sentence, style=_style(one))
    for warning in one.warnings:
        say(console, f"note: {warning}", style="yellow")
    if one.support is not None:
        say(console, f"solved at least once: {_support(one.support.as_dict())}")


def _row(name: str, one: Comparison, difference: Difference) -> list[str]:
    low, high = difference.low, difference.high
    return [
        name,
        f"{difference.pairs:,}" if difference.pairs else "none",
        _plain(difference.a),
        _plain(difference.b),
        _UNKNOWN if difference.difference is None else amount(difference.difference, one.unit, sign=True),
        _UNKNOWN
        if low is None or high is None
        else f"{number(low * one.unit, one.unit)} to {number(high * one.unit, one.unit)}",
        _p(difference.p_value),
        _p(difference.adjusted),
    ]


def _print_all(console: Console, compared: Sequence[Comparison]) -> None:
    """Print all comparisons in one table; where many are made, some come out by chance, and p says so."""
    rows = []
    for one in compared:
        overall = one.overall
        shown = _UNKNOWN if overall.difference is None else amount(overall.difference, one.unit, sign=True)
        word = ("better" if (overall.difference or 0) > 0 else "worse") if one.told_apart else "not told apart"
        rows.append([f"{one.suite}: {one.b.run}", shown, _p(overall.p_value), _p(overall.adjusted), word])
    title = f"all {len(compared)} comparisons with {compared[0].a.run}"
    print_table(console, ["suite: run", "B - A", "p", "p (Holm)", "verdict"], rows, title=title)


def _support(numbers: dict[str, Any]) -> str:
    counts = "{preserved:,} tasks by both, {expanded:,} only by B, {shrunk:,} only by A, {outside:,} by neither"
    names = ("srr", "ndr", "sds", "nscr")
    rates = ", ".join(f"{name.upper()} {_plain(numbers[name])}" for name in names)
    left_out = numbers["left_out"]
    unequal = f"; {left_out:,} left out, where both do not have as many attempts, two or more" if left_out else ""
    return f"{counts.format(**numbers)} ({rates}){unequal}"


def _style(one: Comparison) -> str:
    if not one.told_apart:
        return "bold"
    return "bold green" if (one.overall.difference or 0) > 0 else "bold red"


def _plain(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _p(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
