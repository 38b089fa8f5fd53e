"""Questions in the forms of the usual data sets."""

from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.questions import Loaded, read_rows
from agent_gym.envs.search_qa.loading import KNOWN, Question, read_question

QA = Path(__file__).parents[4] / "shared/data/qa"
HOTPOT = {
    "_id": "5a8b57f25542995d1e6f1371",
    "answer": "yes",
    "question": "Were Scott Derrickson and Ed Wood of the same nationality?",
    "supporting_facts": [["Scott Derrickson", 0], ["Ed Wood", 0]],
    "context": [
        ["Scott Derrickson", ["Scott Derrickson is an American director.", " He lives in Los Angeles."]],
        ["Ed Wood", ["Edward Davis Wood Jr. was an American filmmaker."]],
    ],
}
DERRICKSON = ("Scott Derrickson", "Scott Derrickson is an American director. He lives in Los Angeles.")
WOOD = ("Ed Wood", "Edward Davis Wood Jr. was an American filmmaker.")
ON_THE_HUB = {
    "id": HOTPOT["_id"],
    "question": HOTPOT["question"],
    "answer": "yes",
    "context": {
        "title": ["Scott Derrickson", "Ed Wood"],
        "sentences": [["Scott Derrickson is an American director.", " He lives in Los Angeles."], [WOOD[1]]],
    },
}


@pytest.mark.parametrize(
    ("row", "own_id", "question"),
    [
        (HOTPOT, HOTPOT["_id"], Question(str(HOTPOT["question"]), ("yes",), (DERRICKSON, WOOD))),
        (ON_THE_HUB, HOTPOT["_id"], Question(str(HOTPOT["question"]), ("yes",), (DERRICKSON, WOOD))),
        (
            {
                "id": "2hop__1",
                "question": "When was it founded?",
                "answer": "1960",
                "answer_aliases": ["in 1960", "1960"],
                "answerable": True,
                "paragraphs": [
                    {"idx": 0, "title": "Institute", "paragraph_text": "Founded 1960.", "is_supporting": True}
                ],
            },
            "2hop__1",
            Question("When was it founded?", ("1960", "in 1960"), (("Institute", "Founded 1960."),)),
        ),
        ({"Question": "Who?", "Answer": "Ada"}, "", Question("Who?", ("Ada",))),
        ({"metadata": "{'topic': 'x'}", "problem": "Who?", "answer": "Ada"}, "", Question("Who?", ("Ada",))),
        (
            {"question": "Wer?", "answer": "Ada", "root_url": "https://x.example", "info": {"lang": "de"}},
            "",
            Question("Wer?", ("Ada",)),
        ),
        ({"question": "How many?", "answer": [7, "seven"]}, "", Question("How many?", ("7", "seven"))),
        ({"question": "Who?", "golden_answers": ["Ada"], "id": 0}, "0", Question("Who?", ("Ada",))),
        (
            {
                "ability": "qa",
                "prompt": [{"role": "user", "content": "..."}],
                "reward_model": {"ground_truth": "Ada", "style": "rule"},
                "extra_info": {"index": 3, "question": "Who?"},
            },
            "",
            Question("Who?", ("Ada",)),
        ),
    ],
    ids=["hotpotqa", "hub", "musique", "bamboogle", "simpleqa", "webwalkerqa", "lists", "golden_answers", "arpo"],
)
def test_each_form_is_read(row: dict[str, Any], own_id: str, question: Question) -> None:
    assert read_question(row) == (own_id, question)


def test_mathematics_in_arpos_data_is_left_out() -> None:
    assert read_question({"ability": "math", "reward_model": {}}) is None


@pytest.mark.parametrize("row", [{"question": "Who?"}, {"question": "Who?", "answer": [" "]}, {"answer": "Ada"}, {}])
def test_a_row_without_question_or_answer_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it has"):
        read_question(row)


@pytest.mark.skipif(not QA.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize("name", ["2wiki", "bamboogle", "hotpotqa", "musique", "simpleqa", "webwalker"])
def test_real_questions_are_read(name: str) -> None:
    path = QA / f"{name}.jsonl"
    questions = Loaded(path, split="test", known=KNOWN, read=read_question).questions()
    assert len(questions) == len(read_rows(path))
    assert all(question.text.strip() and question.answers for question in questions)
