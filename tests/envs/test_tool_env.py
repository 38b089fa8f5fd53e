"""ToolEnv: calls, answers and what is neither, in every syntax."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from agent_gym.env import Task
from agent_gym.envs.conformance import conform
from agent_gym.envs.tool_env import Grade, ToolEnv
from agent_gym.errors import ConfigError, EpisodeEnded, ToolError, UnknownIdError
from agent_gym.tools.base import Tool, tool
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.syntax import SYNTAXES


@tool
def double(number: int) -> int:
    """Double a number.

    Args:
        number: The number.
    """
    return 2 * number


@tool
def shout(text: str) -> str:
    """Say something again and again.

    Args:
        text: What to say.
    """
    return text * 10_000


class Notebook(Tool):
    """Keeps notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.closed = False

    def setup(self) -> None:
        self.notes = []

    def run(self, note: str) -> str:
        """Write a note and read all.

        Args:
            note: The note.
        """
        self.notes.append(note)
        return "; ".join(self.notes)

    def close(self) -> None:
        self.closed = True


class Doubling(ToolEnv):
    """What a user writes: fifteen lines."""

    def __init__(self, tools: Sequence[Any] = (double,), **options: Any) -> None:
        super().__init__(tools, **options)
        self.number = 0

    def tasks(self, split: str) -> list[Task]:
        return [Task(f"double {number}", split) for number in range(3)]

    def _ask(self, task: Task, rng: random.Random) -> str:
        self.number = int(task.id.split()[1])
        return f"What is twice {self.number}?"

    def _grade(self, answer: str) -> Grade:
        return Grade(float(answer.strip() == str(2 * self.number)))

    def expert(self) -> Iterator[str]:
        call = ToolCall("double", {"number": self.number})
        return iter([self.write(call), self.write_answer(str(2 * self.number))])


def started(env: ToolEnv, task: str = "double 2") -> ToolEnv:
    env.reset(seed=0, options={"task": task})
    return env


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_expert_calls_reads_and_answers_in_every_syntax(syntax: str) -> None:
    env = started(Doubling(syntax=syntax))
    first, last = env.expert()
    observation, reward, terminated, _, info = env.step(first)
    assert "4" in observation and (reward, terminated, info["tool_calls"]) == (0.0, False, 1)
    observation, reward, terminated, _, info = env.step(last)
    assert (observation, reward, terminated) == ("Your answer is right.", 1.0, True)
    assert info["success"] and info["answer"] == "4"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax_conforms(syntax: str) -> None:
    found = {check.name: check.detail for check in conform(lambda: Doubling(syntax=syntax)) if not check.passed}
    assert found == {}


def test_the_first_observation_tells_how_to_call_and_ends_with_the_question() -> None:
    observation, info = Doubling().reset(seed=0, options={"task": "double 1"})
    assert info["goal"] == "What is twice 1?"
    assert '"name": "double"' in observation and "<answer>answer</answer>" in observation
    assert observation.endswith("\n\nWhat is twice 1?")
    bare, _ = Doubling(instructions=False).reset(seed=0, options={"task": "double 1"})
    assert bare == "What is twice 1?"


def test_a_wrong_answer_ends_the_episode_with_nothing() -> None:
    env = started(Doubling())
    observation, reward, terminated, _, info = env.step("<think>4?</think><answer> 5 </answer>")
    assert (observation, reward, terminated) == ("Your answer is not right.", 0.0, True)
    assert not info["success"] and info["answer"] == "5"
    with pytest.raises(EpisodeEnded):
        env.step("<answer>4</answer>")


def test_the_last_answer_counts_and_none_in_a_thought_does() -> None:
    env = started(Doubling())
    *_, info = env.step("<answer>5</answer> no: <answer>4</answer>")
    assert info["success"]
    env = started(Doubling())
    _, _, terminated, _, info = env.step("<think><answer>4</answer></think> hm")
    assert not terminated and info["invalid_action"]


def test_a_turn_that_calls_and_answers_only_calls() -> None:
    env = started(Doubling())
    observation, _, terminated, *_ = env.step(env.write(call("double", number=2)) + "<answer>5</answer>")
    assert not terminated and "4" in observation


def test_several_calls_are_answered_in_order() -> None:
    env = started(Doubling())
    observation, *_, info = env.step("".join(env.write(call("double", number=n)) for n in (5, 50, 500)))
    assert observation.index("10\n") < observation.index("100\n") < observation.index("1000\n")
    assert info["tool_calls"] == 3


