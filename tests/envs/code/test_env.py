"""CodeEnv: what it asks, how it takes programs, and what it pays for them."""

from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.code import CodeEnv
from agent_gym.envs.conformance import conform
from agent_gym.errors import ConfigError, DataError, SandboxError, SandboxUnavailable, UnknownIdError
from agent_gym.sandbox.base import Result, Sandbox
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.syntax import SYNTAXES

GOLDEN = Path(__file__).parents[2] / "golden/code"


def play(env: CodeEnv, *actions: str, task: str = "train/0") -> tuple[str, float, dict[str, Any]]:
    observation, info = env.reset(seed=0, options={"task": task})
    reward = 0.0
    for action in actions:
        observation, reward, _, _, info = env.step(action)
    return observation, reward, dict(info)


def mostly_right(env: CodeEnv) -> str:
    """Return a program that fails the first hidden test alone."""
    task = env._asked()
    first = task.tests[0].arguments[0]
    return (
        f"{task.solution}\ninner = solve\ndef solve(value):\n    return ... if value == {first!r} else inner(value)\n"
    )


def test_it_conforms(process_sandbox: Sandbox) -> None:
    make = lambda: CodeEnv(tools=(), sandbox=process_sandbox)  # noqa: E731
    assert {check.name: check.detail for check in conform(make) if not check.passed} == {}


def test_it_conforms_in_the_sandbox_of_this_machine() -> None:
    from agent_gym.sandbox import shared

    try:
        shared("auto")
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert {check.name: check.detail for check in conform(CodeEnv) if not check.passed} == {}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_expert_solves_tasks_in_every_syntax(process_sandbox: Sandbox, syntax: str) -> None:
    env = CodeEnv(tools=(), sandbox=process_sandbox, syntax=syntax)
    for number in range(3):
        observation, *_ = play(env, task=f"valid/{number}")
        assert "Answer with the whole program in a fenced block" in observation
        (answer,) = env.expert() or ()
        observation, reward, terminated, _, info = env.step(answer)
        assert (observation, reward, terminated) == ("12 of 12 tests passed.", 1.0, True)
        assert info["success"] and info["tests_passed"] == 12 and info["strong_verdict"]


def test_the_agent_tries_its_code_where_it_is_not_judged(any_sandbox: Sandbox) -> None:
    if any_sandbox.name == "process":
        pytest.skip("the bare process has no sessions")
    env = CodeEnv(sandbox=any_sandbox)
    play(env)
    trial, answer = env.expert() or ()
    observation, *_ = env.step(trial)
    assert env._asked().statement.split(" == ")[1].split("\n")[0] in observation
    poison = "import builtins\nbuiltins.len = lambda _: 0\nopen('solve.py', 'w').write('x')"
    env.step(env.write(ToolCall("python", {"code": poison})))
    child = env.fork()
    assert child.step(answer)[4]["success"] and env.step(answer)[4]["success"]
    env.close()


def test_a_program_is_an_answer_with_or_without_tags(process_sandbox: Sandbox) -> None:
    env = CodeEnv(tools=(), sandbox=process_sandbox)
    play(env)
    program = env._asked().solution
    for answer in (
        f"```python\n{program}```",
        f"<answer>\n```python\n{program}\n```\n</answer>",
        f"<answer>{program}</answer>",
    ):
        assert play(env, answer)[1] == 1.0, answer
    _, reward, info = play(env, program)
    assert reward == 0.0 and info["invalid_action"] and "```" not in program


def test_all_tests_must_pass_or_their_share_pays(process_sandbox: Sandbox) -> None:
    env = CodeEnv(tools=(), sandbox=process_sandbox)
    play(env)
    answer = f"```python\n{mostly_right(env)}```"
    observation, reward, info = play(env, answer)
    assert observation == "11 of 12 tests passed." and reward == 0.0
    assert info["score"] == 11 / 12 and not info["success"] and info["tests_passed"] == 11
    shared = CodeEnv(tools=(), sandbox=process_sandbox, reward="share")
    assert play(shared, answer)[1] == 11 / 12
    observation, reward, _ = play(shared, "```python\ndef solve(value): return (\n```")
    assert reward == 0.0 and "The program failed: it cannot be loaded: SyntaxError" in observation


def test_humaneval_and_mbpp_are_played(process_sandbox: Sandbox) -> None:
    for name, task, words in (
        ("humaneval", "test/HumanEval/32", "def find_zero"),
        ("mbpp", "test/14", "find_Volume(10"),
    ):
        env = CodeEnv(GOLDEN / f"{name}.jsonl", tools=(), sandbox=process_sandbox, split="test")
        observation, *_ = play(env, task=task)
        assert words in observation
        (answer,) = env.expert() or ()
        assert env.step(answer)[4]["success"]
        assert not play(env, "```python\nx = 1\n```", task=task)[2]["success"]
    assert env.data_files() == {"test": GOLDEN / "mbpp.jsonl"}


def test_how_many_tests_are_shown_can_be_chosen(process_sandbox: Sandbox) -> None:
    for shown in (0, 1, 3):
        env = CodeEnv(GOLDEN / "mbpp.jsonl", tools=(), sandbox=process_sandbox, shown_tests=shown)
        assert play(env, task="train/14")[0].count("assert find_Volume") == shown


def test_a_sandbox_that_fails_ends_the_episode_without_a_reward(process_sandbox: Any) -> None:
    env = CodeEnv(tools=(), sandbox=process_sandbox)
    play(env)

    def fail(*given: Any, **options: Any) -> Result:
        raise SandboxError("The sandbox failed.")

    process_sandbox.run = fail
    with pytest.raises(SandboxError):
        env.step("```python\nx = 1\n```")


def test_a_machine_without_a_sandbox_says_so_before_the_first_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(name: str) -> Sandbox:
        raise SandboxUnavailable(f"No sandbox {name}.")

    monkeypatch.setattr("agent_gym.sandbox.shared", unavailable)
    env = CodeEnv()
    assert len(env.tasks("train")) == 1_000_000
    with pytest.raises(SandboxUnavailable, match="No sandbox auto"):
        env.reset(seed=0)


def test_weak_verdicts_must_be_allowed(tmp_path: Path, process_sandbox: Sandbox) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(
        '{"text": "t", "task_id": 1, "test_list": ["assert solve(Node()) == 3"], '
        '"code": "class Node:\\n    value = 3\\ndef solve(node):\\n    return node.value"}'
    )
    answer = "```python\nclass Node:\n    value = 3\ndef solve(node):\n    return 3\n```"
    with pytest.raises(DataError, match="allow_weak_verdicts"):
        play(CodeEnv(path, tools=(), sandbox=process_sandbox), answer, task="train/1")
    env = CodeEnv(path, tools=(), sandbox=process_sandbox, allow_weak_verdicts=True)
    *_, info = play(env, answer, task="train/1")
    assert info["success"] and not info["strong_verdict"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reward": "most"}, UnknownIdError, "Unknown reward 'most'"),
        ({"timeout": 0}, ConfigError, "timeout must be above 0"),
        ({"shown_tests": -1}, ConfigError, "shown_tests at least 0"),
        ({"lengths": 4}, ConfigError, "lengths must be some of 1, 2 and 3"),
        ({"lengths": []}, ConfigError, "lengths must be some of 1, 2 and 3"),
        ({"data": "humanevil"}, UnknownIdError, "did you mean 'humaneval'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        CodeEnv(**options)
