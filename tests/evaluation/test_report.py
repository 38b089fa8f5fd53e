"""What stored episodes add up to."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from evaluation.measured_runs import add, episode, make

from agent_gym.errors import StoreError
from agent_gym.evaluation.plans import digest
from agent_gym.evaluation.report import report_of
from agent_gym.evaluation.selection import select
from agent_gym.evaluation.statistics import wilson
from agent_gym.evaluation.suites import Reference, Suite
from agent_gym.store.run import RunFolder


def test_one_attempt_a_task_has_wilsons_interval_and_failures_stand_apart(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[True], [True], [False], [True], ["no server"]])
    (found,) = report_of(run)
    assert (found.tasks, found.attempts, found.failed, found.successes) == (5, 5, 1, 3)
    assert found.value.value == 0.75 and found.value.method == "Wilson"
    assert (found.value.low, found.value.high) == pytest.approx(wilson(3, 4))
    assert found.counting_failures.value == 0.6
    assert any("1 of 5 episodes failed" in warning and "0.600" in warning for warning in found.warnings)


def test_attempts_at_one_task_are_no_tasks_of_their_own(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[task % 3 == 0] * 8 for task in range(30)])
    (found,) = report_of(run)
    low, high = wilson(80, 240)
    assert "bootstrap over tasks" in found.value.method
    assert found.value.low is not None and found.value.high is not None
    assert found.value.high - found.value.low > 2 * (high - low)


def test_attempts_are_summed_up_over_k(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[True, False, False, False], [False] * 4, [True] * 4])
    (found,) = report_of(run)
    assert [one.value for one in found.over_k["pass_at_k"].values()] == pytest.approx([5 / 12, 0.5, 2 / 3])
    assert [one.value for one in found.over_k["pass_hat_k"].values()] == pytest.approx([5 / 12, 1 / 3, 1 / 3])
    assert found.over_k["maj_at_k"] == found.over_k["best_of_k"] == {}


def test_a_run_that_was_asked_for_no_attempts_is_summed_up_all_the_same(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[True, False], [True, True]])
    header = yaml.safe_load((run.path / "config.yaml").read_text())
    (run.path / "config.yaml").write_text(yaml.safe_dump(header | {"config": header["config"] | {"k": [0, 2]}}))
    (found,) = report_of(run)
    assert list(found.over_k["pass_at_k"]) == [2]


def test_tasks_with_too_few_attempts_are_left_out_of_k_and_counted(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[True, True], [False, "down"], [False, False]])
    (found,) = report_of(run, ks=[2, 3])
    two, three = found.over_k["pass_at_k"].values()
    assert (two.value, two.tasks, two.left_out) == (0.5, 2, 1)
    assert three.value is None and three.left_out == 3 and "undefined" in three.method


def test_answers_are_voted_on_and_scores_have_a_best(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    votes = [(1.0, "4"), (1.0, "4"), (0.0, "5"), (0.25, None)]
    with run.trajectories() as store:
        store.add(
            [episode(0, n, score, answer=answer) for n, (score, answer) in enumerate(votes)], step=0, phase="eval"
        )
    (found,) = report_of(run, ks=[3, 4])
    # Of the four ways to leave one out: 4 wins, but where one 4 is missing and the silent one takes part.
    assert found.over_k["maj_at_k"][3].value == pytest.approx((1 + 1 + 0.5 + 0.5) / 4)
    assert found.over_k["maj_at_k"][4].value == 1
    assert found.over_k["best_of_k"][3].value == 1
    # Twice 4, once 5, once nothing.
    assert found.answer_entropy.value == pytest.approx(1.5 * math.log(2))
    assert found.as_dict()["overall"]["answer_entropy"]["tasks"] == 1
    (none,) = report_of(make(tmp_path / "silent", [[True, False]]))
    assert none.answer_entropy.value is None and "no episode has an answer" in none.answer_entropy.method


def test_types_have_rows_and_a_mean_in_which_each_counts_the_same(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[True], [False], [True], [False], [True]])
    (found,) = report_of(run)
    assert [(row.type, row.tasks, row.value.value) for row in found.types] == [("kind 0", 3, 1.0), ("kind 1", 2, 0.0)]
    alike = found.types_alike
    assert (found.value.value, alike.value) == (0.6, 0.5)
    assert alike.low is not None and alike.high is not None and 0 < alike.low < 0.5 < alike.high < 1


def test_what_an_episode_takes_is_told_and_what_is_unknown_is_not_zero(tmp_path: Path) -> None:
    (found,) = report_of(make(tmp_path / "run", [[True], [False], ["down"]]))
    assert (found.use["turns"].mean, found.use["tokens"].median, found.use["tokens"].total) == (1, 2, 6)
    assert found.use["seconds"].mean == 0.5
    assert found.use["cost"].mean is None and found.use["cost"].known == 0
    assert found.entropy == 0.5


def test_rewards_without_bounds_are_measured_without_points(tmp_path: Path) -> None:
    (found,) = report_of(make(tmp_path / "run", [[3.0], [-1.0], [2.5]]), metric="reward")
    assert found.value.value == 1.5 and found.value.low is not None and found.value.low < 1.5
    assert not any("points" in warning for warning in found.warnings)


def test_a_small_suite_says_what_it_cannot_show(tmp_path: Path) -> None:
    small = make(tmp_path / "small", [[task % 2 == 0] for task in range(40)])
    large = make(tmp_path / "large", [[task % 2 == 0] for task in range(900)])
    (said,) = report_of(small)[0].warnings
    assert said.startswith("40 tasks: too few") and "5 points take about 1,600 tasks" in said
    assert report_of(large)[0].warnings == []


def test_everything_is_json_and_the_same_each_time(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[True, 0.5], [False, "down"], ["down", "down"]])
    first, second = ([one.as_dict() for one in report_of(run)] for _ in range(2))
    assert json.loads(json.dumps(first, allow_nan=False)) == second
    assert first[0]["overall"]["failed"] == 3


def test_episodes_that_all_failed_have_no_rate(tmp_path: Path) -> None:
    (found,) = report_of(make(tmp_path / "run", [["down"], ["down"]]))
    assert found.value.value is None and found.as_dict()["overall"]["rate"] is None
    assert found.counting_failures.value == 0


def test_a_training_run_has_a_report_for_each_measurement(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[False], [False]], phase="before")
    add(run, [[True], [False]], phase="during", step=5)
    add(run, [[True], [True]], phase="after", step=9)
    add(run, [[True], [True]], phase="train", step=7)
    found = report_of(run)
    assert [(one.phase, one.step, one.value.value) for one in found] == [
        ("before", 0, 0.0),
        ("during", 5, 0.5),
        ("after", 9, 1.0),
    ]
    assert [one.phase for one in report_of(select(f"{run.path}@5"))] == ["during"]
    assert [one.phase for one in report_of(select(str(run.path)))] == ["after"]


PUBLISHED = {"model": "nobody", "value": 12.5, "measure": "score", "source": "a table"}


def recorded(path: Path, outcomes: list[list[bool]], suite: str = "own", **values: Any) -> RunFolder:
    """Return a run of a suite whose file is nowhere any more, with its record; two tasks."""
    run = make(path, outcomes, suite=suite)
    record = {"name": suite, "metric": "score", "references": [PUBLISHED], "tasks": [["task 0", ""], ["task 1", ""]]}
    (path / "suites.json").write_text(json.dumps([record | values]))
    return run


def test_metric_and_references_are_those_of_the_runs_own_record(tmp_path: Path) -> None:
    (found,) = report_of(recorded(tmp_path / "run", [[True], [True]]))
    assert found.metric == "score" and found.references == [PUBLISHED]
    # A suite of that name comes with the package, and is another one.
    (found,) = report_of(recorded(tmp_path / "named", [[True], [True]], "alfworld/valid_unseen", references=[]))
    assert found.metric == "score" and found.references == []


def test_nothing_published_stands_beside_a_run_that_shares_a_suites_name_alone(tmp_path: Path) -> None:
    (found,) = report_of(make(tmp_path / "run", [[True]], suite="scienceworld/ood"))
    assert found.metric == "success" and found.references == []


def test_an_imported_run_of_a_suites_very_tasks_has_its_metric_and_no_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = digest(["task 0", "task 1"], []).ids
    suite = Suite(name="own", metric="score", ids=ids, references=[Reference(**PUBLISHED)])
    monkeypatch.setattr("agent_gym.evaluation.published.find_suite", lambda name: suite)
    run = RunFolder.create(tmp_path / "run", {"imported": {"file": "there.jsonl"}})
    add(run, [[True]], suite="own", first=1)
    assert report_of(run)[0].metric == "success"
    # Task 1 has ended before task 0.
    add(run, [[True]], suite="own")
    (found,) = report_of(run)
    assert found.metric == "score" and found.references == [] and "the run is imported" in found.warnings[0]


@pytest.mark.parametrize(
    ("outcomes", "values", "reason"),
    [
        ([[True], [True]], {"changed": ["max_turns=5", "temperature=0.1"]}, "max_turns=5, temperature=0.1"),
        ([[True], [True]], {"changed": ["tasks=2 of 134"]}, "tasks=2 of 134"),
        ([[True, True]], {}, "only 1 of 2 tasks were played"),
        ([[True], ["down"]], {}, "only 1 of 2 tasks have an episode that counts"),
    ],
)
def test_what_was_played_otherwise_or_in_part_has_no_references_and_the_note_says_why(
    tmp_path: Path, outcomes: Any, values: dict[str, Any], reason: str
) -> None:
    (found,) = report_of(recorded(tmp_path / "run", outcomes, **values))
    assert found.references == []
    assert found.warnings[0].startswith("no published scores stand here") and reason in found.warnings[0]


def test_a_run_without_episodes_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no episodes"):
        report_of(RunFolder.create(tmp_path / "run", {}))
