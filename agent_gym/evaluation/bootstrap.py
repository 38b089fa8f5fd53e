"""The bootstrap over tasks: an interval for a mean that assumes nothing about how the values are spread.

What is drawn again is a whole task with all of its attempts, because attempts at one task resemble each other.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent_gym.evaluation.distributions import normal_cdf, normal_quantile

RESAMPLES = 4000
"""Drawn by default; the ends of a 95% interval then move by about a twentieth of a standard error."""
_CELLS = 2_000_000
"""Numbers held at once."""


def bootstrap_interval(
    sums: ArrayLike,
    counts: ArrayLike | None = None,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    corrected: bool = True,
) -> tuple[float, float]:
    """Return the bootstrap interval of a mean whose observations come in clusters.

    The mean is sum(sums) / sum(counts): over all attempts, each as heavy as the others.

    Args:
        sums: Sum of the values of each cluster, (tasks,).
        counts: How many values each cluster has, (tasks,), above 0; 1 each if None.
        rng: Where chance comes from.
        level: Share of intervals that hold the true mean.
        resamples: How often the tasks are drawn again.
        corrected: Bias-corrected and accelerated (BCa, Efron 1987); otherwise plain percentiles.

    Returns:
        The ends; both NaN where there are fewer than two clusters, and equal where all clusters have the same mean.
    """
    total = np.asarray(sums, dtype=np.float64)
    size = np.ones_like(total) if counts is None else np.asarray(counts, dtype=np.float64)
    if len(total) < 2:
        return math.nan, math.nan
    means = _resampled_means(total, size, rng, resamples)
    tails = [(1 - level) / 2, (1 + level) / 2]
    if corrected:
        tails = _corrected_tails(total, size, means, tails)
    low, high = np.quantile(means, tails)
    return float(low), float(high)


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], rng: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """Return the mean of each resample, (resamples,).

    Tasks with the same sum and count are interchangeable, so that it is enough to draw how often each kind comes up:
    134 tasks of eight attempts have nine kinds at most.
    """
    kinds, frequency = np.unique(np.stack([sums, counts]), axis=1, return_counts=True)
    tasks = int(frequency.sum())
    means = np.empty(resamples)
    chunk = max(1, _CELLS // kinds.shape[1])
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        if kinds.shape[1] * 4 < tasks:
            drawn = rng.multinomial(tasks, frequency / tasks, size=rows)
            totals = drawn @ kinds.T
        else:
            places = rng.integers(tasks, size=(rows, tasks))
            totals = np.stack([sums[places].sum(axis=1), counts[places].sum(axis=1)], axis=1)
        means[start : start + rows] = totals[:, 0] / totals[:, 1]
    return means


def _corrected_tails(
    sums: NDArray[np.float64], counts: NDArray[np.float64], means: NDArray[np.float64], tails: Sequence[float]
) -> list[float]:
    """Return where to cut, corrected for bias and skewness."""
    observed = sums.sum() / counts.sum()
    # Means that are equal but for rounding count as half below.
    near = np.abs(means - observed) <= 1e-12 * max(1.0, abs(observed))
    below = float(np.mean((means < observed) & ~near) + np.mean(near) / 2)
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    deviation = left_out.mean() - left_out
    spread = float((deviation**2).sum()) ** 1.5
    if not 0 < below < 1 or spread == 0:
        return list(tails)
    bias, skew = normal_quantile(below), float((deviation**3).sum()) / (6 * spread)
    shifted = [bias + normal_quantile(tail) for tail in tails]
    return [normal_cdf(bias + shift / (1 - skew * shift)) for shift in shifted]
