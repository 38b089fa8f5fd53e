"""Episodes in SQLite."""

import json
import sqlite3
from pathlib import Path

import pytest

from agent_gym.errors import StoreError, UnknownIdError
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trajectory import Trajectory, Turn


def make_trajectory(id: str) -> Trajectory:
    trajectory = Trajectory(task_id="t1", env_id="alfworld", id=id, group_id="g", seed=2**62, goal="put it")
    trajectory.append_context([1, 2, 300_000])
    trajectory.append_action([4, 5], [-0.5, -1.25], [0.5, 0.25])
    trajectory.turns.append(Turn("You see \u00e9 \U0001f600.", "go", "go", 3, 5, reward=1.0))
    trajectory.success, trajectory.terminated, trajectory.metadata = True, True, {"truncated_by": "tokens"}
    trajectory.parent_id, trajectory.branch_turn, trajectory.branch_offset = "p", 2, 4
    return trajectory


def test_an_episode_comes_back_as_it_was(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([make_trajectory("a")], step=3, phase="train")
        assert store.get("a") == make_trajectory("a")


def test_episodes_of_later_steps_are_forgotten(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        for step in range(5):
            store.add([make_trajectory(f"e{step}")], step=step, phase="train")
        store.forget_after(2)
        assert [trajectory.id for trajectory in store.select()] == ["e0", "e1", "e2"]
        assert [trajectory.id for trajectory in store.select(newest=True, limit=2)] == ["e2", "e1"]


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    broken = make_trajectory("b")
    broken.goal = "\ud800"
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        with pytest.raises(UnicodeEncodeError):
            store.add([make_trajectory("a"), broken], step=0, phase="train")
        assert store.count() == 0


def test_an_unknown_episode_names_the_nearest(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([make_trajectory("train/1/g0e0")], step=1, phase="train")
        with pytest.raises(UnknownIdError, match="did you mean 'train/1/g0e0'"):
            store.get("train/1/g0e9")


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "t.sqlite").write_text("this is not a database, not at all" * 40)
    with pytest.raises(StoreError, match="cannot be read or written"):
        TrajectoryStore(tmp_path / "t.sqlite")


def test_a_database_of_an_earlier_version_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with TrajectoryStore(path) as store:
        store.add([make_trajectory("old")], step=1, phase="train")
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE trajectories DROP COLUMN branch_offset")
        turns = [{"observation": "o", "text": "t", "action": "a", "start": 3, "end": 5}]
        connection.execute("UPDATE trajectories SET turns = ?", (json.dumps(turns),))
    connection.close()
    with TrajectoryStore(path) as store:
        old = store.get("old")
        assert (old.branch_turn, old.branch_offset, old.turns) == (2, None, [Turn("o", "t", "a", 3, 5)])
        store.add([make_trajectory("new")], step=2, phase="train")
        assert store.get("new") == make_trajectory("new")
