"""The reward of ARPO: every rule of its format, and what a well-formed episode is worth."""

import pytest

from agent_gym.envs.search_qa.reward import BROKEN_FORMAT, arpo_reward, format_problem

GOLD = ["Rome"]
THINK = "<think> hm </think>"
SEARCH = "<search> capital of Italy </search><result> Rome is the capital. </result>"
PYTHON = "<python>\nprint(1)\n</python><result>\n1\n</result>"
ANSWER = "<answer> The answer is \\[ \\boxed{Rome} \\] </answer>"


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (THINK + ANSWER, 1.0),
        (THINK + SEARCH + THINK + ANSWER, 1.0),
        (THINK + PYTHON + THINK + ANSWER, 1.0),
        (THINK + SEARCH + PYTHON + ANSWER, 1.1),
        (THINK + PYTHON + SEARCH + SEARCH + ANSWER, 1.1),
        (THINK + "<answer>\\boxed{\\text{the Rome}}</answer>", 1.0),
        (THINK + "<answer>\\boxed{Rome, Italy}</answer>", 2 / 3),
        (THINK + SEARCH + PYTHON + "<answer>\\boxed{Rome, Italy}</answer>", 2 / 3 + 0.1),
        (THINK + SEARCH + PYTHON + "<answer>\\boxed{Paris}</answer>", 0.0),
        (THINK + "<answer>\\boxed{Milan} or rather \\boxed{Rome}</answer>", 1.0),
        (THINK + "<answer>\\boxed{}</answer>", 0.0),
    ],
)
def test_a_sound_episode_has_the_f1_of_its_box_and_a_bonus_for_both_tools(text: str, reward: float) -> None:
    assert arpo_reward(text, GOLD) == pytest.approx(reward, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "There is no thought."),
        (ANSWER, "There is no thought."),
        ("<think> hm" + ANSWER, "think tags do not come in pairs"),
        (THINK + "</think>" + ANSWER, "think tags do not come in pairs"),
        (THINK + SEARCH, "not exactly one answer"),
        (THINK + ANSWER + ANSWER, "not exactly one answer"),
        (THINK + "<answer>\\boxed{Rome}", "not exactly one answer"),
        (THINK + "</answer>\\boxed{Rome}<answer>", "ends before it begins"),
        (THINK + "<search> x </search>" + ANSWER, "A search is not followed by its result."),
        (THINK + "<search> x" + ANSWER, "A search is not followed by its result."),
        (THINK + "<search> x </search><result> cut off" + ANSWER, "A search is not followed by its result."),
        (THINK + SEARCH + "<search> y </search>" + ANSWER, "A search is not followed by its result."),
        (THINK + "<python>1</python>" + ANSWER, "A python is not followed by its result."),
        (THINK + "<answer>Rome</answer>", "no \\boxed{} in the answer"),
        (THINK + "\\boxed{Rome}<answer>Rome</answer>", "no \\boxed{} in the answer"),
        (THINK + "<answer>\\boxed{Rome</answer>", "no \\boxed{} in the answer"),
        (THINK + "<answer>\\boxed{{Rome}</answer>", "no \\boxed{} in the answer"),
    ],
)
def test_each_rule_of_the_format_is_kept(text: str, problem: str) -> None:
    assert problem in format_problem(text)
    assert arpo_reward(text, GOLD) == BROKEN_FORMAT


def test_the_best_of_several_right_answers_counts_and_yes_must_match() -> None:
    assert arpo_reward(THINK + "<answer>\\boxed{NYC}</answer>", ["New York", "NYC"]) == 1.0
    assert arpo_reward(THINK + "<answer>\\boxed{yes it is}</answer>", ["yes"]) == 0.0


def test_what_a_page_says_neither_breaks_the_format_nor_earns_the_bonus() -> None:
    page = "<result> <result> <think> <answer> </python> \\boxed{Rome} <search> </result>"
    assert arpo_reward(f"{THINK}<search> x </search>{page}{ANSWER}", GOLD) == 1.0


@pytest.mark.parametrize(
    "piece", ["<result>", "<search>", "<answer>", "\\boxed{", "\\text{", "<think></think>", "</result>"]
)
def test_long_texts_of_nothing_but_tags_are_read_in_one_pass(piece: str) -> None:
    assert arpo_reward(piece * 50_000, GOLD) == BROKEN_FORMAT
