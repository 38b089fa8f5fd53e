"""`agent-gym power`: how many tasks it takes, and what so many tasks can show."""

from collections.abc import Sequence

from rich.console import Console

from agent_gym.cli.tabling import print_table, say
from agent_gym.errors import ConfigError
from agent_gym.evaluation.power import (
    discordance,
    paired_tasks,
    smallest_paired_difference,
    unpaired_tasks,
)

POINTS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
CORRELATIONS = (0.0, 0.5, 0.8)


def run_power(
    points: Sequence[float], *, tasks: int | None, rate: float, correlation: float | None, power: float, level: float
) -> None:
    """Print how many tasks two runs need for a difference to be seen, one attempt each.

    Args:
        points: Differences in points; the usual ones if there are none.
        tasks: Print which difference so many tasks can show instead, unless differences are given, too.
        rate: Success of the first run.
        correlation: Between the two runs' successes over tasks; several are shown if None.
        power: How often the difference must be seen.
        level: Of the test.

    Raises:
        ConfigError: Something lies outside of its range.
    """
    for name, value in (("--rate", rate), ("--power", power), ("--level", level)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} is {value:g}: give a number between 0 and 1.")
    if correlation is not None and not 0 <= correlation < 1:
        raise ConfigError(f"--correlation is {correlation:g}: give a number from 0 to below 1.")
    for point in points:
        if not point > 0:
            raise ConfigError(f"--difference is {point:g} points: give a number above 0; a loss takes as many tasks.")
        if not _fits(rate, point):
            raise ConfigError(f"No run can be {point:g} points better or worse than a success of {rate:g}: give fewer.")
    console = Console()
    columns = CORRELATIONS if correlation is None else (correlation,)
    if tasks is not None:
        _print_smallest(console, tasks, rate, columns, power, level)
    if points or tasks is None:
        _print_needed(console, points, rate, columns, power, level)
    say(
        console,
        f"Success of the first run {rate:g}, one attempt a task; the test is passed at p < {1 - level:.2g}, in "
        f"{power:.0%} of cases. r is the correlation of the two runs' successes over tasks: 0 where it is unrelated "
        "what they solve.",
    )


def _print_needed(
    console: Console, points: Sequence[float], rate: float, columns: Sequence[float], power: float, level: float
) -> None:
    rows = []
    for point in points or [point for point in POINTS if _fits(rate, point)]:
        better = rate + point / 100 <= 1
        difference = point / 100 if better else -point / 100
        shares = [discordance(rate, difference, correlation=one) for one in columns]
        needed = [paired_tasks(difference, share, level=level, power=power) for share in shares]
        needed.append(unpaired_tasks(rate, difference, level=level, power=power))
        rows.append([f"{point:g} points" + " worse" * (not better), *map(_count, needed)])
    headings = ["difference", *(f"same tasks, r = {one:g}" for one in columns), "other tasks, each run"]
    print_table(console, headings, rows, title="tasks needed")


def _print_smallest(
    console: Console, tasks: int, rate: float, columns: Sequence[float], power: float, level: float
) -> None:
    rows = []
    for one in columns:
        smallest = smallest_paired_difference(tasks, rate, correlation=one, level=level, power=power)
        rows.append([f"r = {one:g}", "none" if smallest is None else _points(100 * smallest)])
    title = f"what {tasks:,} task{'' if tasks == 1 else 's'} can show"
    print_table(console, ["the runs' successes", "smallest difference"], rows, title=title)


def _points(difference: float) -> str:
    return f"{difference:.1f} points" if difference >= 1 else f"{difference:.2g} points"


def _fits(rate: float, point: float) -> bool:
    return rate + point / 100 <= 1 or rate - point / 100 >= 0


def _count(tasks: int | None) -> str:
    return "more than 10,000,000" if tasks is None else f"{tasks:,}"
