"""`agent-gym rescore`: the numbers of a run once more, from what is stored."""

from pathlib import Path
from typing import cast, get_args

from rich.console import Console

from agent_gym.cli.results import print_results
from agent_gym.errors import UnknownIdError
from agent_gym.evaluation.rescore import Change, rescore
from agent_gym.evaluation.suites import Metric
from agent_gym.store.run import RunFolder

_SHOWN = 10


def run_rescore(path: Path, *, metric: str | None, grader: str | None) -> None:
    """Grade the episodes again where a grader is given, and print what came of each suite."""
    if metric is not None and metric not in get_args(Metric):
        raise UnknownIdError.of("metric", metric, get_args(Metric))
    console, run = Console(), RunFolder.open(path)
    if grader is not None:
        _say_what_changed(console, list(rescore(run, grader)))
    print_results(console, path, str(run.config.get("model", "")), cast("Metric | None", metric))


def _say_what_changed(console: Console, graded: list[Change]) -> None:
    changed = [change for change in graded if change.differs]
    solved = sum(change.after[0] and not change.before[0] for change in changed)
    lost = sum(change.before[0] and not change.after[0] for change in changed)
    lines = [f"{len(graded):,} episodes graded, {len(changed):,} differ: {solved:,} solved now, {lost:,} no longer"]
    for change in changed[:_SHOWN]:
        before, after = (
            f"{'solved' if success else 'not solved'} ({score:.3f})" for success, score in (change.before, change.after)
        )
        lines.append(f"  {change.id}: {before} -> {after}")
    if len(changed) > _SHOWN:
        lines.append(f"  ... and {len(changed) - _SHOWN:,} more")
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
