"""Quantiles and tails, against scipy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from agent_gym.evaluation.distributions import binomial_pmf, normal_cdf, normal_quantile, student_cdf, student_quantile

quick = settings(max_examples=15, deadline=None)


@quick
@given(st.floats(0.001, 0.999), st.floats(1, 5000))
def test_students_quantile_is_scipys(probability: float, freedom: float) -> None:
    expected = stats.t.ppf(probability, freedom)
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-7, abs=1e-9)
    assert student_cdf(expected, freedom) == pytest.approx(probability, rel=1e-9)


@quick
@given(st.floats(0.0001, 0.9999))
def test_the_normal_distribution_is_scipys(probability: float) -> None:
    assert normal_quantile(probability) == pytest.approx(stats.norm.ppf(probability), abs=1e-9)
    assert normal_cdf(stats.norm.ppf(probability)) == pytest.approx(probability)


@quick
@given(st.integers(0, 400), st.floats(0, 1))
def test_binomial_probabilities_are_scipys(count: int, probability: float) -> None:
    expected = stats.binom.pmf(np.arange(count + 1), count, probability)
    assert binomial_pmf(count, probability) == pytest.approx(expected, rel=1e-8, abs=1e-12)
