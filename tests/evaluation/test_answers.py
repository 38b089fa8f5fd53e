"""Entropies of tokens, answers and meanings."""

import math

import pytest
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from agent_gym.evaluation.answers import SCALES, answer_entropy, semantic_entropy, semantic_scale, token_entropy

quick = settings(max_examples=20, deadline=None)
MEANINGS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=12)
(SEED,) = (case for case in golden("support_and_entropy")["cases"] if case["fn"].startswith("seed"))


def test_token_entropy_weighs_episodes_alike_and_reads_generated_tokens_only() -> None:
    assert token_entropy([[9.0, 1.0, 3.0], [5.0], [7.0]], [[0, 1, 1], [1], [0]]) == pytest.approx(3.5)
    assert token_entropy([[1.0]], [[0]]) is None


@quick
@given(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=20))
def test_no_answer_is_an_answer_of_its_own(answers: list[str | None]) -> None:
    found = answer_entropy(answers)
    assert found == pytest.approx(stats.entropy([answers.count(one) for one in set(answers)]), abs=1e-12)
    assert found <= math.log(len(set(answers))) + 1e-12


def test_no_attempt_has_no_entropy() -> None:
    assert answer_entropy([]) is semantic_entropy([]) is None


def test_the_released_form_of_semantic_entropy() -> None:
    found = semantic_entropy(SEED["cluster"], SEED["mean_token_loglik"])
    assert found == pytest.approx(SEED["entropy"])
    assert found is not None
    scale = semantic_scale(found, len(SEED["cluster"]), alpha=SEED["alpha"], scale="port")
    assert scale == pytest.approx(SEED["scale_third_party"])


def test_the_described_form_is_the_mean_over_clusters() -> None:
    found = semantic_entropy(["a", "a", "b"], [math.log(0.5), math.log(0.3), math.log(0.2)], form="A")
    assert found == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)


@quick
@given(MEANINGS, st.floats(-50, 50), st.data())
def test_a_constant_and_other_names_change_nothing(meanings: list[str], shift: float, data: st.DataObject) -> None:
    logs = data.draw(st.lists(st.floats(-5, 0), min_size=len(meanings), max_size=len(meanings)))
    found = semantic_entropy(meanings, logs)
    assert found == pytest.approx(
        semantic_entropy([f"x{one}" for one in meanings], [one + shift for one in logs]), abs=1e-9
    )
    assert found is not None and 0 <= found <= math.log(len(set(meanings))) + 1e-9


def test_missing_answers_mean_something_different_each() -> None:
    assert semantic_entropy([None, None]) == pytest.approx(math.log(2))


@pytest.mark.parametrize("scale", SCALES)
def test_scales_are_one_without_doubt_and_fall(scale: str) -> None:
    values = [semantic_scale(x, 8, alpha=1.0, scale=SCALES[scale]) for x in (0.0, 0.5, 1.0, 2.0)]
    assert values[0] == 1 and values == sorted(values, reverse=True) and min(values) >= 0
    # A single answer has no doubt, and ln 1 = 0 is not divided by.
    assert semantic_scale(0.0, 1, scale=SCALES[scale]) == 1


def test_likelihoods_of_other_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="give one each"):
        semantic_entropy(["a", "b"], [0.0])
