"""Generated problems: the answer is what the code prints, and what one would work out oneself."""

import contextlib
import io

import pytest

from agent_gym.envs.math.problems import FAMILIES, LEVELS, make_problem


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_prints_the_answer(family: str) -> None:
    for level in LEVELS:
        for seed in range(30):
            problem = make_problem(family, level, f"train/{seed}")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(problem.code, {})
            assert printed.getvalue().strip() == problem.answer, problem


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_many_problems_at_every_level(family: str) -> None:
    for level in LEVELS:
        problems = [make_problem(family, level, f"train/{seed}") for seed in range(40)]
        assert len({problem.text for problem in problems}) > 20
        assert len({problem.answer for problem in problems}) > 5


def test_the_seed_decides_everything() -> None:
    assert make_problem("ages", 2, "a") == make_problem("ages", 2, "a") != make_problem("ages", 2, "b")


@pytest.mark.parametrize(
    ("family", "level", "text", "answer"),
    [
        ("farm", 1, "A farm has hens and cows, 22 heads and 62 legs in all. How many cows are there?", "9"),
        ("equation", 1, "Solve for x: 3x + 11 = 6x - 16. What is x?", "9"),
        ("average", 1, "The average of 5 numbers is 6. With one more number it is 7. What is that number?", "12"),
        ("digits", 2, "What is the sum of the digits of 7^6?", "28"),
    ],
)
def test_answers_are_those_worked_out_by_hand(family: str, level: int, text: str, answer: str) -> None:
    # (62 - 2 * 22) / 2 = 9; 27 = 3x; 7 * 6 - 5 * 6 = 12; 7^6 = 117649.
    found = [make_problem(family, level, str(seed)) for seed in range(60)]
    assert [problem.answer for problem in found if problem.text == text] in ([answer], [answer] * 2)
