"""Means with intervals that are honest about how few tasks were played, and about attempts that share a task."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent_gym.evaluation.bootstrap import bootstrap_interval
from agent_gym.evaluation.distributions import normal_quantile, student_quantile

FEW_TASKS = 15
"""With fewer tasks the bootstrap is too narrow: of its 95% intervals over five tasks 86% hold the mean."""
MANY_TASKS = 5000
"""From so many tasks on a mean is normal for all purposes, and the bootstrap adds nothing but time."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval; what cannot be known is None, and `method` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str = ""
    """How the interval was made, or why there is none."""
    tasks: int = 0
    """Tasks that went into it."""
    left_out: int = 0
    """Tasks that had too few attempts for it."""

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name, for JSON."""
        return asdict(self)

    def as_rate(self) -> dict[str, Any]:
        """Return what a row of a table shows of it, the mean as `rate`."""
        return {"rate": self.value, "low": self.low, "high": self.high, "method": self.method}


def wilson(successes: float, count: float, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a success rate.

    Args:
        successes: Successes seen, between 0 and `count`; a sum of scores within [0, 1] makes the interval wider than
            it need be, never narrower.
        count: Independent attempts; with none the interval is NaN.
        z: Quantile of the normal distribution; the default gives 95%.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"successes must lie between 0 and {count}, not {successes}.")
    if count == 0:
        return math.nan, math.nan
    rate = successes / count
    centre = rate + z * z / (2 * count)
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # At the ends the formula gives 0 and 1 exactly, and floating point almost.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == count else (centre + half) / scale
    return low, high


def standard_error(sums: ArrayLike, counts: ArrayLike | None = None) -> float:
    """Return the standard error of a mean whose observations come in clusters.

    Args:
        sums: Sum of the values of each cluster, (tasks,).
        counts: How many values each cluster has, (tasks,); 1 each if None, which gives the usual standard error.

    Returns:
        sqrt(C / (C - 1) sum_c (sum_i (s_ci - mean))^2) / n for C clusters of n values in all; NaN for fewer than two.

    Source: Miller, "Adding error bars to evals", 2024, appendix A; with the correction C / (C - 1), as in inspect_ai.
    """
    total, size = _clusters(sums, counts)
    clusters = len(total)
    if clusters < 2:
        return math.nan
    deviations = total - size * (total.sum() / size.sum())
    return math.sqrt(float((deviations**2).sum()) * clusters / (clusters - 1)) / float(size.sum())


def student_interval(sums: ArrayLike, counts: ArrayLike | None = None, *, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of a mean, with the clustered standard error and C - 1 degrees of freedom.

    Args:
        sums: Sum of the values of each cluster, (tasks,).
        counts: How many values each cluster has, (tasks,); 1 each if None.
        level: Share of intervals that hold the true mean.
    """
    total, size = _clusters(sums, counts)
    if len(total) < 2:
        return math.nan, math.nan
    mean = float(total.sum() / size.sum())
    half = student_quantile((1 + level) / 2, len(total) - 1) * standard_error(total, size)
    return mean - half, mean + half


def estimate(
    sums: ArrayLike,
    counts: ArrayLike | None = None,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    unit: bool = True,
    left_out: int = 0,
) -> Estimate:
    """Return a mean with the interval that fits the values.

    - Successes, one attempt a task: Wilson's score interval.
    - Several attempts a task, or scores between 0 and 1: the bootstrap over tasks (BCa); below 15 tasks, and from
      5,000 on, Student's interval. Where values lie within [0, 1] by their meaning it stays there, and allows for a
      kind of task that happened to be none of these, see `allowing_for_the_unseen`.
    - All tasks came out alike, all solved for example: what is resampled never varies, and an interval of no width
      would be a lie. Values that lie within [0, 1] by their meaning get Wilson's interval over the tasks, which is
      wide enough in any case; others none.

    Args:
        sums: Sum of the values of each task, (tasks,).
        counts: Attempts at each task, (tasks,); 1 each if None.
        rng: Where chance comes from.
        level: Share of intervals that hold the true mean.
        unit: Values lie within [0, 1] by their meaning, as successes do, and not by chance, as rewards may.
        left_out: Tasks that could not take part; it is passed on.
    """
    total, size = _clusters(sums, counts)
    tasks = len(total)
    if tasks == 0:
        return Estimate(None, method="undefined: no task has enough attempts", left_out=left_out)
    mean = float(total.sum() / size.sum())
    z = normal_quantile((1 + level) / 2)
    bounded = bool(((total >= 0) & (total <= size)).all())
    single = bool((size == 1).all())
    if single and bounded and bool(((total == 0) | (total == 1)).all()):
        low, high = wilson(float(total.sum()), tasks, z=z)
        return Estimate(mean, low, high, "Wilson", tasks, left_out)
    if np.ptp(total / size) < 1e-12:
        if bounded and unit:
            low, high = wilson(min(mean, 1.0) * tasks, tasks, z=z)
            return Estimate(mean, low, high, "Wilson over tasks, which are all alike", tasks, left_out)
        why = "no interval: one task only" if tasks == 1 else "no interval: all tasks are alike"
        return Estimate(mean, None, None, why, tasks, left_out)
    if FEW_TASKS <= tasks < MANY_TASKS:
        (low, high), method = bootstrap_interval(total, size, rng=rng, level=level), "bootstrap over tasks (BCa)"
    else:
        (low, high), method = student_interval(total, size, level=level), "Student over tasks"
    if bounded and unit:
        low, high = allowing_for_the_unseen(low, high, mean, tasks, z=z)
    return Estimate(mean, low, high, method, tasks, left_out)


def allowing_for_the_unseen(low: float, high: float, mean: float, tasks: int, *, z: float) -> tuple[float, float]:
    """Return an interval of a mean of values in [0, 1] that is no narrower than that of tasks which are all alike.

    Of `tasks` tasks that are all solved, Wilson's interval begins at tasks / (tasks + z^2): a kind of task that is
    never solved may have the rest, and was not drawn. It may likewise where one attempt at one task went wrong.

    Args:
        low: Of the interval.
        high: Of the interval.
        mean: The mean that was seen.
        tasks: How many tasks it is of.
        z: Quantile of the normal distribution.
    """
    share = z * z / (tasks + z * z)
    return max(0.0, min(low, mean * (1 - share))), min(1.0, max(high, mean + (1 - mean) * share))


def _clusters(sums: ArrayLike, counts: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total = np.asarray(sums, dtype=np.float64)
    size = np.ones_like(total) if counts is None else np.asarray(counts, dtype=np.float64)
    if total.shape != size.shape or total.ndim != 1:
        raise ValueError(f"sums of shape {total.shape} came with counts of shape {size.shape}: give one count a sum.")
    if (size < 1).any():
        raise ValueError("Each cluster must hold at least one value: leave the empty ones out.")
    return total, size
