"""Two runs on the same tasks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation.measured_runs import add, episode, make

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.errors import ConfigError, StoreError, UnknownIdError
from agent_gym.evaluation import published
from agent_gym.evaluation.comparison import adjusted, compare_runs, compare_suites
from agent_gym.evaluation.pairing import mcnemar, paired_interval
from agent_gym.evaluation.runner import evaluate
from agent_gym.evaluation.selection import Selection, select
from agent_gym.store.run import RunFolder


def test_one_attempt_each_is_mcnemars_test(tmp_path: Path) -> None:
    a = make(tmp_path / "a", [[task < 20] for task in range(60)])
    b = make(tmp_path / "b", [[task < 32 and task != 3] for task in range(60)])
    found = compare_runs(a, b)
    assert found.overall.pairs == 60 and found.overall.difference == pytest.approx(11 / 60)
    assert found.overall.p_value == mcnemar(1, 12)
    assert (found.overall.low, found.overall.high) == paired_interval(1, 12, 60)
    assert found.told_apart
    assert found.sentence == (
        "B is better than A by 18.3 points (95%: 7.9 to 30.5; p = 0.003, McNemar's exact test over 60 tasks)."
    )


def test_several_attempts_are_a_permutation_over_tasks(tmp_path: Path) -> None:
    a = make(tmp_path / "a", [[True, task % 2 == 0] for task in range(30)])
    b = make(tmp_path / "b", [[task % 3 > 0, task % 4 == 0] for task in range(30)])
    found = compare_runs(a, b)
    assert found.overall.test == "permutation" and "bootstrap" in found.overall.method
    assert found.told_apart and found.sentence.startswith(
        "B is worse than A by 28.3 points (95%: 18.3 to 40.0; p < 0.001"
    )
    mirrored = compare_runs(b, a)
    assert mirrored.overall.difference == pytest.approx(17 / 60) and mirrored.sentence.startswith("B is better")


def test_runs_that_are_alike_are_not_told_apart_and_the_note_says_what_would_be(tmp_path: Path) -> None:
    a = make(tmp_path / "a", [[task % 2 == 0] for task in range(40)])
    b = make(tmp_path / "b", [[task % 2 == 0 if task > 5 else task < 4] for task in range(40)])
    found = compare_runs(a, b)
    assert found.sentence.startswith("A and B are not told apart: B - A is 2.5 points (95%: ")
    (note,) = found.warnings
    assert note.startswith("40 tasks would mostly show a difference of") and "2.5 points takes about" in note


def test_runs_that_differ_alike_on_all_tasks_still_have_an_interval(tmp_path: Path) -> None:
    solved, failed = (make(tmp_path / name, [[won, won]] * 10) for name, won in (("a", True), ("b", False)))
    for first, second, gained in ((solved, solved, 0), (failed, solved, 10)):
        overall = compare_runs(first, second).overall
        assert (overall.low, overall.high) == paired_interval(0, gained, 10)
        assert overall.low is not None and overall.low < gained / 10
    rewards = compare_runs(failed, solved, metric="reward").overall
    assert rewards.difference == 1 and rewards.low is None and "differ alike" in rewards.method


def test_what_was_left_out_is_counted(tmp_path: Path) -> None:
    a = make(tmp_path / "a", [[True], [False], [True], ["down"]])
    b = make(tmp_path / "b", [[True], [True], ["down"]], first=1)
    found = compare_runs(a, b)
    # Tasks 1 and 2 are played by both; 0 only by A; of 3 both runs have failed episodes alone.
    assert (found.overall.pairs, found.only_a, found.only_b, found.failed) == (2, 1, 0, 1)
    assert "Tasks left out: 1 only A has, 1 of which one run has failed episodes alone." in found.warnings
    assert any("counted as wrong, B - A would be 33.3 points" in warning for warning in found.warnings)
    paid = compare_runs(a, b, metric="reward").warnings
    assert any("B - A in success would be 33.3 points" in warning for warning in paid)


def test_without_common_tasks_the_runs_are_compared_unpaired_with_a_warning(tmp_path: Path) -> None:
    a = make(tmp_path / "a", [[task < 10] for task in range(50)])
    b = make(tmp_path / "b", [[task < 30] for task in range(50)], first=100)
    found = compare_runs(a, b)
    assert found.overall.pairs == 0 and "Newcombe" in found.overall.method and found.told_apart
    assert "without pairs" in found.warnings[0]
    assert "over 50 and 50 tasks" in found.sentence


def test_types_are_compared_with_adjusted_values_and_tasks_that_differ_are_listed(tmp_path: Path) -> None:
    a = make(tmp_path / "a", [[False] for _ in range(20)])
    b = make(tmp_path / "b", [[task % 2 == 0] for task in range(20)])
    found = compare_runs(a, b)
    even, odd = found.types["kind 0"], found.types["kind 1"]
    assert (even.difference, odd.difference) == (1, 0)
    assert even.p_value is not None and even.adjusted == pytest.approx(2 * even.p_value)
    assert {one.task_id for one in found.differing} == {f"task {task}" for task in range(0, 20, 2)}


def test_which_tasks_are_solved_at_least_once(tmp_path: Path) -> None:
    a = make(tmp_path / "a", [[True, False], [False, False], [True, True], [False, False]])
    b = make(tmp_path / "b", [[True, True], [False, True], [False, False], [False, False]])
    found = compare_runs(a, b).support
    assert found is not None
    assert (found.preserved, found.expanded, found.shrunk, found.outside, found.left_out) == (1, 1, 1, 1, 0)
    unequal = compare_runs(a, make(tmp_path / "b3", [[True, True], [True], [False] * 3, [True, "down"]])).support
    assert unequal is not None and (unequal.preserved, unequal.left_out) == (1, 3)
    single = compare_runs(make(tmp_path / "c", [[True]]), make(tmp_path / "d", [[True]]))
    assert single.support is None


def test_rewards_are_compared_in_their_own_unit(tmp_path: Path) -> None:
    a = make(tmp_path / "a", [[float(task)] for task in range(12)])
    b = make(tmp_path / "b", [[task + 0.5 + task % 2] for task in range(12)])
    found = compare_runs(a, b, metric="reward")
    assert found.sentence.startswith("B is better than A by 1 (95%: ")


def test_several_suites_are_adjusted_for_their_number(tmp_path: Path) -> None:
    a, b = (make(tmp_path / name, [[won] for _ in range(12)]) for name, won in (("a", False), ("b", True)))
    for run in (a, b):
        add(run, [[True], [False]], suite="toy/other")
    found = compare_suites(a, b)
    assert [one.suite for one in found] == ["toy/test", "toy/other"]
    assert found[0].overall.adjusted == pytest.approx(2 * mcnemar(0, 12)) and "adjusted" in found[0].sentence
    assert adjusted(found[:1])[0].overall.p_value == mcnemar(0, 12)
    with pytest.raises(ConfigError, match=r"toy/test, toy/other"):
        compare_runs(a, b)
    assert compare_runs(a, b, "toy/other").suite == "toy/other"
    with pytest.raises(UnknownIdError, match="did you mean 'toy/test'"):
        compare_runs(a, b, "toy/tests")


def test_a_run_that_failed_throughout_cannot_be_compared(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", [["down"]]), make(tmp_path / "b", [[True]])
    found = compare_runs(a, b)
    assert found.sentence.startswith("The runs cannot be compared") and not found.told_apart
    json.dumps(found.as_dict(), allow_nan=False)


def test_runs_without_a_common_suite_are_refused(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", [[True]]), make(tmp_path / "b", [[True]], suite="toy/b")
    for run in (a, b):
        add(run, [[True]], suite=f"toy/{run.path.name}{run.path.name}")
    with pytest.raises(ConfigError, match="no suite in common"):
        compare_suites(a, b)


def test_two_names_are_compared_only_where_they_are_the_same_tasks_and_both_are_said(tmp_path: Path) -> None:
    outcomes = [[task % 2 == 0] for task in range(10)]
    a, same = make(tmp_path / "a", outcomes), make(tmp_path / "same", outcomes, suite="toy/again")
    assert compare_runs(a, same).suite == "toy/test and toy/again"
    others = make(tmp_path / "others", outcomes, suite="toy/others", first=100)
    with pytest.raises(ConfigError, match=r"no suite in common: the first has toy/test, the second toy/others"):
        compare_runs(a, others)
    # Two environments may well call their tasks the same.
    elsewhere = RunFolder.create(tmp_path / "elsewhere", {})
    with elsewhere.trajectories() as store:
        store.add([replace(episode(0, 0, True, suite="other/test"), env_id="other")], step=0, phase="eval")
    with pytest.raises(ConfigError, match="no suite in common"):
        compare_runs(a, elsewhere)


def test_suites_that_only_one_run_has_are_said_to_be_left_out(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", [[True]]), make(tmp_path / "b", [[True]])
    assert not any("left out" in warning for warning in compare_runs(a, b).warnings)
    add(a, [[True]], suite="toy/early")
    add(b, [[True]], suite="toy/late")
    (found,) = compare_suites(a, b)
    assert found.warnings[0] == ("Suites left out, since only one of the runs has them: toy/early (A), toy/late (B).")


def test_measurements_of_a_training_run_are_chosen_by_phase_and_step(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[False], [False]], phase="before")
    add(run, [[True], [False]], phase="during", step=5)
    add(run, [[True], [True]], phase="after", step=9)
    found = compare_runs(select(f"{run.path}:before"), select(f"{run.path}@5"))
    assert (found.a.value.value, found.b.value.value) == (0, 0.5)
    assert compare_runs(select(f"{run.path}:during@5"), Selection(run)).b.value.value == 1
    with pytest.raises(UnknownIdError, match="Known: after, before, during"):
        compare_runs(select(f"{run.path}:befor"), run)
    with pytest.raises(StoreError, match="nothing at step 4"):
        compare_runs(select(f"{run.path}@4"), run)


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path: Path) -> None:
    run = make(tmp_path / "run:before@3", [[True]])
    found = select(str(run.path))
    assert (found.run.path, found.phase, found.step) == (run.path, None, None)


def test_the_metric_is_what_the_run_has_recorded_of_the_suite(tmp_path: Path) -> None:
    runs = [make(tmp_path / name, [[0.5], [0.25]]) for name in ("a", "b")]
    assert compare_runs(*runs).metric == "success"
    record = {"name": "toy/test", "metric": "score", "references": [], "tasks": [["task 0", ""], ["task 1", ""]]}
    (tmp_path / "a" / "suites.json").write_text(json.dumps([record]))
    assert compare_runs(*runs).metric == "score"


@pytest.mark.parametrize("halves", [0.5, 0.75])
@pytest.mark.parametrize("tasks", [5, 8, 14])
def test_with_few_tasks_the_interval_holds_zero_where_the_test_does_not_refuse_it(
    tmp_path: Path, tasks: int, halves: float
) -> None:
    a = make(tmp_path / "a", [[False] * 4 for _ in range(tasks)])
    b = make(tmp_path / "b", [[True] * 4 if task > 1 else [True, halves > 0.5, True, False] for task in range(tasks)])
    found = compare_runs(a, b).overall
    assert found.p_value is not None and found.low is not None and found.high is not None
    assert (found.low <= 0 <= found.high) == (found.p_value >= 0.05) and found.high <= 1
    # All tasks differing alike says no less.
    alike = compare_runs(a, make(tmp_path / "c", [[True] * 4 for _ in range(tasks)])).overall
    assert alike.low is not None and alike.p_value is not None and found.low <= alike.low
    assert (alike.low <= 0) == (alike.p_value >= 0.05)


def test_that_two_runs_were_played_by_different_rules_is_said(tmp_path: Path) -> None:
    runs = []
    for name, more in (("a", {}), ("b", {"temperature": 0.5, "rollout": {"max_tokens": 8, "concurrency": 2}})):
        config = build(EvalConfig, {"env": {"id": "small_envs:CountEnv"}, "model": "random", "tasks": 2, **more})
        evaluate(config, tmp_path / name)
        runs.append(RunFolder.open(tmp_path / name))
    assert compare_runs(*runs).otherwise == ["max_tokens is 64 in A and 8 in B", "temperature is 1.0 in A and 0.5 in B"]
    assert "by different rules, which may be all that differs: max_tokens" in compare_runs(*runs).warnings[0]
    assert compare_runs(runs[0], runs[0]).otherwise == []
    for name, value in (
        ("api_key", "sk"),
        ("tools", ["mcp:shop --api-key sk"]),
        ("url", "http://me:sk@host"),
        ("p", "sk" * 99),
    ):
        assert published._difference(name, value, None) == f"{name} is not the same in A and B"
