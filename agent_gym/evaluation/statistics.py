"""Statistics of success: intervals that are honest about how few tasks were played."""

import math


def wilson(successes: int, count: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a success rate.

    Args:
        successes: Successes seen, between 0 and `count`.
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
