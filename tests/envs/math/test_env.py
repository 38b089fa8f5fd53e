"""MathEnv: what it asks, how it takes answers, and real problems."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.conformance import conform
from agent_gym.envs.math import MathEnv
from agent_gym.envs.math.problems import FAMILIES
from agent_gym.errors import ConfigError, MissingExtraError, UnknownIdError
from agent_gym.tools.syntax import SYNTAXES

DATA = Path(__file__).parents[4] / "shared/data/math"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    path = tmp_path / "problems.jsonl"
    rows = [{"problem": "Expand (x+1)^2.", "answer": "x^2+2x+1"}, {"question": "Two and two?", "answer": "#### 4"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def play(env: MathEnv, *actions: str, task: str = "train/0") -> tuple[str, float, dict[str, Any]]:
    observation, info = env.reset(seed=0, options={"task": task})
    reward = 0.0
    for action in actions:
        observation, reward, _, _, info = env.step(action)
    return observation, reward, dict(info)


@pytest.mark.parametrize("options", [{"tools": "none"}, {"tools": "calculator", "syntax": "react"}])
def test_it_conforms(options: dict[str, Any]) -> None:
    found = {check.name: check.detail for check in conform(lambda: MathEnv(**options)) if not check.passed}
    assert found == {}


def test_data_of_ones_own_conforms(data: Path) -> None:
    found = {check.name: check.detail for check in conform(lambda: MathEnv(data, tools="none")) if not check.passed}
    assert found == {}


def test_nothing_is_needed_until_python_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.tools.python.PythonTool._opened", lambda self: pytest.fail("a sandbox was opened"))
    env = MathEnv()
    env.reset(seed=0)
    first, last = env.expert() or ()
    assert '"name": "python"' in first
    assert env.fork().step(last)[4]["success"]
    assert env.step("hm")[4]["invalid_action"]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_expert_solves_every_family_in_every_syntax(syntax: str) -> None:
    env = MathEnv(tools="none", syntax=syntax)
    for index in range(2 * len(FAMILIES)):
        play(env, task=f"train/{index}")
        (answer,) = env.expert() or ()
        assert env.step(answer)[4]["success"], answer


def test_an_answer_stands_in_a_box_or_between_tags() -> None:
    env = MathEnv(tools="none", families=["farm"])
    observation, *_ = play(env)
    assert "\\boxed{answer}" in observation
    right = env._asked().answer
    assert play(env, f"So it is \\boxed{{{right}}}.")[1] == 1.0
    assert play(env, f"<answer>{right}</answer>")[1] == 1.0
    assert play(env, f"<answer>It is \\boxed{{{right}.0}}</answer>")[1] == 1.0
    observation, reward, info = play(env, f"It is {right}.")
    assert reward == 0.0 and info["invalid_action"] and "\\boxed{your answer}" in observation


def test_a_wrong_answer_that_can_be_read_may_have_a_reward() -> None:
    env = MathEnv(tools="none", format_reward=0.1)
    assert play(env, "\\boxed{-987654321}")[1] == 0.1 and play(env, "\\boxed{many}")[1] == 0.0
    right = env._asked().answer
    assert play(env, f"\\boxed{{{right}}}")[1] == 1.0
    assert play(MathEnv(tools="none"), "\\boxed{-987654321}")[1] == 0.0


def test_formulas_are_compared_by_what_they_say(data: Path) -> None:
    env = MathEnv(data, tools="none", format_reward=0.2)
    assert play(env, "\\boxed{(x+1)^2}")[1] == 1.0
    assert play(env, "\\boxed{(x-1)^2}")[1] == 0.2
    assert env.blocking and not MathEnv(tools="none").blocking


def test_families_and_levels_take_turns() -> None:
    env = MathEnv(tools="none", families=["ages", "farm"], levels=[1, 3])
    asked = []
    for index in range(8):
        play(env, task=f"valid/{index}")
        asked.append(env._asked().family)
    assert asked == ["ages", "farm"] * 4


def test_the_splits_ask_different_problems() -> None:
    env = MathEnv(tools="none")
    texts = [{play(env, task=f"{split}/{index}")[0] for index in range(60)} for split in env.splits]
    assert not texts[0] & texts[1] and not texts[0] & texts[2]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"families": ["age"]}, UnknownIdError, "did you mean 'ages'"),
        ({"families": []}, ConfigError, "There must be a family"),
        ({"levels": 4}, ConfigError, "levels from 1, 2 and 3, not 4"),
        ({"format_reward": 1.0}, ConfigError, "format_reward must be at least 0 and below 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MathEnv(**options)


def test_data_needs_math_verify(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingExtraError.of("math", "Checking")

    monkeypatch.setattr("agent_gym.envs.math.env.shared_checker", missing)
    with pytest.raises(MissingExtraError):
        MathEnv(data)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize("name", ["gsm8k", "math500", "aime24", "aime25"])
def test_real_problems_are_solved_by_their_answers(name: str) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    env = MathEnv(DATA / f"{name}.jsonl", tools="none", split="test")
    for task in env.tasks("test")[:30]:
        play(env, task=task.id)
        (answer,) = env.expert() or ()
        assert env.step(answer)[4]["success"], task
        assert not play(env, "\\boxed{7^{1/3}}", task=task.id)[2]["success"]


def test_ways_of_writing_one_answer_are_one_vote(data: Path) -> None:
    def vote(answer: str) -> str:
        return str(play(env, f"<answer>{answer}</answer>", task="train/0")[2]["vote"])

    env = MathEnv(tools="none")
    written = ("1000", "1,000", "$1000.0$", "\\boxed{1000}", "2000/2")
    assert {vote(answer) for answer in written} == {"1000"}
    assert vote("1001") == "1001" and vote(" many ") == "many"
    env = MathEnv(data, tools="none", split="train")
    asked = env.tasks("train")
    right = [play(env, f"<answer>{text}</answer>", task=asked[0].id)[2] for text in ("x^2+2x+1", "(x+1)^2", "(1+x)^2")]
    assert {(info["success"], info["vote"]) for info in right} == {(True, "x^2+2x+1")}