def test_calls_beyond_the_eighth_of_a_turn_are_not_made() -> None:
    env = started(Doubling(tools=[shout], result_characters=8000))
    observation, *_, info = env.step(env.write(call("shout", text="long words")) * 30)
    assert info["tool_calls"] == 8 and "Only 8 calls can be made in one turn." in observation
    assert info["invalid_action"] and env.observation_space.contains(observation)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("What shall I do?", "neither a call nor an answer"),
        ("", "neither a call nor an answer"),
        ('<tool_call>{"name": "double", "argu', "cut off"),
        ('<tool_call>{"name": "treble", "arguments": {}}</tool_call>', "There is no tool 'treble'"),
        ('<tool_call>{"name": "double", "arguments": {"number": "two"}}</tool_call>', "double was not called"),
    ],
)
def test_what_cannot_be_done_is_told_and_can_be_mended(action: str, words: str) -> None:
    env = started(Doubling())
    observation, reward, terminated, _, info = env.step(action)
    assert words in observation and info["invalid_action"] and (reward, terminated) == (0.0, False)
    assert info["tool_calls"] == 0
    assert env.step("<answer>4</answer>")[4]["success"]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("piece", ["<answer>", "</answer>", "```\n", "```x\n", "<think>", '{"a":', " \t"])
def test_long_turns_of_nothing_but_marks_are_read_in_one_pass(syntax: str, piece: str) -> None:
    env = started(Doubling(syntax=syntax))
    observation, *_, info = env.step(piece * 20_000)
    assert not info["success"] and env.observation_space.contains(observation)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_reminder_shows_a_call_and_an_answer_of_the_syntax(syntax: str) -> None:
    env = started(Doubling(syntax=syntax))
    observation, *_ = env.step("What shall I do?")
    assert "double" in observation and env._answer_written("your answer") in observation


def test_without_tools_the_reminder_shows_only_the_answer() -> None:
    env = started(Doubling(tools=[]))
    assert env.step("hm")[0] == "There is no answer in this. Write <answer>your answer</answer>."


def test_a_final_tool_answers() -> None:
    env = started(Doubling(tools=[double, "answer"]))
    *_, info = env.step(env.write(call("answer", answer="4")) + env.write(call("double", number=2)))
    assert info["success"] and info["tool_calls"] == 1


def test_the_budget_is_kept_and_shown() -> None:
    env = Doubling(max_calls=2, show_budget=True)
    observation, _ = env.reset(seed=0, options={"task": "double 2"})
    assert observation.endswith("\n(2 of 2 calls left)")
    double_it = env.write(call("double", number=2))
    assert env.step(double_it)[0].endswith("(1 of 2 calls left)")
    assert env.step("hm")[0].endswith("(1 of 2 calls left)")
    env.step(double_it)
    observation, *_, info = env.step(double_it)
    assert "No tool calls are left" in observation and not info["invalid_action"] and info["tool_calls"] == 2


def test_long_results_are_cut() -> None:
    env = started(Doubling(tools=[shout], result_characters=100))
    observation, *_ = env.step(env.write(call("shout", text="la")))
    assert "[Cut here: 19,900 more characters.]" in observation and len(observation) < 300


def test_each_episode_and_each_fork_has_tools_of_its_own() -> None:
    env = started(Doubling(tools=[Notebook]))
    env.step(env.write(call("notebook", note="one")))
    child = env.fork()
    assert "one; two" in child.step(env.write(call("notebook", note="two")))[0]
    assert "one; three" in env.step(env.write(call("notebook", note="three")))[0]
    assert child.step("hm")[4]["tool_calls"] == 2
    started(env)
    assert "one" not in env.step(env.write(call("notebook", note="four")))[0]


def test_closing_closes_the_tools() -> None:
    env = started(Doubling(tools=[Notebook]))
    env.close()
    notebook = env.toolbox.tools["notebook"]
    assert isinstance(notebook, Notebook) and notebook.closed


def test_what_waits_is_called_in_a_thread() -> None:
    @tool(blocking=True)
    def wait(seconds: float) -> str:
        """Wait.

        Args:
            seconds: How long.
        """
        return f"{seconds}"

    assert Doubling(tools=[wait]).blocking and not Doubling().blocking


def test_the_reward_of_no_answer_comes_with_the_last_turn() -> None:
    class Strict(Doubling):
        def _unanswered(self) -> float:
            return -1.0

    env = started(Strict(max_turns=2))
    assert env.step("hm")[1:4] == (0.0, False, False)
    assert env.step("hm")[1:4] == (-1.0, False, True)
    env = started(Strict(max_turns=1))
    assert env.step("<answer>4</answer>")[1:4] == (1.0, True, False)


def test_unknown_syntaxes_tools_and_limits_are_refused() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'hermes'"):
        Doubling(syntax="herms")
    with pytest.raises(ToolError, match="did you mean 'calculator'"):
        Doubling(tools=["calculater"])
    for characters in (0, 8001):
        with pytest.raises(ConfigError, match="result_characters must be from 1 to 8,000"):
            Doubling(result_characters=characters)
