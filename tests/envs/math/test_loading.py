"""Problems in the forms of the usual data sets."""

from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.math.checking import as_number
from agent_gym.envs.math.loading import KNOWN, read_problem
from agent_gym.envs.math.problems import Problem
from agent_gym.envs.questions import Loaded, read_rows

DATA = Path(__file__).parents[4] / "shared/data"


@pytest.mark.parametrize(
    ("row", "own_id", "answer"),
    [
        ({"question": "q", "answer": "9 * 2 = $<<9*2=18>>18\n#### 18", "idx": 0}, "0", "18"),
        ({"question": "q", "answer": "He pays.\n#### 1,080"}, "", "1,080"),
        (
            {"problem": "q", "answer": "\\frac{1}{2}", "unique_id": "test/a/1.json", "level": 2},
            "test/a/1.json",
            "\\frac{1}{2}",
        ),
        ({"problem": "q", "answer": 70, "id": "0"}, "0", "70"),
        ({"id": 60, "problem": "q", "solution": "...", "answer": "204", "year": "2024"}, "60", "204"),
        (
            {"ability": "math", "reward_model": {"ground_truth": "3\\sqrt{3}"}, "extra_info": {"question": "q"}},
            "",
            "3\\sqrt{3}",
        ),
    ],
    ids=["gsm8k", "gsm8k comma", "math500", "aime25", "aime24", "arpo"],
)
def test_each_form_is_read(row: dict[str, Any], own_id: str, answer: str) -> None:
    assert read_problem(row) == (own_id, Problem("", "q", answer))


def test_other_questions_in_arpos_data_are_left_out() -> None:
    assert read_problem({"ability": "qa", "reward_model": {}}) is None


@pytest.mark.parametrize(
    "row", [{"problem": "q"}, {"problem": "q", "answer": " "}, {"answer": 1}, {"problem": "q", "answer": []}]
)
def test_a_row_without_question_or_answer_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it has"):
        read_problem(row)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(("name", "count", "numbers"), [("gsm8k", 1319, 1319), ("aime24", 30, 30), ("aime25", 30, 30)])
def test_real_problems_have_numbers_as_answers(name: str, count: int, numbers: int) -> None:
    path = DATA / f"math/{name}.jsonl"
    problems = Loaded(path, split="test", known=KNOWN, read=read_problem).questions()
    assert len(problems) == count == len(read_rows(path))
    assert sum(as_number(problem.answer) is not None for problem in problems) == numbers
