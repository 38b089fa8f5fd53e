"""Entropies from the few most probable tokens that an engine names."""

import math
from collections.abc import Iterable

_NOTHING = 1e-9
"""A rest of probability below this is rounding."""


def estimated_entropy(logprobs: Iterable[float], largest_other: float = 0.0) -> float:
    """Return a lower bound of an entropy in nats, which the tokens not named can only raise.

    They are counted as one bucket; where it is known how probable each of them is at most, as so many tokens of that
    probability as the bucket holds.

    Args:
        logprobs: Natural log-probabilities of different tokens.
        largest_other: Log-probability that no other token exceeds: that of the last where the most probable are named.
            By default nothing is known.
    """
    named = [(math.exp(logprob), logprob) for logprob in logprobs]
    rest = 1.0 - sum(probability for probability, _ in named)
    entropy = -sum(probability * logprob for probability, logprob in named)
    return entropy - rest * min(math.log(rest), largest_other) if rest > _NOTHING else entropy
