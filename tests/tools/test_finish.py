"""Tools that end the episode."""

from agent_gym.tools.calls import ToolCall
from agent_gym.tools.finish import answer, finish
from agent_gym.tools.toolbox import Toolbox


def test_an_answer_ends_the_episode_and_is_its_text() -> None:
    result = Toolbox(["answer"]).call(ToolCall("answer", {"answer": "Rome"}))
    assert (result.text, result.final, result.ok) == ("Rome", True, True)


def test_finishing_ends_the_episode_without_a_text() -> None:
    result = Toolbox([finish]).call(ToolCall("finish"))
    assert (result.text, result.final) == ("", True)


def test_a_call_that_does_not_fit_ends_nothing() -> None:
    assert not Toolbox([answer]).call(ToolCall("answer", {"text": "Rome"})).final


def test_an_answer_can_be_given_when_no_calls_are_left() -> None:
    box = Toolbox(["calculator", answer], max_calls=1)
    box.call(ToolCall("calculator", {"expression": "1"}))
    assert box.call(ToolCall("answer", {"answer": "1"})).final
