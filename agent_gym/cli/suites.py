"""`agent-gym suites`: what can be measured, and what there is to do before."""

import textwrap
from itertools import groupby

from rich.console import Console

from agent_gym.evaluation.suites import Suite, find_suite, suites


def list_suites() -> None:
    """Print one line a suite, and what gets that which is not at hand; single tasks of a family share a line."""
    console = Console()
    console.print(f"[bold]{_row('suite', 'tasks', 'counts', 'at hand', 'what')}[/bold]", soft_wrap=True)
    commands: dict[str, None] = {}
    for _, group in groupby(suites().values(), _line):
        first, *others = group
        name = f"{first.name} and {len(others)} more" if others else first.name
        lacking = first.lacking()
        commands |= {lacking: None} if lacking else {}
        size, there = "" if others else _size(first), "no" if lacking else "yes"
        _say(console, _row(name, size, first.metric, there, first.description))
    if commands:
        _say(console, "\nwhat gets what is not at hand:")
    for command in commands:
        _say(console, f"  {command}")
    _say(console, "\nagent-gym suites NAME says more of one; agent-gym eval --suite FILE.yaml plays one of your own")


def _row(name: str, size: str, metric: str, there: str, what: str) -> str:
    return f"{name:<28} {size:>5}  {metric:<7}  {there:<7}  {what}"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


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
            _say(console, f"  {label:<24}{lines}")
    for reference in suite.references:
        _say(console, f"  published: {reference.value:g} {reference.measure}, {reference.model}: {reference.source}")


def _line(suite: Suite) -> str:
    """Return what suites have in common that share a line of the list."""
    return suite.name.partition("/")[0] + "/" + suite.description if suite.description == "one task" else suite.name


def _size(suite: Suite) -> str:
    if isinstance(suite.tasks, list):
        return f"{len(suite.tasks):,}"
    number = suite.count if suite.count is not None else suite.tasks
    return "" if number is None else f"{number:,}"
