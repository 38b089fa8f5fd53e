"""`agent-gym envs` and `agent-gym show`."""

import inspect
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent_gym.errors import UnknownIdError
from agent_gym.registry import find_spec, options_of, resolve, specs
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory


def list_envs() -> None:
    """Print a table of the environments."""
    table = Table()
    table.add_column("id", style="bold")
    table.add_column("gymnasium id")
    table.add_column("what it is")
    for spec in specs():
        table.add_row(spec.id, spec.gymnasium_id, spec.description)
    Console().print(table)


def describe_env(env_id: str) -> None:
    """Print the options and the splits of an environment."""
    console = Console(highlight=False)
    spec = find_spec(env_id)
    constructor = resolve(spec.entry_point)
    if spec.description:
        console.print(f"[bold]{escape(env_id)}[/bold]: {escape(spec.description)}")
    table = Table()
    table.add_column("option", style="bold")
    table.add_column("default")
    for name, default in options_of(constructor).items():
        # One without a default is what a class gives to its base.
        if default is not inspect.Parameter.empty:
            table.add_row(escape(name), escape(repr(spec.kwargs.get(name, default))))
    console.print(table)
    splits = getattr(constructor, "splits", ())
    console.print(f"splits: {', '.join(splits)}")


def show_run(
    path: Path, *, episode: str | None, phase: str | None, step: int | None, count: int, failures: bool
) -> None:
    """Print episodes of a run."""
    console = Console(highlight=False)
    run = RunFolder.open(path)
    with run.trajectories() as store:
        if episode is not None:
            _print(console, store.get(episode))
            return
        if phase is not None and phase not in store.phases():
            raise UnknownIdError.of("phase", phase, store.phases())
        chosen = store.select(phase=phase, step=step, newest=True)
        wanted = (trajectory for trajectory in chosen if not (failures and trajectory.success))
        shown = 0
        for trajectory in islice(wanted, count):
            _print(console, trajectory)
            shown += 1
        console.print(f"[dim]{shown} of {store.count(phase)} episodes; --episode ID shows one[/dim]")


def _print(console: Console, trajectory: Trajectory) -> None:
    if trajectory.error:
        verdict = f"[yellow]failed: {escape(trajectory.error)}[/yellow]"
    else:
        verdict = "[green]success[/green]" if trajectory.success else "[red]no success[/red]"
    console.rule(escape(trajectory.id))
    console.print(
        f"{verdict}  reward {trajectory.reward:g}  {len(trajectory.turns)} turns  {len(trajectory.token_ids)} tokens  "
        f"task {escape(trajectory.task_id)}\n"
    )
    for turn in trajectory.turns:
        console.print(escape(turn.observation))
        mark = " [yellow](did nothing)[/yellow]" if turn.invalid_action else ""
        console.print(f"[bold green]> {escape(turn.action)}[/bold green]{mark}")
    if trajectory.final_observation:
        console.print(escape(trajectory.final_observation))
    console.print()
