"""Exact match and F1, against values worked out by hand."""

from typing import Any

import pytest
from helpers import golden

from agent_gym.envs.questions import exact_match, f1_score, normalise


@pytest.mark.parametrize("case", golden("questions/scores"), ids=lambda case: case["answer"] or "empty")
def test_scores_are_those_worked_out_by_hand(case: dict[str, Any]) -> None:
    assert exact_match(case["answer"], case["gold"]) == case["exact_match"], case["why"]
    assert f1_score(case["answer"], case["gold"]) == pytest.approx(case["f1"], abs=1e-12), case["why"]


def test_articles_within_words_stay() -> None:
    assert normalise("The theatre of Ann, a Dane") == "theatre of ann dane"


def test_texts_without_spaces_are_one_word() -> None:
    assert f1_score("肖亮", ["肖亮"]) == 1.0 and f1_score("肖亮", ["肖亮老师"]) == 0.0
