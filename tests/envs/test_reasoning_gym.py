"""Questions of reasoning-gym: right answers are paid, wrong ones may be tried again, and none is run as a program."""

import sys
from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.conformance import CHECKS, conform
from agent_gym.envs.reasoning_gym import ReasoningGymEnv, is_harmless
from agent_gym.errors import ConfigError, EpisodeEnded, MissingExtraError, UnknownIdError

pytest.importorskip("reasoning_gym")

RUNS_ANSWERS = (
    "string_insertion",
    "spiral_matrix",
    "binary_matrix",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
)


def expected(env: ReasoningGymEnv) -> str:
    actions = env.expert()
    assert actions is not None
    return next(actions)


@pytest.mark.parametrize(
    "make",
    [
        ReasoningGymEnv,
        lambda: ReasoningGymEnv("leg_counting", max_turns=3),
        lambda: ReasoningGymEnv("n_queens", answer_tags=True),
        lambda: ReasoningGymEnv("pool_matrix"),
        lambda: ReasoningGymEnv("list_functions"),
        lambda: ReasoningGymEnv({"chain_sum": 3, "word_ladder": 1}, max_turns=2),
    ],
)
def test_data_sets_pass_every_check(make: Any) -> None:
    found = {check.name: check for check in conform(make)}
    assert list(found) == list(CHECKS)
    assert {name: check.detail for name, check in found.items() if not check.passed} == {}


