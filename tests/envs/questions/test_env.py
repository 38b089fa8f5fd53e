"""QuestionEnv: the tasks of an environment are those of its source."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.questions import Generated, Loaded, Source
from agent_gym.envs.questions.env import QuestionEnv
from agent_gym.envs.tool_env import Grade
from agent_gym.errors import EpisodeEnded, UnknownIdError


class Asking(QuestionEnv[str]):
    """Asks for what it says."""

    def _worded(self, question: str) -> str:
        return f"Say {question}."

    def _grade(self, answer: str) -> Grade:
        return Grade(float(answer == self._asked()))


def loaded(tmp_path: Path, *splits: str) -> Source[str]:
    files = {}
    for split in splits:
        files[split] = tmp_path / f"{split}.jsonl"
        files[split].write_text(json.dumps({"q": f"something for {split}"}))
    return Loaded(files, split="train", known={}, read=lambda row: ("1", str(row["q"])))


def test_a_task_of_any_split_can_be_asked_for() -> None:
    env = Asking(Generated(lambda split, index: f"{split}{index}", lambda split: 5), instructions=False)
    assert env.reset(options={"task": "test/3"})[0] == "Say test3."
    assert env.step("<answer>test3</answer>")[1] == 1.0
    with pytest.raises(UnknownIdError):
        env.reset(options={"task": "test/5"})


@pytest.mark.parametrize(
    ("splits", "held_out"),
    [(("train", "valid", "test"), "valid"), (("train", "test"), "test"), (("train",), "train"), (("valid",), "valid")],
)
def test_what_to_measure_on_is_what_the_data_has(tmp_path: Path, splits: tuple[str, ...], held_out: str) -> None:
    env = Asking(loaded(tmp_path, *splits))
    assert env.held_out_split == held_out and set(env.data_files()) == set(splits)


def test_a_split_without_questions_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownIdError, match="The split 'valid' has no tasks"):
        Asking(loaded(tmp_path, "train"), split="valid").reset()


def test_there_is_no_question_before_the_first_reset() -> None:
    env: Any = Asking(Generated(lambda split, index: "x", lambda split: 1))
    with pytest.raises(EpisodeEnded, match="call reset"):
        env._asked()
