"""`agent-gym envs` and `agent-gym show`."""

import inspect
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent_gym.cli.docstrings import said_of_arguments
from agent_gym.env import TextEnv
from agent_gym.envs.tool_env import ToolEnv
from agent_gym.errors import AgentGymError, UnknownIdError
from agent_gym.registry import find_spec, make, options_of, resolve, specs
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
    """Print the options of an environment, its splits with the number of their tasks, and its tools.

    One that cannot be made with the defaults is described as far as its class goes, and says why.
    """
    console = Console(highlight=False)
    spec = find_spec(env_id)
    constructor = resolve(spec.entry_point)
    if spec.description:
        console.print(f"[bold]{escape(env_id)}[/bold]: {escape(spec.description)}")
    console.print(_options(constructor, spec.kwargs))
    try:
        with console.status("making it"), closing(make(env_id)) as env:
            tables = [_splits(env), *_tools(env)]
    except AgentGymError as error:
        tables = []
        console.print(f"splits: {escape(', '.join(getattr(constructor, 'splits', ())) or 'known when it is made')}")
        console.print(f"[yellow]It cannot be made with the defaults:[/yellow] {escape(str(error))}", soft_wrap=True)
    for table in tables:
        console.print(table)


def _options(constructor: Callable[..., TextEnv], registered: dict[str, Any]) -> Table:
    table = _table("option", "default", "what it does")
    told = said_of_arguments(constructor)
    own = inspect.signature(constructor).parameters
    for name, default in (options_of(constructor) | registered).items():
        if default is not inspect.Parameter.empty:
            table.add_row(escape(name), escape(repr(default)), escape(told.get(name, "")))
        elif name in own:
            table.add_row(escape(name), "[yellow]must be given[/yellow]", escape(told.get(name, "")))
        # Otherwise it is what a class gives to its base, and no option of the environment.
    return table


def _splits(env: TextEnv) -> Table:
    table = _table("split", "tasks")
    table.columns[1].justify = "right"
    for split in env.splits:
        table.add_row(escape(split), f"{len(env.tasks(split)):,}")
    return table


def _tools(env: TextEnv) -> list[Table]:
    """Return the table of the tools that an agent has there; nothing where it has none."""
    if not isinstance(env, ToolEnv) or not env.toolbox.names:
        return []
    table = _table("tool", "what the agent is told")
    for schema in env.toolbox.schemas():
        told = schema["function"]
        table.add_row(escape(told["name"]), escape(told["description"].partition("\n\n")[0]))
    return [table]


def _table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first, style="bold")
    for heading in others:
        table.add_column(heading, overflow="fold")
    return table


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
    for number, turn in enumerate(trajectory.turns):
        if trajectory.parent_id is not None and number == trajectory.branch_turn:
            console.print(f"[cyan]{escape(_parting(trajectory))}[/cyan]")
        console.print(escape(turn.observation))
        mark = " [yellow](did nothing)[/yellow]" if turn.invalid_action else ""
        console.print(f"[bold green]> {escape(turn.action)}[/bold green]{mark}")
    if trajectory.final_observation:
        console.print(escape(trajectory.final_observation))
    console.print()


def _parting(trajectory: Trajectory) -> str:
    """Say where a branch left its parent, and why."""
    told = trajectory.metadata
    why = ""
    if "branch_probability" in told:
        why = (
            f" (entropy {float(told['branch_entropy']):.3g}, at first {float(told['initial_entropy']):.3g}: "
            f"branches with probability {float(told['branch_probability']):.2f})"
        )
    return f"-- from here on a branch of {trajectory.parent_id}{why}"
