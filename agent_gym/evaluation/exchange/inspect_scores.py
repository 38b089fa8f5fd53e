"""What inspect_ai's logs say of all samples together: metrics of each scorer, and each task's mean over its attempts.

The numbers are those that inspect_ai computes from the samples: a task's scores are averaged first, failed attempts
left out, and the metrics are over tasks. Our own rate is over episodes; the two agree where no attempt failed.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from agent_gym.trajectory import Trajectory

SCORERS: Final = {"success": ("accuracy", "stderr"), "score": ("mean", "stderr"), "reward": ("mean", "stderr")}
"""The scorers of our logs, the first of which is the headline, and their metrics."""


@dataclass(slots=True)
class _Task:
    epochs: int = 0
    """Bit number E is set where there is an attempt with that number."""
    counts: list[int] = field(default_factory=lambda: [0] * len(SCORERS))
    sums: list[float] = field(default_factory=lambda: [0.0] * len(SCORERS))


class Tally:
    """Adds up episodes; keeps a few numbers for each task."""

    def __init__(self) -> None:
        self.tasks: dict[str, _Task] = {}
        self.episodes = self.failed = self.successes = 0
        self.usage: dict[str, dict[str, float]] = {}

    def epoch(self, trajectory: Trajectory) -> int:
        """Return the number of an attempt at its task, from 1; where it is taken (in training, say), the next one."""
        task = self.tasks.setdefault(trajectory.task_id, _Task())
        said = trajectory.metadata.get("attempt", "")
        number = int(said) + 1 if said.isdecimal() and len(said) < 7 else 1
        if task.epochs >> number & 1:
            number = task.epochs.bit_length()
        task.epochs |= 1 << number
        return number

    @property
    def epochs(self) -> int:
        """The largest number of an attempt."""
        return max((task.epochs.bit_length() - 1 for task in self.tasks.values()), default=1)

    def add(self, trajectory: Trajectory, model: str, usage: dict[str, float]) -> None:
        """Count an episode."""
        self.episodes += 1
        total = self.usage.setdefault(model, {})
        for name, value in usage.items():
            total[name] = total.get(name, 0) + value
        if trajectory.error is not None:
            self.failed += 1
            return
        self.successes += trajectory.success
        task = self.tasks[trajectory.task_id]
        for place, value in enumerate((float(trajectory.success), trajectory.score, trajectory.reward)):
            if math.isfinite(value):
                task.counts[place] += 1
                task.sums[place] += value

    def results(self) -> dict[str, Any]:
        """Return the log's results."""
        shares = self.successes / (self.episodes - self.failed) if self.episodes > self.failed else None
        return {
            "total_samples": self.episodes,
            "completed_samples": self.episodes - self.failed,
            "scores": [self._scorer(name, place) for place, name in enumerate(SCORERS)],
            "headline": {"scorer": "success", "score": "success", "metric": "accuracy"},
            "metadata": {"episodes": self.episodes, "failed": self.failed, "success_rate_of_episodes": shares},
        }

    def reductions(self) -> Iterator[dict[str, Any]]:
        """Yield each scorer's means over the attempts of each task."""
        for place, name in enumerate(SCORERS):
            samples = [{"value": mean, "history": [], "sample_id": task} for task, mean in self._means(place)]
            yield {"scorer": name, "samples": samples}

    def _means(self, place: int) -> Iterator[tuple[str, float]]:
        for id, task in self.tasks.items():
            if task.counts[place]:
                yield id, task.sums[place] / task.counts[place]

    def _scorer(self, name: str, place: int) -> dict[str, Any]:
        means = [mean for _, mean in self._means(place)]
        values = {
            SCORERS[name][0]: statistics.fmean(means) if means else None,
            "stderr": statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0,
        }
        metrics = {
            metric: {"name": metric, "value": value, "params": {}}
            for metric, value in values.items()
            if value is not None
        }
        return {
            "name": name,
            "scorer": name,
            "scored_samples": len(means),
            "unscored_samples": len(self.tasks) - len(means),
            "params": {},
            "metrics": metrics,
        }
