"""Worlds by task: many of them, each with its own questions and pages."""

from typing import Any

import pytest

from agent_gym.envs.search_qa.generated import Worlds
from agent_gym.errors import ConfigError

WORLDS = Worlds(0, 20, (1, 2, 3), 5)


def test_tasks_take_the_worlds_in_turn_and_are_answered_on_their_pages() -> None:
    source = WORLDS.questions()
    for index in range(10):
        task = source.find(f"train/{index}")
        question, pages = source.question(task), WORLDS.index(task)
        assert question.lookups and all(pages.get(name) is not None for name in question.lookups)
        last = pages.get(question.lookups[-1])
        assert last is not None and (question.answers[0] in last.text or question.answers[0] in ("yes", "no"))
    assert WORLDS.index(source.find("train/1")) is WORLDS.index(source.find("train/6"))
    assert WORLDS.index(source.find("train/1")) is not WORLDS.index(source.find("train/2"))


def test_every_task_has_a_question_even_where_a_world_has_fewer() -> None:
    source = WORLDS.questions()
    tasks = source.tasks("valid")
    assert len(tasks) % 5 == 0
    for task in tasks[-5:]:
        assert source.question(task).text.endswith("?")


def test_a_question_is_answered_otherwise_in_another_world() -> None:
    source = Worlds(0, 240, (1,), 3).questions()
    answers: dict[str, set[str]] = {}
    for task in source.tasks("train"):
        question = source.question(task)
        answers.setdefault(question.text, set()).add(question.answers[0])
    assert sum(len(found) > 1 for found in answers.values()) > 500


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0, 10, (1,), 1), "people must be from 20 to 240, not 10"),
        ((0, 241, (1,), 1), "people must be from 20 to 240, not 241"),
        ((0, 20, (), 1), "hops must be some of 1, 2 and 3"),
        ((0, 20, (4,), 1), "hops must be some of 1, 2 and 3"),
        ((0, 20, (1,), 0), "worlds must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(values: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Worlds(*values)
