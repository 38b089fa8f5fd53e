"""`agent-gym eval`."""

from collections import Counter
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from agent_gym.cli.training import noun
from agent_gym.config import EvalConfig, load, read_yaml
from agent_gym.errors import ConfigError
from agent_gym.evaluation.runner import evaluate, with_split
from agent_gym.evaluation.statistics import wilson
from agent_gym.trajectory import Trajectory

_SHOWN_ERRORS = 3


def run_evaluation(path: Path | None, overrides: dict[str, Any], *, name: str | None, runs: Path) -> None:
    """Load the configuration, play, and print the score."""
    if "model" not in overrides and (path is None or "model" not in read_yaml(path)):
        raise ConfigError("No model was given: add --model with a model folder, a run folder, 'expert' or 'random'.")
    config = with_split(load(EvalConfig, path, _settings_of_run(overrides) | overrides))
    console = Console()
    bars = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("success {task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    won = done = limited = 0
    errors: Counter[str] = Counter()
    with bars:
        bar = bars.add_task(f"{config.env.id}/{config.split}", total=config.tasks * config.attempts, rate="")

        def heard(trajectory: Trajectory) -> None:
            nonlocal won, done, limited
            won, done, limited = won + trajectory.success, done + 1, limited + trajectory.truncated
            errors.update([trajectory.error] if trajectory.error else [])
            bars.update(bar, advance=1, rate=f"{won / done:.2f}")

        summary = evaluate(config, runs / name if name else None, on_episode=heard)
    table = Table(title=f"{config.model} on {config.env.id}, split {config.split}")
    table.add_column("measure")
    table.add_column("value", justify="right")
    low, high = wilson(summary.successes, summary.episodes - summary.failed)
    table.add_row("success" + " (of those that did not fail)" * bool(errors), f"{summary.success_rate:.3f}")
    table.add_row("95% interval", f"{low:.3f} - {high:.3f}")
    table.add_row("reward", f"{summary.reward:.3f}")
    table.add_row("turns an episode", f"{summary.turns:.1f}")
    table.add_row("actions that did nothing", f"{summary.invalid_actions:.0%}")
    table.add_row(f"{noun(config.env.id)}s played", str(summary.episodes))
    table.add_row("ended by a limit", str(limited))
    table.add_row("failed episodes", str(summary.failed))
    console.print(table)
    for error, count in errors.most_common(_SHOWN_ERRORS):
        console.print(f"{count} failed: {error}", style="yellow", markup=False, soft_wrap=True)
    if name:
        console.print(f"run folder: {runs / name}  (episodes: agent-gym show {runs / name})", soft_wrap=True)
    if summary.failed == summary.episodes:
        raise typer.Exit(1)


def _settings_of_run(overrides: dict[str, Any]) -> dict[str, Any]:
    """A run's model is asked as it was trained: return the run's environment and rollout as overrides."""
    path = Path(str(overrides.get("model", ""))) / "config.yaml"
    if not path.is_file():
        return {}
    config = read_yaml(path).get("config", {})
    taken: dict[str, Any] = {}
    for section in ("env", "rollout"):
        taken |= {f"{section}.{key}": value for key, value in config.get(section, {}).items()}
    return taken
