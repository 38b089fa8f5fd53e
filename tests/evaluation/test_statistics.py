"""Intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from agent_gym.evaluation.bootstrap import bootstrap_interval
from agent_gym.evaluation.statistics import (
    MANY_TASKS,
    estimate,
    standard_error,
    student_interval,
    wilson,
)

quick = settings(max_examples=20, deadline=None)
COUNTS = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
VALUES = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=40)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@quick
@given(COUNTS)
def test_the_interval_holds_the_rate_and_stays_in_the_unit_range(pair: tuple[int, int]) -> None:
    successes, count = pair
    low, high = wilson(successes, count)
    assert 0 <= low <= successes / count <= high <= 1
    assert high - low < 1


@quick
@given(COUNTS)
def test_wilsons_interval_is_statsmodels(pair: tuple[int, int]) -> None:
    assert wilson(*pair) == pytest.approx(proportion_confint(*pair, method="wilson"), abs=1e-9)


def test_a_published_case() -> None:
    # Newcombe 1998, table I: 81 of 263, Wilson score without continuity correction.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_no_attempts_give_an_undefined_interval() -> None:
    assert all(math.isnan(bound) for bound in wilson(0, 0))


def test_more_successes_than_attempts_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 3"):
        wilson(4, 3)


@quick
@given(VALUES)
def test_without_clusters_the_standard_error_and_the_interval_are_scipys(values: list[float]) -> None:
    error = stats.sem(values)
    assert standard_error(values) == pytest.approx(error, rel=1e-6, abs=1e-9)
    half = stats.t.ppf(0.975, len(values) - 1) * error
    low, high = student_interval(values)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-6, abs=1e-9)


@quick
@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=5), min_size=2, max_size=10))
def test_the_clustered_error_sums_over_all_pairs_within_a_cluster(clusters: list[list[float]]) -> None:
    flat = np.concatenate(clusters)
    products = sum(float(np.outer(part - flat.mean(), part - flat.mean()).sum()) for part in map(np.array, clusters))
    expected = math.sqrt(max(products, 0) * len(clusters) / (len(clusters) - 1)) / len(flat)
    found = standard_error([sum(part) for part in clusters], [len(part) for part in clusters])
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_attempts_that_always_agree_count_as_one() -> None:
    once = standard_error([0, 1, 1, 0, 1])
    assert standard_error([0, 8, 8, 0, 8], [8] * 5) == pytest.approx(once)


def test_one_cluster_has_no_error() -> None:
    assert math.isnan(standard_error([3.0], [4]))
    assert all(math.isnan(end) for end in student_interval([3.0], [4]))


def test_a_cluster_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="leave the empty ones out"):
        standard_error([0, 1], [0, 1])


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("kinds", [None, [0, 0.25, 0.5, 0.75, 1]])
def test_the_bootstrap_is_scipys(corrected: bool, kinds: list[float] | None) -> None:
    source = np.random.default_rng(1)
    values = (
        source.exponential(size=60) if kinds is None else source.choice(kinds, size=60, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    )
    method = "BCa" if corrected else "percentile"
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method=method, rng=1).confidence_interval
    found = bootstrap_interval(values, rng=rng(), resamples=20_000, corrected=corrected)
    # A fortieth of the interval's width is what chance leaves.
    assert found == pytest.approx((expected.low, expected.high), abs=(expected.high - expected.low) / 40)


def test_the_bootstrap_of_clusters_draws_whole_clusters() -> None:
    tasks = np.random.default_rng(2).random(80)
    sums = np.random.default_rng(3).binomial(8, tasks)
    low, high = bootstrap_interval(sums, [8] * 80, rng=rng())
    # Not the interval of 640 independent attempts, but that of 80 tasks.
    assert high - low == pytest.approx(2 * 1.96 * standard_error(sums, [8] * 80), rel=0.08)
    assert high - low > 1.5 * np.subtract(*wilson(int(sums.sum()), 640)[::-1])


def test_resampling_follows_the_generator() -> None:
    sums, counts = [1, 2, 0, 3, 2], [3, 3, 2, 4, 3]
    assert bootstrap_interval(sums, counts, rng=rng()) == bootstrap_interval(sums, counts, rng=rng())


def test_the_bootstrap_holds_the_truth_about_as_often_as_it_says() -> None:
    source = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        sums = source.binomial(4, source.beta(1, 2, size=50))
        low, high = bootstrap_interval(sums, [4] * 50, rng=source, resamples=1000)
        held += low <= 1 / 3 <= high
    assert 180 <= held <= 199


def test_one_attempt_a_task_gets_wilsons_interval() -> None:
    found = estimate([1, 0, 1, 1], rng=rng())
    assert (found.low, found.high) == pytest.approx(wilson(3, 4))
    assert (found.value, found.method, found.tasks) == (0.75, "Wilson", 4)


def test_several_attempts_get_the_bootstrap() -> None:
    found = estimate([1, 0, 2, 2] * 4, [2] * 16, rng=rng())
    assert found.value == 0.625 and found.method == "bootstrap over tasks (BCa)"
    assert estimate([1, 0, 2, 2], [2] * 4, rng=rng()).method == "Student over tasks"
    assert found.low is not None and found.high is not None and found.low < 0.625 < found.high


def test_tasks_that_are_all_solved_still_have_an_interval() -> None:
    found = estimate([8, 8, 8], [8, 8, 8], rng=rng())
    assert (found.low, found.high) == pytest.approx(wilson(3, 3))


def test_rewards_that_are_all_alike_have_none() -> None:
    found = estimate([0, 0, 0], [2, 2, 2], rng=rng(), unit=False)
    assert found.value == 0 and found.low is None and "alike" in found.method


def test_no_task_is_undefined_and_says_so() -> None:
    found = estimate([], rng=rng(), left_out=7)
    assert (found.value, found.low, found.left_out) == (None, None, 7)
    assert found.method.startswith("undefined")


def test_many_tasks_get_students_interval() -> None:
    values = np.random.default_rng(0).random(MANY_TASKS)
    found = estimate(values, rng=rng())
    assert (found.low, found.high) == student_interval(values)


@pytest.mark.parametrize("tasks", [3, 5, 10, 15, 30])
@pytest.mark.parametrize("shape", [(1, 1), (0.3, 0.3), (9, 1)])
def test_intervals_over_few_tasks_hold_the_mean_as_often_as_they_say(tasks: int, shape: tuple[float, float]) -> None:
    source, generator = np.random.default_rng(5), rng()
    held = 0
    for _ in range(150):
        found = estimate(source.binomial(4, source.beta(*shape, tasks)), [4] * tasks, rng=generator)
        assert found.low is not None and found.high is not None and 0 <= found.low <= found.high <= 1
        held += found.low <= shape[0] / sum(shape) <= found.high
    # 95% less two and a half standard errors of 150 draws.
    assert held / 150 >= 0.905


@pytest.mark.parametrize("tasks", [10, 134, 6000])
def test_one_attempt_that_went_wrong_makes_no_interval_narrower(tasks: int) -> None:
    alike, almost = (estimate([first] + [8] * (tasks - 1), [8] * tasks, rng=rng()) for first in (8, 7))
    assert None not in (alike.low, almost.low) and almost.low <= alike.low and almost.high == 1  # type: ignore[operator]
    mirrored = estimate([1] + [0] * (tasks - 1), [8] * tasks, rng=rng())
    assert mirrored.low == 0 and mirrored.high == pytest.approx(1 - (almost.low or 0), abs=0.02)
