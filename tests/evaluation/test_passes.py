"""What k attempts are worth, against the definition: all subsets of k attempts."""

from collections import Counter
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.evaluation.passes import best_of_k, majority_at_k, pass_at_k, pass_hat_k

quick = settings(max_examples=20, deadline=None)
OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=9)
ANSWERS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.booleans()), min_size=1, max_size=8)


def over_subsets(values: list[object], k: int, worth: Callable[[tuple[object, ...]], float]) -> float:
    return float(np.mean([worth(subset) for subset in combinations(values, k)]))


@quick
@given(OUTCOMES, st.data())
def test_any_and_all_of_k_are_the_shares_of_subsets(outcomes: list[bool], data: st.DataObject) -> None:
    n, c = len(outcomes), sum(outcomes)
    k = data.draw(st.integers(1, n))
    assert pass_at_k(n, c, k) == pytest.approx(over_subsets(outcomes, k, any), abs=1e-12)
    assert pass_hat_k(n, c, k) == pytest.approx(over_subsets(outcomes, k, all), abs=1e-12)


@quick
@given(st.integers(2, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_more_attempts_pass_more_often_and_all_pass_less_often(pair: tuple[int, int]) -> None:
    n, c = pair
    ks = sorted({1, 2, n // 2 or 1, n})
    some, every = [pass_at_k(n, c, k) for k in ks], [pass_hat_k(n, c, k) for k in ks]
    assert some == sorted(some) and every == sorted(every, reverse=True)
    assert some[0] == every[0] == pytest.approx(c / n)
    assert all(0 <= value <= 1 for value in some + every)


@pytest.mark.parametrize(
    "case", [case for case in golden("support_and_entropy")["cases"] if case["fn"].startswith("pass")]
)
def test_published_numbers_of_pass_at_k(case: dict[str, float]) -> None:
    assert pass_at_k(case["n"], case["c"], case["k"]) == pytest.approx(case["value"], abs=1e-12)


@quick
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=9), st.data())
def test_the_best_of_k_is_the_mean_of_the_highest(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    assert best_of_k(scores, k) == pytest.approx(over_subsets(scores, k, max), abs=1e-9)


def votes_of(attempts: list[tuple[str | None, bool]]) -> tuple[list[tuple[int, int]], int]:
    counts = Counter(answer for answer, _ in attempts)
    right = Counter(answer for answer, success in attempts if success)
    return [(counts[answer], right[answer]) for answer in sorted(filter(None, counts))], counts[None]


@quick
@given(ANSWERS, st.data())
def test_the_majority_is_that_of_all_subsets_with_ties_shared(
    attempts: list[tuple[str | None, bool]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(attempts)))

    def worth(subset: tuple[tuple[str | None, bool], ...]) -> float:
        counts = Counter(answer for answer, _ in subset if answer is not None)
        winners = [answer for answer in counts if counts[answer] == max(counts.values())]
        shares = [np.mean([success for answer, success in attempts if answer == winner]) for winner in winners]
        return float(np.mean(shares)) if winners else 0.0

    votes, silent = votes_of(attempts)
    found = majority_at_k(votes, k, silent=silent, rng=np.random.default_rng(0))
    assert found == pytest.approx(over_subsets(attempts, k, worth), abs=1e-9)


def test_many_attempts_are_sampled_close_to_the_exact_sum() -> None:
    # 64 attempts are summed exactly, 68 in the same shares are sampled.
    exact = majority_at_k([(32, 32), (24, 0), (8, 0)], 8, rng=np.random.default_rng(0))
    sampled = majority_at_k([(34, 34), (25, 0), (9, 0)], 8, rng=np.random.default_rng(0))
    assert exact is not None and sampled == pytest.approx(exact, abs=0.03)


def test_more_than_there_were_is_undefined() -> None:
    rng = np.random.default_rng(0)
    assert (
        pass_at_k(3, 3, 4) is pass_hat_k(3, 3, 4) is best_of_k([1.0], 2) is majority_at_k([(3, 3)], 4, rng=rng) is None
    )


def test_attempts_without_any_answer_are_wrong() -> None:
    assert majority_at_k([], 2, silent=3, rng=np.random.default_rng(0)) == 0


@pytest.mark.parametrize(("attempts", "successes", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_impossible_counts_are_refused(attempts: int, successes: int, k: int) -> None:
    with pytest.raises(ValueError, match="must"):
        pass_at_k(attempts, successes, k)
