"""How many tasks, by simulation and against statsmodels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

from agent_gym.evaluation.pairing import mcnemar
from agent_gym.evaluation.power import (
    EXACT_TASKS,
    discordance,
    paired_power,
    paired_tasks,
    smallest_mean_difference,
    smallest_paired_difference,
    unpaired_tasks,
)


def simulated(tasks: int, difference: float, discordant: float) -> float:
    rng = np.random.default_rng(0)
    only_first = (discordant - difference) / 2
    drawn = rng.multinomial(tasks, [only_first, only_first + difference, 1 - discordant], size=1000)
    return float(np.mean([mcnemar(int(first), int(second)) < 0.05 for first, second, _ in drawn]))


@pytest.mark.parametrize(("tasks", "difference", "discordant"), [(134, 0.1, 0.3), (60, 0.2, 0.25), (200, 0.0, 0.4)])
def test_the_power_is_what_simulated_comparisons_show(tasks: int, difference: float, discordant: float) -> None:
    assert paired_power(tasks, difference, discordant) == pytest.approx(
        simulated(tasks, difference, discordant), abs=0.04
    )


@pytest.mark.parametrize(("difference", "discordant"), [(0.1, 0.3), (0.2, 0.5), (-0.05, 0.1)])
def test_so_many_tasks_are_enough_and_far_fewer_are_not(difference: float, discordant: float) -> None:
    tasks = paired_tasks(difference, discordant)
    assert tasks is not None
    assert paired_power(tasks, difference, discordant) >= 0.8 > paired_power(int(tasks * 0.85), difference, discordant)
    # The usual approximation needs a little less than the exact test does.
    about = paired_tasks(difference, discordant, exact=False)
    assert about is not None and about <= tasks <= about * 1.15 + 10


def test_a_level_holds_where_the_runs_do_not_differ() -> None:
    assert all(paired_power(tasks, 0.0, 0.5) <= 0.05 for tasks in (1, 5, 20, 100, 500))


def test_unpaired_numbers_are_statsmodels() -> None:
    expected = samplesize_proportions_2indep_onetail(0.1, 0.5, 0.8, ratio=1, alpha=0.05)
    assert unpaired_tasks(0.5, 0.1) == pytest.approx(expected, abs=1)


def test_the_power_of_a_mean_is_statsmodels() -> None:
    found = NormalIndPower().power(effect_size=smallest_mean_difference(0.1), nobs1=100, alpha=0.05, ratio=0)
    assert found == pytest.approx(0.8, abs=1e-4)


@settings(max_examples=4, deadline=None)
@given(st.integers(20, 400), st.floats(0.05, 0.95))
def test_the_smallest_difference_is_just_seen(tasks: int, rate: float) -> None:
    found = smallest_paired_difference(tasks, rate)
    if found is None:
        return
    shift = found if rate <= 0.5 else -found
    assert paired_power(tasks, shift, discordance(rate, shift)) >= 0.8


def test_too_few_tasks_show_nothing() -> None:
    assert smallest_paired_difference(4, 0.5) is None


def test_runs_that_solve_the_same_tasks_need_fewer_of_them() -> None:
    needed = [paired_tasks(0.1, discordance(0.5, 0.1, correlation=one)) for one in (0.0, 0.5, 0.8)]
    assert needed == sorted(needed, reverse=True) and needed[2] is not None and needed[0] > 3 * needed[2]


def test_no_difference_is_never_seen() -> None:
    assert paired_tasks(0.0, 0.3) is None and unpaired_tasks(0.5, 0.0) is None


def test_a_difference_that_the_tasks_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="at least that share"):
        paired_tasks(0.3, 0.2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        unpaired_tasks(0.9, 0.2)


def test_millions_of_tasks_are_answered_at_once_and_as_the_exact_test_would() -> None:
    few, more = (smallest_paired_difference(tasks, 0.5) for tasks in (EXACT_TASKS, EXACT_TASKS + 1))
    assert few is not None and more is not None and 0.98 < more / few < 1
    many = smallest_paired_difference(5_000_000, 0.5)
    assert many is not None and paired_tasks(many, discordance(0.5, many)) == pytest.approx(5_000_000, rel=0.02)
