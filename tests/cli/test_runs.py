"""`agent-gym runs` lists every run of a folder, whatever state it is in, and reads little of each."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from agent_gym.cli import listing_runs
from agent_gym.cli.app import app
from agent_gym.cli.listing_runs import age, describe, find_runs, sampled, sparkline
from agent_gym.config import EvalConfig, TrainConfig
from agent_gym.config_files import as_dict, build
from agent_gym.evaluation.runner import evaluate
from agent_gym.store.run import RunFolder


def trained(
    path: Path, *, steps: int = 4, done: int = 4, rates: tuple[float, ...] = (), after: float | None = None
) -> Path:
    config = as_dict(build(TrainConfig, {"steps": steps, "algorithm": {"name": "gigpo+epo"}}))
    run = RunFolder.create(path, config)
    for step in range(1, done + 1):
        rate = rates[step - 1] if rates else step / steps
        run.log({"phase": "train", "step": step, "success_rate": rate, "reward": 2.0 * step, "seconds": {"total": 1.0}})
    if after is not None:
        run.log({"phase": "after", "step": done, "success_rate": after, "successes": 1, "episodes": 2, "failed": 0})
    return path


def evaluated(path: Path, scores: dict[str, tuple[int, int]], **settings: object) -> Path:
    run = RunFolder.create(path, as_dict(build(EvalConfig, dict(settings))))
    for suite, (successes, episodes) in scores.items():
        named = {"suite": suite} if suite else {}
        run.log({"phase": "eval", "step": 0, **named, "successes": successes, "episodes": episodes, "failed": 0})
    return path


def listed(folder: Path, *arguments: str) -> list[list[str]]:
    result = CliRunner().invoke(app, ["runs", str(folder), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.output.splitlines()]


def written(path: Path, at: float) -> Path:
    for file in path.iterdir():
        os.utime(file, (at, at))
    return path


def test_runs_are_listed_with_what_they_are_and_how_far_they_are(tmp_path: Path) -> None:
    written(trained(tmp_path / "first", after=0.75), 1_000)
    written(trained(tmp_path / "sweep" / "second", done=2), 2_000)
    written(evaluated(tmp_path / "third", {"": (3, 4)}, model="random", split="dev"), 3_000)
    third, second, first = listed(tmp_path)
    assert third[:4] == ["third", "eval", "alfworld", "random"] and third[5:7] == ["0.75", ""]
    assert second[:7] == ["sweep/second", "train", "alfworld", "gigpo+epo", "2/4", "0.50", "▃▅"]
    assert first[4:7] == ["4/4", "0.75", "▃▅▆█"]
    assert [row[-1] for row in (third, second, first)] == ["finished", "stopped", "finished"]


def test_an_evaluation_of_several_suites_counts_them_together(tmp_path: Path) -> None:
    both = evaluated(tmp_path / "both", {"math/aime24": (1, 10), "math/gsm8k": (9, 10)}, suites=["math/aime24", "a"])
    half = evaluated(tmp_path / "half", {"math/aime24": (1, 10)}, suites=["math/aime24", "math/gsm8k"])
    assert describe(both, tmp_path, 0.0).success == 0.5
    assert describe(both, tmp_path, 0.0).state == "finished" and describe(half, tmp_path, 0.0).state == "stopped"


def test_an_evaluation_says_how_many_episodes_there_are_and_will_be(tmp_path: Path) -> None:
    evaluate(build(EvalConfig, {"model": "random", "tasks": 3, "attempts": 2}), tmp_path / "run", on_episode=None)
    (row,) = listed(tmp_path)
    assert row[:5] == ["run", "eval", "alfworld", "random", "6/6"] and row[-1] == "finished"


def test_failed_episodes_are_counted_beside_those_that_are_done(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", as_dict(build(EvalConfig, {})))
    for failed in (2, 1):
        run.log({"phase": "eval", "step": 0, "successes": 0, "episodes": 2, "failed": failed})
    (row,) = listed(tmp_path)
    assert row[4:6] == ["0/?, 1 failed", "0.00"]


def test_success_of_what_never_succeeded_gives_way_to_the_reward(tmp_path: Path) -> None:
    run = describe(trained(tmp_path / "run", rates=(0.0, 0.0, 0.0, 0.0)), tmp_path, 0.0)
    assert run.curve == (2.0, 4.0, 6.0, 8.0) and run.success == 0.0


def test_a_long_run_is_drawn_evenly_over_its_steps(tmp_path: Path) -> None:
    steps = 3_000
    run = trained(tmp_path / "run", steps=steps, done=steps, rates=tuple(step / steps for step in range(steps)))
    curve = describe(run, tmp_path, 0.0).curve
    assert curve == pytest.approx([(stretch + 0.5) / 12 for stretch in range(12)], abs=0.05)


def test_a_run_that_is_being_written_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained(tmp_path / "run")
    monkeypatch.setattr(listing_runs, "holder", lambda run: 123 if run == path else None)
    assert describe(path, tmp_path, 0.0).state == "running"


@pytest.mark.parametrize(
    "content", ["", "config: [1, 2", "config:\n  algorithm: 3\n", "config: {algorithm: {name: grpo}, steps: x}\n", "\0"]
)
def test_a_run_that_cannot_be_read_is_listed_as_such(content: str, tmp_path: Path) -> None:
    trained(tmp_path / "good")
    broken = trained(tmp_path / "broken")
    (broken / "config.yaml").write_text(content)
    assert {row[0]: row[-1] for row in listed(tmp_path)} == {"good": "stopped", "broken": "unreadable"}


def test_broken_metrics_and_databases_do_not_hide_other_runs(tmp_path: Path) -> None:
    trained(tmp_path / "good", after=1.0)
    torn = trained(tmp_path / "torn")
    with (torn / "metrics.jsonl").open("a") as file:
        file.write('7\n{"phase": "train", "st')
    scrap = evaluated(tmp_path / "scrap", {})
    (scrap / "trajectories.sqlite").write_bytes(b"no database " * 100)
    states = {row[0]: row[-1] for row in listed(tmp_path)}
    assert states == {"good": "finished", "torn": "stopped", "scrap": "unreadable"}


@pytest.mark.parametrize(
    "odd",
    [
        {"phase": "eval", "step": "x"},
        {"phase": "eval", "suite": ["a"], "episodes": 1, "failed": 0, "successes": 1},
        {"phase": "after", "step": 1, "success_rate": "high"},
        {"phase": "train", "step": "x", "success_rate": 1.0},
        {"phase": "train", "step": 9, "success_rate": 10**400},
    ],
)
def test_an_odd_record_does_not_hide_other_runs(odd: dict[str, object], tmp_path: Path) -> None:
    trained(tmp_path / "good", after=1.0)
    for kind in (trained(tmp_path / "strange"), evaluated(tmp_path / "odd", {"": (1, 2)})):
        RunFolder.open(kind).log(odd)
    states = {row[0]: row[-1] for row in listed(tmp_path)}
    assert states["good"] == "finished" and len(states) == 3 and "unreadable" in states.values()


def test_of_long_metrics_a_part_is_read_that_spans_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "note": "x" * 900}) + "\n" for step in range(5_000)))
    steps = [record["step"] for record in sampled(path)]
    assert len(steps) < 110 and steps == sorted(steps)
    assert steps[0] == 0 and steps[-1] == 4_999
    # The beginning is sampled evenly.
    assert max(after - before for before, after in pairwise(steps)) < 5_000 / 24 + 2


def test_more_runs_than_asked_for_are_told_of(tmp_path: Path) -> None:
    for number in range(3):
        written(trained(tmp_path / f"run-{number}"), 1_000 + number)
    assert [row[0] for row in listed(tmp_path, "--count", "1")] == ["run-2", "2 more: --count -1 lists all"]
    assert len(listed(tmp_path, "--count", "-1")) == 3


def test_a_folder_without_runs_and_one_that_is_a_run(tmp_path: Path) -> None:
    assert listed(tmp_path)[0][0].startswith("no runs in")
    run = trained(tmp_path / "alone")
    assert [row[0] for row in listed(run)] == ["alone"]
    assert CliRunner().invoke(app, ["runs", str(tmp_path / "nowhere")]).exit_code != 0


def test_links_are_not_followed_round_in_circles(tmp_path: Path) -> None:
    trained(tmp_path / "a" / "run")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert len(find_runs(tmp_path)) == 1


def test_a_sparkline_shows_where_values_lie() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([-1.0, 3.0]) == "▁█"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-5, "0 s"), (59, "59 s"), (3_599, "59 min"), (86_399, "23 h"), (200_000, "2 d")]
)
def test_ages_are_told_in_their_largest_unit(seconds: float, expected: str) -> None:
    assert age(seconds) == expected


def test_the_quick_and_the_slow_reader_of_yaml_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path / "run")
    quick = describe(run, tmp_path, 0.0)
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert describe(run, tmp_path, 0.0) == quick
