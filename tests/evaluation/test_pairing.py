"""Tests and intervals of differences, against scipy, statsmodels and a likelihood maximised by force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep

from agent_gym.evaluation.pairing import (
    holm,
    mcnemar,
    paired_interval,
    permutation_test,
    sign_flip_interval,
    sign_flip_test,
    unpaired_interval,
)

quick = settings(max_examples=15, deadline=None)
PAIRS = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 60)).map(
    lambda found: (found[0], found[1], found[0] + found[1] + found[2])
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@quick
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemars_test_is_statsmodels(only_first: int, only_second: int) -> None:
    expected = reference_mcnemar([[5, only_first], [only_second, 5]], exact=True).pvalue
    assert mcnemar(only_first, only_second) == pytest.approx(min(1, expected), rel=1e-7)


def test_no_task_that_differs_says_nothing() -> None:
    assert mcnemar(0, 0) == sign_flip_test([0.0] * 5, rng=rng()) == 1


@quick
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=2, max_size=8))
def test_few_differences_are_flipped_in_all_ways_as_by_scipy(differences: list[float]) -> None:
    expected = stats.permutation_test(
        (np.array(differences),), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue
    assert sign_flip_test(differences, rng=rng()) == pytest.approx(expected)


def test_many_differences_are_flipped_at_random() -> None:
    differences = np.random.default_rng(3).normal(0.2, 1, size=100)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(4)
    ).pvalue
    assert sign_flip_test(differences, rng=rng()) == pytest.approx(expected, abs=0.01)


def test_on_one_attempt_each_the_flips_are_mcnemars_test() -> None:
    assert sign_flip_test([1.0] * 9 + [-1.0] * 3 + [0.0] * 20, rng=rng()) == pytest.approx(mcnemar(3, 9))


def test_very_many_differences_are_normal() -> None:
    differences = np.random.default_rng(3).normal(0.02, 1, size=6000)
    by_normal = sign_flip_test(differences, rng=rng())
    assert by_normal == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.003)


@pytest.mark.parametrize("size", [40, 4000])
def test_the_unpaired_test_is_scipys(size: int) -> None:
    source = np.random.default_rng(1)
    first, second = source.random(size), source.random(size) + 1.6 / size**0.5 / 3
    expected = stats.ttest_ind(first, second).pvalue
    assert permutation_test(first, second, rng=rng()) == pytest.approx(expected, abs=0.015)


def test_no_permutation_test_is_certain() -> None:
    assert permutation_test([0.0] * 30, [1.0] * 30, rng=rng(), permutations=99) == 1 / 100


def score(only_first: int, only_second: int, pairs: int, difference: float) -> float:
    """The score statistic at a supposed difference, with the nuisance share maximised numerically."""

    def surprise(share: float) -> float:
        other, rest = share + difference, 1 - 2 * share - difference
        return -sum(
            count * math.log(max(probability, 1e-300))
            for count, probability in (
                (only_first, share),
                (only_second, other),
                (pairs - only_first - only_second, rest),
            )
            if count
        )

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    share = optimize.minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = pairs * (2 * share + difference - difference**2)
    return (only_second - only_first - pairs * difference) / math.sqrt(variance)


@quick
@given(PAIRS)
def test_the_paired_interval_ends_where_the_score_test_refuses(counts: tuple[int, int, int]) -> None:
    low, high = paired_interval(*counts)
    observed = (counts[1] - counts[0]) / counts[2]
    assert -1 <= low <= observed <= high <= 1
    assert score(*counts, low) == pytest.approx(1.959964, abs=0.01)
    assert score(*counts, high) == pytest.approx(-1.959964, abs=0.01)


@quick
@given(PAIRS)
def test_exchanging_the_runs_mirrors_the_interval(counts: tuple[int, int, int]) -> None:
    only_first, only_second, pairs = counts
    low, high = paired_interval(only_first, only_second, pairs)
    assert paired_interval(only_second, only_first, pairs) == pytest.approx((-high, -low))


def test_runs_that_agree_on_all_tasks_may_still_differ() -> None:
    low, high = paired_interval(0, 0, 100)
    # Tango's interval there is z^2 / (n + z^2) to each side.
    assert (low, high) == pytest.approx((-0.036993, 0.036993), abs=1e-5)


def test_runs_that_differ_on_every_task_have_an_interval_up_to_one() -> None:
    low, high = paired_interval(0, 20, 20)
    assert 0.6 < low < 1 and high == 1


@quick
@given(st.integers(0, 30), st.integers(0, 45))
def test_the_unpaired_interval_is_statsmodels(first: int, second: int) -> None:
    expected = confint_proportions_2indep(second, 45, first, 30, method="newcomb", compare="diff")
    assert unpaired_interval((first, 30), (second, 45)) == pytest.approx(expected, abs=1e-9)


def test_without_attempts_the_intervals_are_undefined() -> None:
    assert all(math.isnan(end) for end in (*paired_interval(0, 0, 0), *unpaired_interval((0, 0), (1, 2))))


def test_holms_adjustment_is_that_of_r() -> None:
    # p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.5), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert holm([]) == [] and holm([0.7]) == [0.7]


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_adjusted_values_keep_their_order_and_are_no_smaller(p_values: list[float]) -> None:
    found = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, found, strict=True))
    order = sorted(range(len(found)), key=p_values.__getitem__)
    assert [found[place] for place in order] == sorted(found)


def test_more_tasks_solved_by_one_alone_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        paired_interval(3, 3, 5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=11), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_interval_of_few_differences_is_what_the_test_does_not_refuse(values: list[int], level: float) -> None:
    refused = sign_flip_test(values, rng=np.random.default_rng(0)) < 1 - level - 1e-9
    ends = sign_flip_interval(values, level=level)
    assert refused == (ends is not None and not ends[0] <= 0 <= ends[1])


@pytest.mark.parametrize("count", [6, 9, 12])
def test_the_ends_for_few_differences_are_where_the_test_begins_to_refuse(count: int) -> None:
    values = np.random.default_rng(count).normal(0.3, 1, size=count)
    found = sign_flip_interval(values)
    assert found is not None
    for end, outwards in zip(found, (-1e-6, 1e-6), strict=True):
        inside, outside = (sign_flip_test(values - end - shift, rng=rng()) for shift in (-outwards, outwards))
        assert outside < 0.05 <= inside
    if count == 6:
        assert found == (pytest.approx(values.min()), pytest.approx(values.max()))
