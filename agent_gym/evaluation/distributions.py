"""The few distributions that intervals and tests are read from: normal, Student's t, binomial."""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_STANDARD = NormalDist()
_CONVERGED = 3e-16
_TERMS = 10_000


def normal_quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution.

    Args:
        probability: Strictly between 0 and 1.
    """
    return _STANDARD.inv_cdf(probability)


def normal_cdf(value: float) -> float:
    """Return the probability that a standard normal variable is at most `value`."""
    return _STANDARD.cdf(value)


@lru_cache(maxsize=4096)
def student_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t distribution.

    Args:
        probability: Strictly between 0 and 1.
        freedom: Degrees of freedom, above 0.
    """
    if probability == 0.5:
        return 0.0
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    high = 1.0
    while student_cdf(high, freedom) < probability:
        high *= 2
    low = 0.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return high


def student_cdf(value: float, freedom: float) -> float:
    """Return the probability that a variable of Student's t distribution is at most `value`."""
    tail = 0.5 * _incomplete_beta(freedom / (freedom + value * value), freedom / 2, 0.5)
    return 1 - tail if value > 0 else tail


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function.

    Source: the continued fraction of Press et al., Numerical Recipes, section 6.4.
    """
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) * _beta_fraction(x, a, b) / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction, by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + even * d)
        c = 1 + even / c
        fraction *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + odd * d)
        c = 1 + odd / c
        fraction *= c * d
        if abs(c * d - 1) < _CONVERGED:
            break
    return fraction


def log_factorials(count: int) -> NDArray[np.float64]:
    """Return the logarithms of 0!, 1!, ... count!, shape (count + 1,)."""
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, count + 1, dtype=np.float64)))))


def binomial_pmf(count: int, probability: float) -> NDArray[np.float64]:
    """Return the probabilities of 0, 1, ... `count` successes, shape (count + 1,).

    Args:
        count: Independent trials.
        probability: Of success in each.
    """
    successes = np.arange(count + 1)
    if probability in (0.0, 1.0):
        return np.asarray(successes == count * probability, dtype=np.float64)
    logs = log_factorials(count)
    ways = logs[count] - logs - logs[::-1]
    logs = ways + successes * math.log(probability) + successes[::-1] * math.log1p(-probability)
    return np.asarray(np.exp(logs), dtype=np.float64)