def test_the_question_is_the_observation_and_its_answer_is_paid() -> None:
    env = ReasoningGymEnv(min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    question, info = env.reset(seed=1)
    assert "State the final answer" in question and info["task_id"].startswith("chain_sum/seed-")
    observation, reward, terminated, truncated, info = env.step(f" {expected(env)}\n")
    assert (observation, reward, terminated, truncated) == ("Your answer is right.", 1.0, True, False)
    assert info["success"] and info["score"] == 1 and info["dataset"] == "chain_sum"


def test_a_wrong_answer_ends_the_only_attempt() -> None:
    env = ReasoningGymEnv()
    env.reset(seed=1)
    observation, reward, terminated, truncated, info = env.step("no idea")
    assert (observation, terminated, truncated) == ("Your answer is not right.", True, False)
    assert not info["success"] and reward == info["score"] < 1


def test_a_wrong_answer_may_be_tried_again_and_rewards_add_up_to_the_best_score() -> None:
    env = ReasoningGymEnv(max_turns=3)
    env.reset(seed=1)
    observation, first, terminated, _, info = env.step(f"It may be {expected(env)}, I think.")
    assert observation == "Your answer is not right. Try again." and not terminated and not info["invalid_action"]
    assert 0 < first < 1
    _, second, _, _, info = env.step("no idea at all")
    assert (second, info["score"]) == (0.0, first)
    _, third, terminated, _, info = env.step(expected(env))
    assert terminated and info["success"] and first + second + third == pytest.approx(1)


def test_with_tags_only_what_is_between_the_last_ones_counts() -> None:
    env = ReasoningGymEnv(answer_tags=True, max_turns=3)
    question, _ = env.reset(seed=1)
    assert question.endswith("Write your answer between <answer> and </answer>.")
    right = expected(env)
    assert right.startswith("<answer>")
    observation, reward, _, _, info = env.step(right.removeprefix("<answer>").removesuffix("</answer>"))
    assert observation == "There is no answer between <answer> and </answer>. Try again."
    assert info["invalid_action"] and reward == 0
    assert env.step(f"First <answer>1</answer>, no:\n{right} it is")[1] == 1


@pytest.mark.parametrize("action", ["", " \n", "9" * 100_000])
def test_no_answer_and_one_without_end_are_invalid(action: str) -> None:
    env = ReasoningGymEnv(max_turns=2)
    env.reset(seed=1)
    observation, _, _, _, info = env.step(action)
    assert info["invalid_action"] and observation == "There is no answer. Try again."


def test_a_fork_remembers_the_best_answer_so_far() -> None:
    env = ReasoningGymEnv(max_turns=3)
    env.reset(seed=1)
    env.step(f"It may be {expected(env)}, I think.")
    child = env.fork()
    assert child.step(expected(env)) == env.step(expected(env))


def test_a_seed_is_one_question_and_the_splits_have_others() -> None:
    env = ReasoningGymEnv()
    ids = [task.id for split in env.splits for task in env.tasks(split)[:3]]
    questions = [env.reset(options={"task": id_})[0] for id_ in ids]
    again = [ReasoningGymEnv().reset(options={"task": id_})[0] for id_ in reversed(ids)]
    assert again[::-1] == questions and len(set(questions)) == len(ids)


def test_several_data_sets_are_mixed_by_their_weights_with_their_own_options() -> None:
    mixed = ReasoningGymEnv({"chain_sum": 9, "leg_counting": 1}, size=200, chain_sum={"min_terms": 2, "max_terms": 2})
    names = [task.id.partition("/")[0] for task in mixed.tasks("train")]
    assert 150 < names.count("chain_sum") < 200 and set(names) == {"chain_sum", "leg_counting"}
    first = next(task.id for task in mixed.tasks("train") if task.id.startswith("chain_sum"))
    assert (
        mixed.reset(options={"task": first})[0].count("+") + mixed.reset(options={"task": first})[0].count(" - ") == 1
    )
    other = first.replace("chain_sum", "leg_counting")
    with pytest.raises(UnknownIdError):
        mixed.find_task(other)
    assert {task.id.partition("/")[0] for task in ReasoningGymEnv(["chain_sum", "gcd"]).tasks("test")[:20]} == {
        "chain_sum",
        "gcd",
    }


def test_data_sets_do_not_print(capsys: pytest.CaptureFixture[str]) -> None:
    ReasoningGymEnv("boxnet").reset(seed=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("dataset", RUNS_ANSWERS)
def test_an_answer_is_never_run_as_a_program(dataset: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    env = ReasoningGymEnv(dataset, max_turns=9)
    env.reset(seed=0)
    for attack in (
        f"__import__('pathlib').Path({str(mark)!r}).touch()",
        f"open({str(mark)!r}, 'w')",
        f"[open({str(mark)!r}, 'w')]",
        f"(lambda: open({str(mark)!r}, 'w'))()",
        f"exec\\\n({f'open({str(mark)!r}, chr(119))'!r})",
        f"'open({str(mark)!r}, chr(119))'",
    ):
        env.step(attack)
    assert not mark.exists()


@pytest.mark.parametrize("dataset", [*RUNS_ANSWERS, "countdown", "simple_integration"])
def test_the_right_answer_counts_where_answers_are_looked_at_first(dataset: str) -> None:
    env = ReasoningGymEnv(dataset)
    for seed in range(3):
        env.reset(seed=seed)
        assert env.step(expected(env))[4]["success"]


def test_another_right_formula_counts_too() -> None:
    env = ReasoningGymEnv("puzzle24")
    env.reset(seed=0)
    assert env.step(f"({expected(env)})")[4]["success"]


@pytest.mark.parametrize(
    "answer",
    [
        "12",
        "-3.5",
        "(1 + 2) * 3 / 4",
        "x**2/2 + sin(3*x) + C",
        "[[1, 2], [3, 4]]",
        "['A', 'B']",
        "ABCD",
        "_ Q\nQ _",
        "x**n",
    ],
)
def test_literals_and_formulas_are_harmless(answer: str) -> None:
    assert is_harmless(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "open('a')",
        "().__class__",
        "9**9**9",
        "((9**99)**99)**99",
        "9**(9*9*9)",
        "9**999",
        "[0] * 10",
        "'a' * 10",
        "[1 for a in 'b']",
        "(5!)!",
        "1 << 99",
        "f'{open}'",
        "'open(1)'",
        "x if y else z",
        "exp(x, evaluate=1)",
        "\uff45\uff58\uff45\uff43('a')",
        "(" * 5000,
    ],
)
def test_programs_and_towers_are_not(answer: str) -> None:
    assert not is_harmless(answer)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"dataset": "chain_sums"}, UnknownIdError, "did you mean 'chain_sum'"),
        ({"colour": "red"}, ConfigError, "chain_sum does not take .*colour"),
        ({"min_terms": 9, "max_terms": 2}, ConfigError, "chain_sum does not take"),
        ({"dataset": []}, ConfigError, "at least one data set"),
        ({"dataset": {"chain_sum": 0}}, ConfigError, "weights above 0"),
        ({"dataset": ["chain_sum"], "gcd": {}}, UnknownIdError, "among those given"),
    ],
)
def test_mistakes_are_errors_with_the_remedy(arguments: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        ReasoningGymEnv(**arguments)


def test_there_is_no_expert_where_a_question_has_many_answers_or_none_was_asked() -> None:
    env = ReasoningGymEnv("graph_color")
    assert env.expert() is None
    env.reset(seed=0)
    assert env.expert() is None


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(EpisodeEnded):
        ReasoningGymEnv()._act("5")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(MissingExtraError, match=r"agent-gym\[reasoning-gym\]"):
        ReasoningGymEnv()
