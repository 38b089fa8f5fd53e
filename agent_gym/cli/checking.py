"""`agent-gym check`: the conformance suite as a table."""

from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent_gym.envs.conformance import conform
from agent_gym.registry import make

_MARKS = {True: "[green]ok[/green]", False: "[red]fails[/red]", None: "[dim]-[/dim]"}


def run_checks(env_id: str, options: dict[str, Any], *, only: str | None) -> None:
    """Run the checks and print a row each; exit with code 1 if one fails."""
    console = Console()
    # What cannot be made at all is an error of its own, not a failed check.
    make(env_id, **options).close()
    table = Table(title=env_id)
    for heading in ("check", "", "what was found", "s"):
        table.add_column(heading, justify="right" if heading == "s" else "left")
    failed = 0
    with console.status("checking") as status:
        for check in conform(lambda: make(env_id, **options), only=only):
            status.update(f"checking: {check.name} is done")
            table.add_row(check.name, _MARKS[check.passed], escape(check.detail), f"{check.seconds:.2f}")
            failed += check.passed is False
    console.print(table)
    if failed:
        console.print(f"{failed} of {table.row_count} checks failed")
        raise typer.Exit(1)
