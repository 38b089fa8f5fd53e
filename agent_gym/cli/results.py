"""The tables at the end of `agent-gym eval`: what came of each suite."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from agent_gym.evaluation.report import Report, report_of
from agent_gym.evaluation.statistics import Estimate
from agent_gym.evaluation.suites import Metric
from agent_gym.store.run import RunFolder

_NAMES = {"pass_at_k": "pass@{}", "pass_hat_k": "pass^{}", "maj_at_k": "maj@{}", "best_of_k": "best of {}"}
_USES = {
    "tool_calls": ("calls of tools", "{:.1f}"),
    "seconds": ("seconds", "{:.2f}"),
    "cost": ("dollars", "{:.4f}"),
}


def print_results(console: Console, folder: Path, model: str, metric: Metric | None = None) -> None:
    """Print what came of each suite of a run, and where the episodes are.

    Args:
        console: Where to print.
        folder: The run.
        model: Who played.
        metric: What is measured; by default what each suite says.
    """
    reports = report_of(RunFolder.open(folder), metric=metric)
    for report in reports:
        console.print(_numbers(report, f"{model} on {report.suite}"))
        if len(report.types) > 1:
            console.print(_types(report))
        for warning in report.warnings:
            _say(console, f"note: {warning}", style="yellow")
        for one in report.references:
            _say(console, f"published: {one['value']:g} {one['measure']}, {one['model']}: {one['source']}")
    if len(reports) > 1:
        console.print(_overview(reports))
    _say(console, f"run folder: {folder}  (episodes: agent-gym show {folder}; in a browser: agent-gym view {folder})")


def _numbers(report: Report, title: str) -> Table:
    table = Table(title=title)
    table.add_column("measure")
    for heading in ("value", "95% interval"):
        table.add_column(heading, justify="right")
    # What failed says nothing about the agent, so the first line leaves it out; the second one shows the worst case.
    excused = " (of those that did not fail)" * bool(report.failed)
    _add(table, f"{report.metric}{excused}", report.value)
    if report.metric != "success":
        _add(table, f"success{excused}", report.success)
    if report.failed:
        _add(table, "success, failed ones counted as wrong", report.counting_failures)
    if report.metric != "reward":
        _add(table, "reward", report.reward)
    for kind, found in report.over_k.items():
        for k, estimate in found.items():
            # Of the numbers for one attempt, pass@1 alone is no repetition: there each task counts the same.
            if k > 1 or (kind == "pass_at_k" and len(found) > 1):
                _add(table, _NAMES[kind].format(k), estimate)
    if report.answer_entropy.value is not None:
        _add(table, "entropy of a task's answers", report.answer_entropy)
    for name, use in report.use.items():
        label, form = _USES.get(name, (name.replace("_", " "), "{:,.1f}"))
        if use.mean:
            table.add_row(f"{label} an episode", form.format(use.mean), "")
    if report.invalid_actions is not None:
        table.add_row("actions that did nothing", f"{report.invalid_actions:.0%}", "")
    table.add_row("tasks, episodes", f"{report.tasks:,}, {report.attempts:,}", "")
    table.add_row("ended by a limit", f"{report.limited:,}", "")
    table.add_row("failed episodes", f"{report.failed:,}", "")
    return table


def _types(report: Report) -> Table:
    table = Table(title="by type of task")
    for heading in ("type", "tasks", "episodes", report.metric, "95% interval"):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for row in report.types:
        value, interval = _shown(row.value)
        table.add_row(row.type or "unknown", f"{row.tasks:,}", f"{row.attempts:,}", value, interval)
    value, interval = _shown(report.types_alike)
    table.add_row("each type alike", "", "", value, interval)
    return table


def _overview(reports: list[Report]) -> Table:
    table = Table(title="all suites")
    for heading in ("suite", "counts", "value", "95% interval", "episodes", "failed"):
        words = heading in ("suite", "counts")
        table.add_column(heading, justify="left" if words else "right", no_wrap=heading == "suite")
    for report in reports:
        table.add_row(report.suite, report.metric, *_shown(report.value), f"{report.attempts:,}", f"{report.failed:,}")
    return table


def _add(table: Table, label: str, estimate: Estimate) -> None:
    table.add_row(label, *_shown(estimate))


def _shown(estimate: Estimate) -> tuple[str, str]:
    """Return a mean and its interval; what is undefined says so."""
    if estimate.value is None:
        return "undefined", ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}", ""
    return f"{estimate.value:.3f}", f"{estimate.low:.3f} - {estimate.high:.3f}"


def _say(console: Console, line: str, style: str | None = None) -> None:
    console.print(line, style=style, soft_wrap=True, markup=False, highlight=False)
