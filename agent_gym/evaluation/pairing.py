"""Tests and intervals for the difference of two runs: on the same tasks, or on different ones.

A task that one run finds hard the other mostly finds hard, too; comparing task by task takes that out, and sees
differences that two separate intervals hide.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from agent_gym.evaluation.distributions import binomial_pmf, normal_cdf, normal_quantile
from agent_gym.evaluation.statistics import wilson

FLIPS = 20_000
"""Sign flips drawn where there are too many to go through: the smallest p-value is then 1 / 20,001."""
_ENUMERATED = 14
_NORMAL = 5000
_CELLS = 2_000_000


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact p-value of McNemar's test, two-sided.

    Args:
        only_first: Tasks that only the first run solved.
        only_second: Tasks that only the second run solved.

    Returns:
        The binomial probability of a split that is at least as uneven, were both sides equally likely; 1 where there
        is no such task.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"Counts of tasks cannot be negative: {only_first}, {only_second}.")
    tail = binomial_pmf(only_first + only_second, 0.5)[: min(only_first, only_second) + 1]
    return min(1.0, 2 * math.fsum(tail))


def sign_flip_test(differences: ArrayLike, *, rng: np.random.Generator, flips: int = FLIPS) -> float:
    """Return the p-value of the paired permutation test on the mean difference, two-sided.

    Were the two runs alike, each task's difference could as well have had the other sign.

    Args:
        differences: Second run minus first, task by task, (tasks,).
        rng: Where chance comes from. With at most 14 differences other than 0 all flips are gone through instead; from
            5,000 on the sum of the flips is taken for normal, which it is.
        flips: How many are drawn otherwise.

    Returns:
        The share of flips whose sum is at least as far from 0, the observed one among them; 1 where all are 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    if len(values) == 0:
        return 1.0
    # Sums that are equal but for rounding are equal.
    threshold = abs(float(values.sum())) * (1 - 1e-9) - 1e-12
    if len(values) <= _ENUMERATED:
        numbers = np.arange(2 ** len(values))
        signs = 1.0 - 2.0 * ((numbers[:, None] >> np.arange(len(values))) & 1)
        return float(np.mean(np.abs(signs @ values) >= threshold))
    if len(values) >= _NORMAL:
        return 2 * normal_cdf(-abs(float(values.sum())) / math.sqrt(float((values**2).sum())))
    extreme = 1
    chunk = max(1, _CELLS // len(values))
    for start in range(0, flips, chunk):
        rows = min(chunk, flips - start)
        # Twice the sum of those that keep their sign, less the sum of all, is the sum with the others flipped.
        kept = rng.integers(0, 2, size=(rows, len(values)), dtype=np.int8)
        extreme += int((np.abs(2 * (kept @ values) - values.sum()) >= threshold).sum())
    return extreme / (flips + 1)


def sign_flip_interval(differences: ArrayLike, *, level: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of the mean difference that holds what the sign flip test does not refuse.

    Its ends are two of the means of all 2^n - 1 subsets of the differences, by order.

    Args:
        differences: Second run minus first, task by task, (tasks,); at most 14.
        level: One less what p-values are compared with.

    Returns:
        The ends; None where there are so few differences that no test refuses anything: up to five, at 95%.

    Source: Hartigan, "Using subsample values as typical values", Journal of the American Statistical Association 64,
    1969.
    """
    values = np.asarray(differences, dtype=np.float64)
    # Of the flips, the one that changes nothing counts as well.
    place = math.ceil(2.0 ** len(values) * (1 - level) / 2 - 1e-9) - 1
    if place < 1:
        return None
    numbers = np.arange(1, 2 ** len(values))
    subsets = ((numbers[:, None] >> np.arange(len(values))) & 1).astype(np.float64)
    means = np.sort(subsets @ values / subsets.sum(axis=1))
    return float(means[place - 1]), float(means[-place])


def paired_interval(only_first: float, only_second: float, pairs: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of the difference of two success rates on the same tasks, one attempt each.

    Args:
        only_first: Tasks that only the first run solved.
        only_second: Tasks that only the second run solved.
        pairs: Tasks in all.
        level: Share of intervals that hold the true difference.

    Returns:
        Ends for second rate minus first; NaN without pairs.

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17, 1998.
    """
    if only_first < 0 or only_second < 0 or only_first + only_second > pairs:
        raise ValueError(f"{only_first} and {only_second} tasks solved by one run only do not fit in {pairs} pairs.")
    if pairs == 0:
        return math.nan, math.nan
    z = normal_quantile((1 + level) / 2)
    high = _tango_end(only_first, only_second, pairs, z)
    low = -_tango_end(only_second, only_first, pairs, z)
    return low, high


def _tango_end(only_first: float, only_second: float, pairs: int, z: float) -> float:
    """Return the largest difference that the score test does not refuse."""
    observed = (only_second - only_first) / pairs
    low, high = observed, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        inside = _tango_score(only_first, only_second, pairs, middle) > -z
        low, high = (middle, high) if inside else (low, middle)
    return high


def _tango_score(only_first: float, only_second: float, pairs: int, difference: float) -> float:
    """Return the score statistic of a supposed difference, about normal where it is the true one."""
    # With that difference, the share of tasks that only the first run solves is most likely the root of a quadratic.
    linear = -only_first - only_second + (2 * pairs - only_second + only_first) * difference
    constant = -only_first * difference * (1 - difference)
    share = (math.sqrt(max(0.0, linear * linear - 8 * pairs * constant)) - linear) / (4 * pairs)
    variance = pairs * (2 * share + difference * (1 - difference))
    distance = only_second - only_first - pairs * difference
    return (
        distance / math.sqrt(variance)
        if variance > 0
        else (0.0 if distance == 0 else math.copysign(math.inf, distance))
    )


def unpaired_interval(
    first: tuple[float, int], second: tuple[float, int], *, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the difference of two success rates on different tasks.

    Args:
        first: Successes and attempts of the first run.
        second: Those of the second run.
        level: Share of intervals that hold the true difference.

    Returns:
        Ends for second rate minus first; NaN where one has no attempt.

    Source: Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine
    17, 1998, method 10: Wilson's interval of each.
    """
    if not first[1] or not second[1]:
        return math.nan, math.nan
    z = normal_quantile((1 + level) / 2)
    rate_a, rate_b = first[0] / first[1], second[0] / second[1]
    (low_a, high_a), (low_b, high_b) = wilson(*first, z=z), wilson(*second, z=z)
    difference = rate_b - rate_a
    return difference - math.hypot(rate_b - low_b, high_a - rate_a), difference + math.hypot(
        high_b - rate_b, rate_a - low_a
    )


def permutation_test(
    first: ArrayLike, second: ArrayLike, *, rng: np.random.Generator, permutations: int = FLIPS
) -> float:
    """Return the p-value of the unpaired permutation test on the difference of means, two-sided.

    Args:
        first: Means of the tasks of the first run, (tasks,).
        second: Those of the second run, on other tasks.
        rng: Where chance comes from; from 5,000 tasks on the permuted difference is taken for normal.
        permutations: How many are drawn otherwise.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    pooled = np.concatenate([a, b])
    if len(pooled) >= _NORMAL:
        spread = math.sqrt(float(pooled.var(ddof=1)) * (1 / len(a) + 1 / len(b)))
        return 2 * normal_cdf(-abs(float(b.mean() - a.mean())) / spread) if spread else 1.0
    threshold = abs(float(b.mean() - a.mean())) * (1 - 1e-9) - 1e-12
    extreme = 1
    chunk = max(1, _CELLS // len(pooled))
    for start in range(0, permutations, chunk):
        rows = min(chunk, permutations - start)
        order = np.argsort(rng.random((rows, len(pooled))), axis=1)
        sums = pooled[order[:, : len(b)]].sum(axis=1)
        means = sums / len(b) - (pooled.sum() - sums) / len(a)
        extreme += int((np.abs(means) >= threshold).sum())
    return extreme / (permutations + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for the number of comparisons, in the order given.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
