"""`agent-gym suites`: what can be measured, and what there is to do before."""

import textwrap
from itertools import groupby

from rich.console import Console, JustifyMethod
from rich.table import Table

from agent_gym.evaluation.suites import Suite, find_suite, suites


def list_suites() -> None:
    """Print one line a suite, and what gets that which is not at hand; single tasks of a family share a line."""
    console = Console()
    table = Table(box=None, header_style="bold")
    widths = {"suite": 28, "tasks": 5, "counts": 7, "at hand": 7, "what": 12}
    for heading, width in widths.items():
        side: JustifyMethod = "right" if heading == "tasks" else "left"
        table.add_column(heading, no_wrap=True, overflow="ellipsis", justify=side, min_width=width)
    commands: dict[str, None] = {}
    for _, group in groupby(suites().values(), _line):
        first, *others = group
        name = f"{first.name} and {len(others)} others" if others else first.name
        lacking = first.lacking()
        commands |= {lacking: None} if lacking else {}
        table.add_row(name, "" if others else _size(first), first.metric, "no" if lacking else "yes", first.description)
    console.print(table)
    if commands:
        console.print("\nwhat gets what is not at hand:")
    for command in commands:
        console.print(f"  {command}", highlight=False, soft_wrap=True)
    console.print("\nagent-gym suites NAME says more of one; --suite FILE.yaml plays one of your own.", highlight=False)


def describe_suite(name: str) -> None:
    """Print all there is to know of a suite."""
    console, suite = Console(), find_suite(name)
    needs, rollout = suite.needs, suite.rollout
    options = ", ".join(f"{key}={value}" for key, value in suite.env.options.items())
    rows = {
        "": suite.description,
        "environment": f"{suite.env.id} ({options})" if options else suite.env.id,
        "split": suite.split or "one that the environment holds out",
        "tasks": _size(suite) or "all",
        "attempts a task": str(suite.attempts),
        "counts": suite.metric,
        "prompt": rollout.system_prompt or "what the environment says",
        "actions": f"{rollout.syntax}, {rollout.max_tokens} tokens a turn, temperature {suite.temperature:g}",
        "sha256 of the ids": suite.ids or "not pinned",
        "sha256 of the contents": suite.contents or "not pinned",
        "at hand": suite.lacking() or "yes",
        "to be chosen": f"--set env.options.{needs.option}=..." if needs.option else "",
        "note": needs.note,
    }
    console.print(f"[bold]{suite.name}[/bold]")
    for label, text in rows.items():
        if text:
            lines = textwrap.fill(text, 90, subsequent_indent=" " * 26, break_on_hyphens=False)
            console.print(f"  {label:<24}{lines}", markup=False, highlight=False, soft_wrap=True)
    for reference in suite.references:
        line = f"  published: {reference.value:g} {reference.measure}, {reference.model} ({reference.source})"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _line(suite: Suite) -> str:
    """Return what suites have in common that share a line of the list."""
    return suite.name.partition("/")[0] + "/" + suite.description if suite.description == "one task" else suite.name


def _size(suite: Suite) -> str:
    if isinstance(suite.tasks, list):
        return f"{len(suite.tasks):,}"
    number = suite.count if suite.count is not None else suite.tasks
    return "" if number is None else f"{number:,}"
