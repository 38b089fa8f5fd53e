"""The conformance suite: ours pass all of it, and each fault is found by the check that is meant for it."""

import os
import random
from typing import Any, Self

import pytest
from helpers import CountEnv, WordEnv

from agent_gym.env import TextEnv
from agent_gym.envs.alfworld import AlfworldEnv
from agent_gym.envs.conformance import BAD_ACTIONS, CHECKS, conform
from agent_gym.errors import UnknownIdError

SHARED_DICE = random.Random(0)


class Steady(CountEnv):
    """Never crashes."""

    def _act(self, action: str) -> Any:
        return super()._act("" if action == "crash" else action)


class Moody(Steady):
    """Draws from a generator that all its instances share."""

    def _said(self) -> str:
        return f"the number is {self.value}; {SHARED_DICE.randrange(10**9)}"


class Loud(Steady):
    """Uses the process's generator."""

    def _said(self) -> str:
        return f"the number is {self.value}; {random.randrange(1)}"


class Nomad(Steady):
    """Leaves a mark in the process."""

    def _act(self, action: str) -> Any:
        os.environ["AGENT_GYM_TEST_NOMAD"] = action.replace("\x00", "").encode("utf-8", "replace").decode()
        return super()._act(action)


class Remembering(Steady):
    """Its reset forgets to forget."""

    total = 0

    def _act(self, action: str) -> Any:
        self.total += 1
        return super()._act(action)

    def _said(self) -> str:
        return f"{super()._said()} ({self.total} turns so far)"


class Siamese(Steady):
    """A fork shares its value with its parent."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell = [0]

    def _copy(self) -> Self:
        twin = super()._copy()
        twin.cell = self.cell
        return twin

    def _start(self, task: Any, rng: random.Random) -> Any:
        self.cell[0] = 0
        return super()._start(task, rng)

    def _act(self, action: str) -> Any:
        self.cell[0] += 1
        return super()._act(action)

    def _said(self) -> str:
        return f"turn {self.cell[0]}"


class Fragile(Steady):
    """Does not take what it does not know."""

    def _act(self, action: str) -> Any:
        if not action.isascii():
            raise KeyError(action)
        return super()._act(action)


class Endless(Steady):
    """Plays on after the end."""

    def step(self, action: str) -> Any:
        self._ended = self._ended and self.turn == 0
        return super().step(action)


class Boastful(Steady):
    """Its score is in percent."""

    def _state(self, **values: Any) -> Any:
        return super()._state(**{**values, "score": 300.0})


class Obliging(Steady):
    """Plays something else where it does not know the task."""

    def find_task(self, task_id: str) -> Any:
        return self.tasks("train")[0]


class Lost(Steady):
    """Its expert counts to two."""

    def expert(self) -> Any:
        return iter(["up", "up"])


def results(make: Any, only: str | None = None) -> dict[str, Any]:
    return {check.name: check for check in conform(make, only=only)}


@pytest.mark.parametrize("make", [Steady, WordEnv, lambda: AlfworldEnv(size="tiny")])
def test_sound_environments_pass_every_check(make: Any) -> None:
    found = results(make)
    assert list(found) == [*CHECKS, *make().checks]
    assert {name: check.detail for name, check in found.items() if check.passed is False} == {}
    assert all(found[name].passed for name in CHECKS)


@pytest.mark.parametrize(
    ("broken", "name", "words"),
    [
        (Moody, "determinism", "a second environment answers differently at turn 0: "),
        (Loud, "globals", "changed random's generator"),
        (Nomad, "globals", "changed the environment variables"),
        (Remembering, "hygiene", "an environment that was used before answers differently"),
        (Siamese, "fork", "a fork (made after turn 0) answers differently at turn 1"),
        (Fragile, "bad actions", "an action that is unicode raised KeyError"),
        (Endless, "after the end", "a step after the end does not raise EpisodeEnded"),
        (Boastful, "info", "info['score'] is 300.0 at turn 0"),
        (Obliging, "tasks", "asked for task 'count 4', got 'count 0'"),
        (Lost, "oracle", "the expert does not solve task 'count 0'"),
        (Moody, "interleaved", "another environment answers differently"),
        (Moody, "gymnasium", "raised AssertionError"),
    ],
)
def test_a_fault_is_found_and_told(broken: type[TextEnv], name: str, words: str) -> None:
    check = results(broken, only=name)[name]
    assert check.passed is False and (words in check.detail or name == "gymnasium"), check.detail


def test_what_does_not_apply_is_neither_passed_nor_failed() -> None:
    class Clueless(Steady):
        def expert(self) -> None:
            return None

    check = results(Clueless, only="oracle")["oracle"]
    assert check.passed is None and check.detail == "it has no expert"


def test_an_unknown_check_is_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'fork'"):
        list(conform(Steady, only="forks"))


def test_the_bad_actions_are_bad_in_different_ways() -> None:
    assert len(BAD_ACTIONS["100 kB"]) >= 100_000
    assert "\x00" in BAD_ACTIONS["NUL"] and "\ud800" in BAD_ACTIONS["lone surrogate"]


def test_an_expert_that_takes_longer_than_the_limit_is_told_of() -> None:
    check = results(lambda: Steady(max_turns=2), only="oracle")["oracle"]
    assert check.passed and "max_turns is 2, but count 0 takes 3" in check.detail


def test_an_error_says_where_it_was_raised() -> None:
    check = results(Fragile, only="bad actions")["bad actions"]
    assert "(test_conformance.py, line " in check.detail


def test_tasks_that_cannot_be_told_apart_and_texts_that_are_too_long_are_found() -> None:
    class Twins(Steady):
        def tasks(self, split: str) -> Any:
            return [super().tasks(split)[0]] * 2

    class Talkative(Steady):
        def _said(self) -> str:
            return "more " * 20_000

    assert results(Twins, only="tasks")["tasks"].detail == "2 tasks are called 'count 0'"
    assert "longer than 65,536 characters" in results(Talkative, only="info")["info"].detail
