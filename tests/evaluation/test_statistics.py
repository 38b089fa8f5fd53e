"""Intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_gym.evaluation.statistics import wilson


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate_and_stays_in_the_unit_range(pair: tuple[int, int]) -> None:
    successes, count = pair
    low, high = wilson(successes, count)
    assert 0 <= low <= successes / count <= high <= 1
    assert high - low < 1


def test_a_published_case() -> None:
    # Newcombe 1998, table I: 81 of 263, Wilson score without continuity correction.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_no_attempts_give_an_undefined_interval() -> None:
    assert all(math.isnan(bound) for bound in wilson(0, 0))


def test_more_successes_than_attempts_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 3"):
        wilson(4, 3)
