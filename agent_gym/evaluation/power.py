"""How many tasks it takes to see a difference, and which difference a number of tasks can show.

"See" means that the test comes out below 5% in 80% of all comparisons, unless other levels are given.
"""

import math

import numpy as np
from numpy.typing import NDArray

from agent_gym.evaluation.distributions import binomial_pmf, normal_quantile

LEVEL = 0.95
POWER = 0.8
MOST_TASKS = 10_000_000
EXACT_TASKS = 5000
"""Up to so many tasks McNemar's exact test is counted; above, it is normal for all purposes."""


def discordance(rate: float, difference: float, *, correlation: float = 0.0) -> float:
    """Return the share of tasks that exactly one of two runs solves.

    Args:
        rate: Success of the first run.
        difference: Success of the second run less that of the first.
        correlation: Between the two runs' successes, over tasks: 0 where which tasks are solved is unrelated, which
            is the worst case in practice.

    Returns:
        The share; never below the difference itself, without which the two rates could not differ.
    """
    other = rate + difference
    _check_rates(rate, other)
    together = correlation * math.sqrt(rate * (1 - rate) * other * (1 - other))
    return max(abs(difference), rate * (1 - other) + other * (1 - rate) - 2 * together)


def paired_power(tasks: int, difference: float, discordant: float, *, level: float = LEVEL) -> float:
    """Return how often McNemar's exact test sees a difference between two runs on the same tasks, one attempt each.

    Args:
        tasks: Pairs.
        difference: True difference of the success rates.
        discordant: Share of tasks that exactly one of the runs solves.
        level: The test is passed where p < 1 - level.

    Returns:
        The exact probability that the test is passed, in either direction.
    """
    _check_discordant(difference, discordant)
    if tasks == 0 or discordant == 0:
        return 0.0
    upper = (discordant + abs(difference)) / (2 * discordant)
    spread = 10 * math.sqrt(tasks * discordant * (1 - discordant)) + 10
    first = max(0, math.floor(tasks * discordant - spread))
    last = min(tasks, math.ceil(tasks * discordant + spread))
    weights = binomial_pmf(tasks, discordant)[first : last + 1]
    return math.fsum(
        weight * _mcnemar_power(count, min(1.0, upper), level)
        for count, weight in zip(range(first, last + 1), weights, strict=True)
        if weight > 1e-12
    )


def _mcnemar_power(count: int, upper: float, level: float) -> float:
    """Return how often the test is passed with so many tasks that one of the runs alone solved."""
    even: NDArray[np.float64] = np.cumsum(binomial_pmf(count, 0.5)[: count // 2 + 1])
    # Splits with up to so many tasks on the smaller side pass.
    passing = int(np.searchsorted(even, (1 - level) / 2, side="left"))
    if passing == 0:
        return 0.0
    split = binomial_pmf(count, upper)
    return float(split[:passing].sum() + split[count + 1 - passing :].sum())


def paired_tasks(
    difference: float, discordant: float, *, level: float = LEVEL, power: float = POWER, exact: bool = True
) -> int | None:
    """Return how many tasks two runs need in common for a difference to be seen, one attempt each.

    Args:
        difference: True difference of the success rates.
        discordant: Share of tasks that exactly one of the runs solves.
        level: The test is passed where p < 1 - level.
        power: How often it must be passed.
        exact: Count with McNemar's exact test up to 5,000 tasks; otherwise, and above, with the normal approximation.

    Returns:
        The number; None where the difference is 0, or more than ten million tasks were needed.

    Source: Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43,
    1987, for the approximation.
    """
    _check_discordant(difference, discordant)
    if difference == 0:
        return None
    needed = _about(difference, discordant, level, power)
    if needed > MOST_TASKS:
        return None
    about = math.ceil(needed)
    if not exact or about > EXACT_TASKS:
        return about
    low, high = max(1, about // 2), about + 16
    while paired_power(high, difference, discordant, level=level) < power:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        enough = paired_power(middle, difference, discordant, level=level) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def _about(difference: float, discordant: float, level: float, power: float) -> float:
    """Return how many tasks are needed by the normal approximation; infinity for no difference."""
    spread = normal_quantile((1 + level) / 2) * math.sqrt(discordant)
    spread += normal_quantile(power) * math.sqrt(max(0.0, discordant - difference**2))
    return (spread / difference) ** 2 if difference else math.inf


def unpaired_tasks(rate: float, difference: float, *, level: float = LEVEL, power: float = POWER) -> int | None:
    """Return how many tasks each of two runs needs for a difference to be seen, were the tasks not the same.

    Args:
        rate: Success of the first run.
        difference: Success of the second run less that of the first.
        level: Of the test of two proportions.
        power: How often it must be passed.

    Returns:
        The number for each run; None where the difference is 0, or more than ten million were needed.

    Source: Fleiss, Levin and Paik, "Statistical methods for rates and proportions", 2003, section 4.2.
    """
    other = rate + difference
    _check_rates(rate, other)
    if difference == 0:
        return None
    middle = (rate + other) / 2
    spread = normal_quantile((1 + level) / 2) * math.sqrt(2 * middle * (1 - middle))
    spread += normal_quantile(power) * math.sqrt(rate * (1 - rate) + other * (1 - other))
    about = math.ceil((spread / difference) ** 2)
    return about if about <= MOST_TASKS else None


def smallest_paired_difference(
    tasks: int, rate: float, *, correlation: float = 0.0, level: float = LEVEL, power: float = POWER
) -> float | None:
    """Return the smallest improvement, or else the smallest loss, that two runs on so many same tasks can show.

    Args:
        tasks: Pairs, one attempt each.
        rate: Success of the first run.
        correlation: Between the runs' successes over tasks, see `discordance`.
        level: Of the test.
        power: How often it must be passed.

    Returns:
        The difference, above 0; None where even the largest possible would not be seen. Above 5,000 tasks it comes
        from the normal approximation.
    """
    _check_rates(rate, rate)
    room = 1 - rate if rate <= 0.5 else rate
    sign = 1 if rate <= 0.5 else -1

    def seen(difference: float) -> bool:
        shift = sign * difference
        discordant = discordance(rate, shift, correlation=correlation)
        if tasks > EXACT_TASKS:
            return _about(difference, discordant, level, power) <= tasks
        return paired_power(tasks, shift, discordant, level=level) >= power

    if not seen(room):
        return None
    low, high = 0.0, room
    # A ten-thousandth is fine enough for few tasks; a million tell less than that.
    while high - low > min(1e-4, 0.01 / math.sqrt(tasks)):
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def smallest_mean_difference(error: float, *, level: float = LEVEL, power: float = POWER) -> float:
    """Return the smallest difference of means that can be shown with a standard error.

    Args:
        error: Standard error of the difference, as it was measured.
        level: Of the test.
        power: How often it must be passed.
    """
    return (normal_quantile((1 + level) / 2) + normal_quantile(power)) * error


def _check_rates(*rates: float) -> None:
    # A rate like 0.3 + 0.7 may be off by rounding.
    if not all(-1e-9 <= rate <= 1 + 1e-9 for rate in rates):
        raise ValueError(f"Success rates must lie between 0 and 1, not {rates}.")


def _check_discordant(difference: float, discordant: float) -> None:
    if not abs(difference) <= discordant + 1e-12 <= 1 + 2e-12:
        raise ValueError(
            f"A difference of {difference} takes at least that share of tasks that only one run solves, and at most "
            f"1; it was said to be {discordant}."
        )
