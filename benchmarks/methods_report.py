"""The numbers, tables and pictures of `benchmarks/methods.py`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from methods_runs import Outcome
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_DRAWS = 4000
_COLOURS = {
    "grpo": "black",
    "epo": "tab:blue",
    "arpo": "tab:orange",
    "aepo": "tab:red",
    "empg": "tab:green",
    "spear": "tab:purple",
    "epo-strong": "tab:cyan",
    "arpo-2": "tab:brown",
    "spear-unpaid": "tab:pink",
}


def summary(outcomes: Sequence[Outcome], base: Sequence[Outcome]) -> dict[str, Any]:
    """Return what the runs of a method on a set-up came to, beside the runs of GRPO with the same seeds.

    Intervals are 95% bootstrap intervals over seeds and tasks, both drawn with replacement; those of differences draw
    the same seeds and tasks on both sides. Three seeds are few: they are somewhat too narrow.
    """
    solved = _matrix(outcomes)
    seeds = {outcome.seed for outcome in outcomes}
    paired = _matrix([outcome for outcome in base if outcome.seed in seeds])
    entropies = np.array([outcome.entropies for outcome in outcomes])
    turns = _mean(outcomes, lambda outcome: outcome.env_turns)
    return {
        "seeds": len(outcomes),
        "success": solved.mean(),
        "success_interval": _interval(solved),
        "difference": solved.mean() - paired.mean() if paired.shape == solved.shape else None,
        "difference_interval": _interval(solved - paired) if paired.shape == solved.shape else None,
        "before": float(np.mean([outcome.curve[0][1] for outcome in outcomes])),
        "area": float(np.mean([area(outcome) for outcome in outcomes])),
        "area_by_seed": [area(outcome) for outcome in outcomes],
        "early_area": float(np.mean([area(outcome, share=0.5) for outcome in outcomes])),
        "entropy": entropies.mean(),
        "entropy_variance": entropies.var(axis=1).mean(),
        "entropy_range": [entropies.min(axis=1).mean(), entropies.max(axis=1).mean()],
        "entropy_last": entropies[:, -1].mean(),
        "inside_corridor": float(np.mean([inside_corridor(outcome.entropies) for outcome in outcomes])),
        "episodes": _mean(outcomes, lambda outcome: outcome.episodes),
        "env_turns": turns,
        "tool_calls": _mean(outcomes, lambda outcome: outcome.tool_calls),
        "base_success_at_these_turns": _mean(base, lambda each: success_after(each, turns)),
        "seconds": _mean(outcomes, lambda outcome: outcome.seconds),
        "cpu_seconds": _mean(outcomes, lambda outcome: outcome.cpu_seconds),
    }


def area(outcome: Outcome, *, share: float = 1.0) -> float:
    """Return the mean height of the learning curve over the first share of the steps."""
    steps, success = [point[0] for point in outcome.curve], [point[1] for point in outcome.curve]
    ends = np.linspace(0, steps[-1] * share, 101)
    return float(np.interp(ends, steps, success).mean())


def success_after(outcome: Outcome, env_turns: float) -> float:
    """Return the success that a run had after so many environment turns, between two measurements by a line."""
    return float(np.interp(env_turns, [point[2] for point in outcome.curve], [point[1] for point in outcome.curve]))


def inside_corridor(entropies: Sequence[float], *, high: float = 2.0) -> float:
    """Return the share of steps, after the first, whose entropy is at most `high` times the mean of those before."""
    before = np.cumsum(entropies)[:-1] / np.arange(1, len(entropies))
    return float(np.mean(np.asarray(entropies[1:]) <= high * before))


def _mean(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> float:
    return float(np.mean([value(outcome) for outcome in outcomes])) if outcomes else float("nan")


def _matrix(outcomes: Sequence[Outcome]) -> Numbers:
    """Return success, a row a seed and a column a task."""
    return np.array([outcome.solved for outcome in sorted(outcomes, key=lambda each: each.seed)], dtype=np.float64)


def _interval(values: Numbers) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    rows, columns = values.shape
    means = [
        values[rng.integers(rows, size=rows)][:, rng.integers(columns, size=columns)].mean() for _ in range(_DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table, a row a method.

    "turns" are those of the environment in training, and "GRPO then" is what GRPO had reached after as many.
    """
    heads = (
        "method",
        "success",
        "against GRPO",
        "area",
        "first half",
        "entropy",
        "variance x 1000",
        "range",
        "episodes",
        "turns",
        "GRPO then",
        "tool calls",
        "CPU s",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for method, row in rows.items():
        low, high = row["success_interval"]
        cells = [
            method,
            f"{row['success']:.2f} ({low:.2f} to {high:.2f})",
            _difference(row) if method != "grpo" else "",
            f"{row['area']:.3f}",
            f"{row['early_area']:.3f}",
            f"{row['entropy']:.3f}",
            f"{1000 * row['entropy_variance']:.2f}",
            "{:.2f} to {:.2f}".format(*row["entropy_range"]),
            f"{row['episodes']:.0f}",
            f"{row['env_turns']:.0f}",
            f"{row['base_success_at_these_turns']:.2f}",
            f"{row['tool_calls']:.0f}" if row["tool_calls"] else "",
            f"{row['cpu_seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _difference(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(row["difference"], *row["difference_interval"])


def draw(setup: str, outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw success over steps and over environment turns, and entropy over steps: means over seeds, and their range."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    by_step, by_turn, entropy = figure.subplots(1, 3)
    for method, colour in _COLOURS.items():
        runs = [outcome for outcome in outcomes if outcome.method == method]
        if not runs:
            continue
        steps = [point[0] for point in runs[0].curve]
        success = np.array([[point[1] for point in run.curve] for run in runs])
        turns = np.array([[point[2] for point in run.curve] for run in runs]).mean(axis=0)
        by_step.plot(steps, success.mean(axis=0), color=colour, marker=".", label=method)
        by_turn.plot(turns, success.mean(axis=0), color=colour, marker=".")
        curves = np.array([run.entropies for run in runs])
        numbers = np.arange(1, curves.shape[1] + 1)
        entropy.plot(numbers, curves.mean(axis=0), color=colour)
        entropy.fill_between(numbers, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.08)
    by_step.set(xlabel="training step", ylabel="success on held-out tasks", title=setup)
    by_turn.set(xlabel="environment turns used in training", ylabel="success on held-out tasks")
    entropy.set(xlabel="training step", ylabel="entropy of sampling (nats a token)", ylim=(0, None))
    by_step.legend(frameon=False)
    for axes in (by_step, by_turn, entropy):
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def write_numbers(summaries: dict[str, Any], outcomes: Sequence[Outcome], path: Path) -> None:
    """Write everything as JSON."""
    values = {"summaries": summaries, "runs": [asdict(outcome) for outcome in outcomes]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1, default=float), encoding="utf-8")
