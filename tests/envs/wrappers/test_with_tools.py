"""Tools around any environment."""

from pathlib import Path
from typing import Any

import pytest
from small_envs import CountEnv, Waiting

from agent_gym.env import TextEnv
from agent_gym.envs.alfworld import AlfworldEnv
from agent_gym.envs.conformance import conform
from agent_gym.envs.wrappers.with_tools import WithTools
from agent_gym.errors import EpisodeEnded, SandboxError, ToolError, UnknownIdError
from agent_gym.registry import make
from agent_gym.tools.base import Tool, tool
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.syntax import SYNTAXES, get_syntax

WRAPPER = "agent_gym.envs.wrappers.with_tools:WithTools"


class Notes(Tool):
    """Keeps notes."""

    def setup(self) -> None:
        self.lines: list[str] = []

    def run(self, line: str) -> str:
        self.lines.append(line)
        return " / ".join(self.lines)


class Unforkable(Notes):
    def fork(self) -> "Unforkable":
        raise SandboxError("cannot be forked")


def started(env: TextEnv | None = None, **options: Any) -> WithTools:
    wrapped = WithTools(env or CountEnv(), **{"tools": ["calculator", Notes], **options})
    wrapped.reset(seed=0)
    return wrapped


def call(name: str, syntax: str = "hermes", **arguments: Any) -> str:
    return get_syntax(syntax).write(ToolCall(name, arguments))


SUM = call("calculator", expression="1 + 2")


def test_the_first_observation_tells_how_to_call_the_tools_and_no_other_does() -> None:
    env = WithTools(CountEnv(), tools=["calculator"])
    observation, info = env.reset(seed=0)
    assert observation.startswith(CountEnv().reset(seed=0)[0] + "\n\n# Tools")
    assert '"name": "calculator"' in observation and (info["tool_calls"], info["turn"]) == (0, 0)
    assert "# Tools" not in env.step("up")[0]


@pytest.mark.parametrize("syntax", list(SYNTAXES))
def test_a_call_is_answered_and_the_environment_does_not_move(syntax: str) -> None:
    env = started(syntax=syntax)
    env.step("up")
    observation, reward, terminated, truncated, info = env.step(call("calculator", syntax, expression="40 + 2"))
    assert "42" in observation and (reward, terminated, truncated) == (0.0, False, False)
    assert (info["turn"], env.turn, env.env.turn, info["tool_calls"]) == (2, 2, 1, 1)
    assert (info["score"], info["success"], info["invalid_action"]) == (1 / 3, False, False)
    assert info["admissible_actions"] == ["up", "down", "stop 1"]


def test_everything_else_reaches_the_environment_as_it_is() -> None:
    env, bare = started(), CountEnv()
    bare.reset(seed=0)
    for action in ("up", "<think>hm</think> up", "nonsense", "up"):
        mine, theirs = env.step(action), bare.step(action)
        assert mine[:4] == theirs[:4] and mine[4].copy() == {**theirs[4].copy(), "tool_calls": 0}


@pytest.mark.parametrize(
    ("syntax", "answer"), [("arpo", "<think>So.</think><answer> \\boxed{up} </answer>"), ("react", "Final Answer: up")]
)
def test_an_answer_reaches_the_environment_as_its_action(syntax: str, answer: str) -> None:
    env = started(syntax=syntax)
    env.step(answer)
    assert env.env.unwrapped.value == 1  # type: ignore[attr-defined]


def test_a_malformed_call_is_answered_with_the_reason_and_counts_as_an_invalid_action() -> None:
    observation, reward, terminated, _, info = started().step("<tool_call>{")
    assert "Write it like this: <tool_call>" in observation
    assert info["invalid_action"] and not terminated and reward == 0 and info["tool_calls"] == 0


def test_calls_count_as_turns() -> None:
    env = started(CountEnv(max_turns=3))
    assert not env.step(SUM)[3] and not env.step("up")[3]
    *_, truncated, info = env.step(SUM)
    assert truncated and info["turn"] == 3
    with pytest.raises(EpisodeEnded):
        env.step("up")
    env.reset(seed=0)
    assert env.turn == 0
    env.step(SUM)
    env.step(SUM)
    assert env.step("up")[3]
    with pytest.raises(EpisodeEnded):
        env.step(SUM)


def test_an_episode_that_was_won_takes_no_more_calls() -> None:
    env = started()
    for _ in range(3):
        *_, terminated, _, info = env.step("up")
    assert terminated and info["success"]
    with pytest.raises(EpisodeEnded):
        env.step(SUM)
    with pytest.raises(EpisodeEnded):
        WithTools(CountEnv(), tools=["calculator"]).step(SUM)


