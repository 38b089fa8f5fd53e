"""`agent-gym envs NAME` says what an environment can be given, what it asks and which tools there are."""

from pathlib import Path

import pytest
from helpers import trajectory
from typer.testing import CliRunner

from agent_gym.cli.app import app
from agent_gym.errors import UnknownIdError
from agent_gym.store.run import RunFolder

DEMANDING = """
from agent_gym import State, Task, TextEnv


class Demanding(TextEnv):
    '''Wants a level.

    Args:
        colour: Of the [walls].
        **options: See `TextEnv`.
    '''

    splits = ("train", "hard[er]")

    def __init__(self, level, *, colour="[red]", **options):
        super().__init__(**options)

    def tasks(self, split):
        return [Task(str(number), split) for number in range(12)]

    def _start(self, task, rng):
        return "hello", State(goal="wait")

    def _act(self, action):
        return "no", State(goal="wait")


class Made(Demanding):
    def __init__(self, **options):
        super().__init__(3, **options)
"""


def described(env: str) -> str:
    result = CliRunner().invoke(app, ["envs", env], env={"COLUMNS": "120"})
    if result.exception is not None:
        raise result.exception
    return result.stdout


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_options_splits_with_their_tasks_and_tools_are_shown() -> None:
    pytest.importorskip("math_verify", reason="agent-gym[math] is not installed")
    found = rows(described("math"))
    assert ["max_turns", "10", "The episode is truncated after so many turns."] in found
    assert "'python'" in next(row for row in found if row[0] == "tools")
    assert ["valid", "1,000,000"] in found
    assert any(row[0] == "python" and row[1].startswith("Run Python code") for row in found)


def test_what_a_class_gives_to_its_base_is_no_option(tmp_path: Path) -> None:
    (tmp_path / "demanding_envs.py").write_text(DEMANDING)
    found = rows(described(f"{tmp_path / 'demanding_envs.py'}:Made"))
    assert ["colour", "'[red]'", "Of the [walls]."] in found and ["hard[er]", "12"] in found
    assert "level" not in [row[0] for row in found]


def test_an_environment_that_needs_more_says_what(tmp_path: Path) -> None:
    (tmp_path / "demanding_envs.py").write_text(DEMANDING)
    text = described(f"{tmp_path / 'demanding_envs.py'}:Demanding")
    assert ["level", "must be given", ""] in rows(text)
    assert "splits: train, hard[er]" in text and "missing 1 required positional argument: 'level'" in text


def test_an_unknown_environment_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match="math"):
        described("maths")


def test_a_branch_is_shown_to_leave_its_parent_where_and_because_it_did(tmp_path: Path) -> None:
    run, child = RunFolder.create(tmp_path / "run", {"seed": 0}), trajectory(3, 2, seed=1)
    child.parent_id, child.branch_turn, child.branch_offset = "train/1/g0e2", 1, 7
    child.turns[1].observation = "a lamp"
    child.metadata |= {"branch_probability": "0.61", "branch_entropy": "0.9", "initial_entropy": "0.3"}
    with run.trajectories() as store:
        store.add([child], step=1, phase="train")
    result = CliRunner().invoke(app, ["show", str(tmp_path / "run")], env={"COLUMNS": "140"})
    lines = result.stdout.splitlines()
    [parting] = [number for number, line in enumerate(lines) if line.startswith("-- from here on")]
    assert "a branch of train/1/g0e2 (entropy 0.9, at first 0.3: branches with probability 0.61)" in lines[parting]
    assert lines[parting + 1] == "a lamp"
