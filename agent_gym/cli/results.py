"""The table at the end of `agent-gym eval`."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from agent_gym.config import EvalConfig
from agent_gym.evaluation.runner import Evaluation, SuiteScore
from agent_gym.evaluation.statistics import wilson


def print_results(console: Console, result: Evaluation, config: EvalConfig, folder: Path) -> None:
    """Print what came of each suite, and where the episodes are."""
    for each in result.suites:
        if each.score.episodes:
            console.print(_table(each, config))
            for reference in each.plan.suite.references:
                console.print(
                    f"published: {reference.value:g} {reference.measure}, {reference.model} ({reference.source})",
                    soft_wrap=True,
                    highlight=False,
                    markup=False,
                )
    console.print(f"run folder: {folder}  (episodes: agent-gym show {folder})", soft_wrap=True, highlight=False)


def _table(result: SuiteScore, config: EvalConfig) -> Table:
    score = result.score
    table = Table(title=f"{config.model} on {result.plan.title}")
    table.add_column("measure")
    table.add_column("value", justify="right")
    low, high = wilson(score.successes, score.episodes - score.failed)
    table.add_row("success" + " (of those that did not fail)" * bool(score.failed), f"{score.success_rate:.3f}")
    table.add_row("95% interval", f"{low:.3f} - {high:.3f}")
    if score.failed:
        table.add_row("success, failed ones counted as wrong", f"{score.successes / score.episodes:.3f}")
    table.add_row("reward", f"{score.reward:.3f}")
    table.add_row("turns an episode", f"{score.turns:.1f}")
    table.add_row("actions that did nothing", f"{score.invalid_actions:.0%}")
    table.add_row("episodes played", f"{score.episodes:,} of {result.plan.count:,}")
    table.add_row("failed episodes", str(score.failed))
    return table