def test_a_final_tool_ends_the_episode_with_its_text_as_the_last_action() -> None:
    env = started(tools=["answer", "finish"])
    env.step("up")
    *_, terminated, truncated, info = env.step(call("answer", answer="up"))
    assert terminated and not truncated and info["score"] == 2 / 3
    env.reset(seed=0)
    observation, reward, terminated, _, info = env.step(call("finish"))
    assert (observation, reward, terminated, info["turn"]) == ("The episode is ended.", 0.0, True, 1)
    with pytest.raises(EpisodeEnded):
        env.step("up")


def test_several_calls_run_in_order_up_to_one_that_ends_the_episode() -> None:
    env = started(tools=[Notes, "finish"])
    observation, *_ = env.step(call("notes", line="a") + call("notes", line="b"))
    assert observation.index("a\n") < observation.index("a / b")
    env.step(call("finish") + call("notes", line="c"))
    assert env.toolbox.tools["notes"].lines == ["a", "b"]  # type: ignore[attr-defined]


def test_the_budget_of_calls_is_for_an_episode() -> None:
    env = started(max_calls=1)
    assert "3" in env.step(SUM)[0] and "No tool calls are left" in env.step(SUM)[0]
    env.reset(seed=0)
    assert "3" in env.step(SUM)[0]


def test_a_fork_has_its_own_tools_turns_and_calls() -> None:
    env = started(max_calls=3)
    env.step(call("notes", line="a"))
    twin = env.fork()
    assert "a / b" in twin.step(call("notes", line="b"))[0]
    twin.step("up")
    assert "a / c" in env.step(call("notes", line="c"))[0]
    assert (env.turn, twin.turn, env.env.turn, twin.env.turn) == (2, 3, 0, 1)
    assert env.step(SUM)[4]["tool_calls"] == 3 and "No tool calls are left" in env.step(SUM)[0]
    assert twin.step(SUM)[4]["tool_calls"] == 3


def test_a_fork_that_fails_leaves_no_environment_open(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(CountEnv, "close", lambda env: closed.append(env))
    env = started(tools=[Unforkable])
    with pytest.raises(SandboxError):
        env.fork()
    assert len(closed) == 1 and closed[0] is not env.env


def test_a_failure_of_the_engine_is_raised() -> None:
    @tool
    def broken() -> str:
        raise SandboxError("the sandbox failed twice")

    with pytest.raises(SandboxError):
        started(tools=[broken]).step(call("broken"))


def test_results_of_many_calls_still_fit_into_the_space_of_observations() -> None:
    @tool
    def shout() -> str:
        return "x" * 100_000

    env = started(tools=[shout])
    observation, *_ = env.step(call("shout") * 30)
    assert env.observation_space.contains(observation) and "[Cut here: " in observation


def test_it_says_that_it_waits_where_the_environment_or_a_tool_does() -> None:
    assert not started().blocking
    assert started(Waiting()).blocking and started(tools=["python"]).blocking


def test_closing_ends_the_tools_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Notes, "close", lambda notes: closed.append("notes"), raising=False)
    env = started()
    env.close()
    assert closed == ["notes"] and env.env.unwrapped.closed  # type: ignore[attr-defined]


def test_a_recording_repeats_the_tools_offline(tmp_path: Path) -> None:
    asked = []

    @tool
    def search(query: str) -> str:
        asked.append(query)
        return f"about {query}"

    path = tmp_path / "web.jsonl"
    told = started(tools=[search], recording=path).step(call("search", query="Rome"))[0]
    assert started(tools=[search], recording=path, mode="replay").step(call("search", query="Rome"))[0] == told
    assert asked == ["Rome"]
    with pytest.raises(ToolError, match="keeps a state"):
        started(tools=[Notes], recording=path)


def test_it_is_made_of_plain_configuration(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def shout(text: str) -> str:\n    return text.upper()\n")
    wrapper = {"id": WRAPPER, "tools": ["calculator", f"{file}:shout"], "syntax": "arpo", "max_calls": 2}
    env = make("alfworld", size="tiny", wrappers=[wrapper])
    assert "<shout>" in env.reset(seed=0)[0]
    assert "HEY" in env.step("<shout> hey </shout>")[0]


def test_what_cannot_be_made_is_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'hermes'"):
        WithTools(CountEnv(), tools=[], syntax="hermez")
    with pytest.raises(ToolError, match="did you mean 'calculator'"):
        WithTools(CountEnv(), tools=["calculater"])


def test_a_wrapped_environment_conforms_as_the_bare_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # The comparison with the official engine has nothing to do with wrappers.
    monkeypatch.setattr(AlfworldEnv, "checks", {})
    wrapper = {"id": WRAPPER, "tools": ["calculator", Notes], "max_calls": 3}
    checks = list(conform(lambda: make("alfworld", size="tiny", wrappers=[wrapper])))
    assert {check.name: check.detail for check in checks if check.passed is False} == {}
