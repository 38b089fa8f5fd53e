"""A mistake in an environment of one's own is told in a sentence, where it was made."""

import threading
from typing import Any

import pytest
from small_envs import CountEnv

import agent_gym
from agent_gym import State, Task, TextEnv
from agent_gym.errors import ConfigError, EnvError
from agent_gym.misfits import tasks_of


def answering(answer: Any) -> CountEnv:
    class Answering(CountEnv):
        def _act(self, action: str) -> Any:
            return answer() if callable(answer) else answer

    env = Answering()
    env.reset(seed=0)
    return env


async def _waited() -> tuple[str, State]:
    return "", State(goal="")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (("well", 1.0, True, False, {}), "returned 5 values, as gymnasium's step does: return"),
        ("well", "Answering._act returned a str: return"),
        (None, "returned None: return"),
        (({"a": 1}, State(goal="")), "returned a dict as the observation: return a text"),
        (("well", {"success": True}), "returned a dict beside the observation: return a State"),
        (("well", State(goal="", reward=float("nan"))), "with the reward nan: it must be a finite number"),
        (("well", State(goal="", reward="1")), "with the reward '1': it must be a finite number"),  # type: ignore[arg-type]
        (_waited, "is async: write a plain def"),
    ],
)
def test_what_an_action_must_not_be_answered_with(answer: Any, words: str) -> None:
    env = answering(answer)
    with pytest.raises(EnvError, match=words):
        env.step("up")


def test_numbers_of_other_kinds_are_rewards() -> None:
    _, reward, terminated, _, info = answering(("well", State(goal="", reward=1, terminated=1, success=1))).step("up")  # type: ignore[arg-type]
    assert (type(reward), terminated is True, info["success"] is True) == (float, True, True)


def test_an_environment_cannot_end_the_program() -> None:
    class Exiting(CountEnv):
        def _act(self, action: str) -> Any:
            raise SystemExit(3)

    env = Exiting()
    env.reset(seed=0)
    with pytest.raises(EnvError, match=r"Exiting\._act ended the program"):
        env.step("up")


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        (["one"], "returned a str in place of a task"),
        ((Task("one", "train") for _ in range(1)), "returned a generator: return a list"),
        (None, "returned None: return a list"),
        ([Task(1, "train")], "a Task with the id 1: an id is a text"),  # type: ignore[arg-type]
    ],
)
def test_tasks_are_a_sequence_of_tasks(tasks: Any, words: str) -> None:
    class Listing(CountEnv):
        def tasks(self, split: str) -> Any:
            return tasks

    with pytest.raises(EnvError, match=words):
        tasks_of(Listing(), "train")
    with pytest.raises(EnvError, match=words):
        Listing().reset(seed=0)


def test_what_cannot_be_copied_says_how_it_forks_all_the_same() -> None:
    env = answering(None)
    env.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(EnvError, match=r"cannot be forked: .*; write _copy, or make it with worker='process'"):
        TextEnv._copy(env)


class Unwritten(TextEnv):
    """Has no methods."""


class Uninitialised(CountEnv):
    """Forgets its base."""

    def __init__(self) -> None:
        self.own = True


class Fixed(CountEnv):
    """Hands nothing on to its base."""

    def __init__(self) -> None:
        super().__init__()


def test_what_an_environment_lacks_is_told_when_it_is_made() -> None:
    with pytest.raises(EnvError, match="Unwritten lacks tasks, _start, _act: write"):
        Unwritten()
    with pytest.raises(ConfigError, match=r"does not initialise TextEnv: .* call super\(\).__init__\(\*\*options\)"):
        agent_gym.make(f"{__name__}:Uninitialised")
    with pytest.raises(ConfigError, match=r"is a Thread, no agent_gym\.TextEnv: .* TextEnv\.from_gymnasium"):
        agent_gym.make("threading:Thread")
    with pytest.raises(ConfigError, match=r"cannot be told its split: take \*\*options in its __init__"):
        agent_gym.make(f"{__name__}:Fixed", split="train")
