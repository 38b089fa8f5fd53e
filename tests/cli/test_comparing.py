"""`agent-gym compare` and `agent-gym power`."""

import json
from pathlib import Path

import pytest
from evaluation.measured_runs import add, make
from typer.testing import CliRunner

from agent_gym.cli.app import app
from agent_gym.errors import ConfigError, UnknownIdError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs "worse" and "better", and a training run."""
    make(tmp_path / "worse", [[task < 20] for task in range(60)])
    make(tmp_path / "better", [[task < 32] for task in range(60)])
    trained = make(tmp_path / "trained", [[False]] * 10, phase="before")
    add(trained, [[True]] * 10, phase="after", step=3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(line: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, line.split(), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_two_runs_are_compared_in_a_sentence(runs: Path) -> None:
    said = invoke("compare worse better --by-type --tasks 2")
    assert "B is better than A by 20.0 points" in said
    assert "kind 1" in said and "tasks that differ, 2 of 12" in said and "task 20" in said
    assert not any(mark in said for mark in "┃│\x1b")


def test_a_training_run_alone_is_compared_before_and_after(runs: Path) -> None:
    said = invoke("compare trained")
    assert "A: trained:before" in said and "B: trained:after" in said and "100.0 points" in said
    with pytest.raises(ConfigError, match="nothing to compare worse with"):
        invoke("compare worse")


def test_more_runs_are_compared_with_the_first_and_adjusted(runs: Path) -> None:
    said = invoke("compare worse better worse")
    assert "all 2 comparisons with worse" in said and "adjusted" in said and "not told apart" in said


def test_json_is_what_the_comparison_says(runs: Path) -> None:
    (found,) = json.loads(invoke("compare worse better --json"))
    assert found["difference"] == 0.2 and found["told_apart"] and found["pairs"] == 60


def test_being_worse_fails_on_request_alone(runs: Path) -> None:
    invoke("compare better worse")
    invoke("compare better worse --fail-if-worse", code=1)
    invoke("compare worse better --fail-if-worse")
    invoke("compare worse worse --fail-if-worse")


def test_a_run_of_which_nothing_is_known_does_not_pass(runs: Path) -> None:
    make(runs / "down", [["no server"]] * 60)
    assert "nothing can be said of toy/test of down" in invoke("compare better down --fail-if-worse", code=1)
    invoke("compare better down")


def test_an_unknown_metric_is_refused(runs: Path) -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'success'"):
        invoke("compare worse better --metric succes")


def test_the_tasks_needed_are_a_table() -> None:
    said = invoke("power --difference 10 --difference 20 --correlation 0")
    assert [line.split()[:3] for line in said.splitlines()[2:4]] == [["10", "points", "408"], ["20", "points", "103"]]


def test_what_a_suite_can_show() -> None:
    assert "17.5 points" in invoke("power --tasks 134")
    assert "none" in invoke("power --tasks 3 --correlation 0")
    assert "0.04 points" in invoke("power --tasks 5000000 --correlation 0.8")
    assert "what 1 task can show" in invoke("power --tasks 1 --correlation 0")


def test_a_difference_that_only_a_loss_can_be_is_called_one() -> None:
    said = invoke("power --difference 50 --difference 5 --rate 0.9 --correlation 0")
    assert "50 points worse" in said and "5 points worse" not in said


@pytest.mark.parametrize("points", ["0", "-3", "nan"])
def test_no_difference_is_refused_with_what_to_give(points: str) -> None:
    with pytest.raises(ConfigError, match="give a number above 0"):
        invoke(f"power --difference {points}")


@pytest.mark.parametrize("options", ["--rate 1", "--power 0", "--correlation 1", "--difference 60"])
def test_numbers_out_of_range_are_refused(options: str) -> None:
    with pytest.raises(ConfigError, match="give"):
        invoke(f"power {options}")
