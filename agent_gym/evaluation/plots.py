"""Pictures of a run."""

from pathlib import Path
from typing import Any

from agent_gym.errors import MissingExtraError
from agent_gym.evaluation.statistics import wilson
from agent_gym.store.atomic import writing

_WINDOW = 5


def learning_curve(records: list[dict[str, Any]], path: Path, *, title: str = "") -> Path:
    """Draw success over steps: in training, and on tasks never trained on, with 95% intervals; write a PNG.

    Args:
        records: The records of a run's metrics.jsonl.
        path: Where the picture goes.
        title: Put above it.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StoreError: The picture cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError.of("plots", "Drawing a learning curve") from error
    training = [record for record in records if record["phase"] == "train"]
    measured = [record for record in records if record["phase"] in ("before", "during", "after")]
    figure = Figure(figsize=(8, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [record["step"] for record in training]
    success = [record["success_rate"] for record in training]
    axes.plot(steps, success, color="tab:blue", alpha=0.25, linewidth=1)
    axes.plot(steps, _smooth(success), color="tab:blue", linewidth=2, label=f"training games (mean of {_WINDOW} steps)")
    if measured:
        rates = [record["success_rate"] for record in measured]
        bounds = [wilson(record["successes"], record["episodes"] - record["failed"]) for record in measured]
        errors = [
            [max(rate - low, 0) for rate, (low, _) in zip(rates, bounds, strict=True)],
            [max(high - rate, 0) for rate, (_, high) in zip(rates, bounds, strict=True)],
        ]
        axes.errorbar(
            [record["step"] for record in measured],
            rates,
            yerr=errors,
            color="tab:orange",
            marker="o",
            capsize=3,
            linewidth=2,
            label="unseen games (95% interval)",
        )
    axes.set(xlabel="training step", ylabel="success", ylim=(0, 1), title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    with writing(path):
        figure.savefig(path)
    return path


def _smooth(values: list[float]) -> list[float]:
    """Return the mean over the last few values at each place."""
    smooth = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - _WINDOW) : end]
        smooth.append(sum(window) / len(window))
    return smooth
