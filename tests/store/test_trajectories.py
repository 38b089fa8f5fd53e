"""Episodes in SQLite."""

import json
import math
import os
import signal
import sqlite3
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from old_database import write_old_database, write_old_rows

from agent_gym.errors import StoreError, UnknownIdError
from agent_gym.store.episodes import EpisodeFilter
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


def bits(numbers: list[float]) -> bytes:
    return struct.pack(f"{len(numbers)}f", *numbers)


@pytest.mark.parametrize("beside", [0.0, -0.0, 0.5, math.nan])
@pytest.mark.parametrize("mask", [[0, 1, 1], [1, 1, 1], [0, 0, 0], []])
def test_numbers_of_tokens_come_back_to_the_bit(tmp_path: Path, mask: list[int], beside: float) -> None:
    values = [(-0.0, -math.inf, math.nan)[place] if each else beside for place, each in enumerate(mask)]
    trajectory = Trajectory("t", id="a", token_ids=[7] * len(mask), action_mask=mask, logprobs=values)
    trajectory.entropies = values[::-1]
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([trajectory], step=0, phase="eval")
        found = store.get("a")
    assert bits(found.logprobs) == bits(values) and bits(found.entropies) == bits(values[::-1])
    assert (found.token_ids, found.action_mask, found.turns) == (trajectory.token_ids, mask, [])


def test_numbers_are_kept_of_generated_tokens_alone_and_fields_named_once(tmp_path: Path) -> None:
    trajectory = make_trajectory("a")
    trajectory.turns.append(Turn("", "look", "look", 5, 5, 4, -1.5, True, 2, "length", 3, 0.1, 1 / 3, 9, 8))
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([trajectory], step=0, phase="eval")
        assert store.get("a") == trajectory
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        query = "SELECT length(logprobs), length(entropies), turns ->> '$.reward' FROM trajectories"
        assert connection.execute(query).fetchone() == (4 * 2, 4 * 2, "[1.0,-1.5]")
    connection.close()


def test_rows_of_an_earlier_version_stand_beside_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with TrajectoryStore(path) as store:
        store.add([make_trajectory("old")], step=1, phase="train")
    with sqlite3.connect(path) as connection:
        write_old_rows(connection, [make_trajectory("old")])
    connection.close()
    with TrajectoryStore(path) as store:
        store.add([make_trajectory("new")], step=1, phase="train")
        assert [store.get(id) for id in ("old", "new")] == [make_trajectory(id) for id in ("old", "new")]


def test_half_a_surrogate_pair_in_any_text_is_spelled_out(tmp_path: Path) -> None:
    half = "x\ud83dy"
    texts = dict.fromkeys(("id", "group_id", "task_id", "env_id", "goal", "final_observation", "error"), half)
    about = {half: half, "answer": half, "suite": half, "task_type": half}
    trajectory = Trajectory(**texts, turns=[Turn(half, half, half, 0, 0)], metadata=about)
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([trajectory, make_trajectory("other")], step=0, phase="eval")
        stored = store.get(r"x\ud83dy")
        assert (stored.goal, stored.error, stored.turns[0].text) == (r"x\ud83dy",) * 3
        assert "\ud83d" not in repr(stored.metadata) and stored.metadata["answer"] == r"x\ud83dy"
        assert store.row(stored.id).task_type == r"x\ud83dy" and store.get("other") == make_trajectory("other")
    assert trajectory.error == half, "the episode itself is as it was"


@pytest.mark.parametrize("change", [{"seed": 2**64}, {"token_ids": [2**40]}, {"branch_turn": 2**70}])
def test_a_number_that_is_too_large_is_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        with pytest.raises(StoreError, match="cannot hold a number"):
            store.add([replace(make_trajectory("a"), **change)], step=0, phase="eval")
        assert store.count() == 0


def test_episodes_of_later_steps_are_forgotten(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        for step in range(5):
            store.add([make_trajectory(f"e{step}")], step=step, phase="train")
        store.forget_after(2)
        assert [trajectory.id for trajectory in store.select()] == ["e0", "e1", "e2"]
        assert [trajectory.id for trajectory in store.select(newest=True, limit=2)] == ["e2", "e1"]


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    broken = make_trajectory("b")
    broken.seed = 2**64
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        with pytest.raises(StoreError):
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
    write_old_database(path, [make_trajectory("old")])
    with sqlite3.connect(path) as connection:
        turns = [{"observation": "o", "text": "t", "action": "a", "start": 3, "end": 5}]
        connection.execute("UPDATE trajectories SET turns = ?", (json.dumps(turns),))
    connection.close()
    with TrajectoryStore(path) as store:
        old = store.get("old")
        assert (old.branch_turn, old.branch_offset, old.turns) == (2, None, [Turn("o", "t", "a", 3, 5)])
        store.add([make_trajectory("new")], step=2, phase="train")
        assert store.get("new") == make_trajectory("new")
        assert [row.id for row in store.episodes()] == ["new", "old"]


def test_a_database_of_an_earlier_version_is_read_without_being_changed(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    write_old_database(path, [make_trajectory(f"e{number}") for number in range(3)])
    before = path.read_bytes()
    with TrajectoryStore.reading(path) as store:
        assert [row.id for row in store.episodes(EpisodeFilter(text="put"))] == ["e2", "e1", "e0"]
        assert store.episodes(EpisodeFilter(text="absent")) == []
        assert store.get("e1").turns == make_trajectory("e1").turns and store.signals("e1") == {}
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [0, 3])
@pytest.mark.parametrize("lost", ["episodes", "signals", "episodes search", "episodes texts search signals"])
def test_tables_that_a_file_has_lost_are_made_again(tmp_path: Path, lost: str, version: int) -> None:
    path = tmp_path / "t.sqlite"
    with TrajectoryStore(path) as store:
        store.add([make_trajectory("a"), make_trajectory("b")], step=1, phase="train")
    connection = sqlite3.connect(path)
    for table in lost.split():
        connection.execute(f"DROP TABLE {table}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with TrajectoryStore.reading(path) as store:
        assert [row.id for row in store.episodes(EpisodeFilter(text="put"))] == ["b", "a"]
    with TrajectoryStore(path) as store:
        store.add([replace(make_trajectory("c"), goal="fetch it")], step=1, phase="train")
        found = {word: [row.id for row in store.episodes(EpisodeFilter(text=word))] for word in ("put", "fetch")}
        assert found == {"put": ["b", "a"], "fetch": ["c"]}


def test_a_reader_follows_a_writer_and_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with TrajectoryStore(path) as writer, TrajectoryStore.reading(path) as reader:
        for number in range(3):
            writer.add([make_trajectory(f"e{number}")], step=number, phase="train")
            assert reader.count() == number + 1
        with pytest.raises(StoreError, match="readonly"):
            reader.add([make_trajectory("x")], step=0, phase="train")


def test_a_run_without_episodes_yet_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no episodes in"):
        TrajectoryStore.reading(tmp_path / "t.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_database_in_a_folder_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([make_trajectory("a")], step=1, phase="train")
    tmp_path.chmod(0o555)
    try:
        with TrajectoryStore.reading(tmp_path / "t.sqlite") as store:
            assert store.get("a") == make_trajectory("a")
    finally:
        tmp_path.chmod(0o755)


def test_an_episode_that_is_stored_again_replaces_the_first_everywhere(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([make_trajectory("a"), make_trajectory("b")], step=1, phase="train")
        store.add_signals(1, {"a": {"advantage": [0, 0, 0, 1.5, -2.0]}})
        again = make_trajectory("a")
        again.goal, again.success = "clean it", False
        store.add([again], step=2, phase="train")
        assert [(row.id, row.success) for row in store.episodes()] == [("a", False), ("b", True)]
        assert store.episodes(EpisodeFilter(text="clean"))[0].id == "a"
        assert [row.id for row in store.episodes(EpisodeFilter(text="put"))] == ["b"]
        assert store.signals("a") == {} and store.count() == 2


def test_what_is_removed_or_forgotten_is_gone_from_every_table(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with TrajectoryStore(path) as store:
        for step in range(4):
            store.add([make_trajectory(f"e{step}")], step=step, phase="train")
            store.add_signals(step, {f"e{step}": {"weight": [0, 0, 0, 1, 2]}})
        store.remove(["e0", "unknown"])
        store.forget_after(2)
    connection = sqlite3.connect(path)
    for table in ("trajectories", "episodes", "signals"):
        assert connection.execute(f"SELECT id FROM {table} ORDER BY id").fetchall() == [("e1",), ("e2",)]
    connection.close()


def test_signals_are_kept_on_generated_tokens_alone(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([make_trajectory("a")], step=1, phase="train")
        store.add_signals(1, {"a": {"advantage": [9, 9, 9, 1.5, -2.0], "kl": [0, 0, 0, 0.25, 0.0]}})
        assert store.signals("a") == {"advantage": [0, 0, 0, 1.5, -2.0], "kl": [0, 0, 0, 0.25, 0.0]}
        assert store.signals("b") == {}
        with pytest.raises(StoreError, match="4 values for 5 tokens"):
            store.add_signals(1, {"a": {"advantage": [1.0] * 4}})
        with pytest.raises(StoreError, match="not stored"):
            store.add_signals(1, {"b": {"advantage": [1.0] * 5}})


def test_a_reward_that_is_not_a_number_is_kept_as_such(tmp_path: Path) -> None:
    broken = make_trajectory("a")
    broken.turns[0].reward, broken.score = math.nan, math.nan
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([broken, make_trajectory("b")], step=1, phase="eval")
        assert math.isnan(store.get("a").score) and math.isnan(store.episodes()[1].reward)
        assert [row.id for row in store.episodes(order="-reward")] == ["b"]


def test_a_writer_that_is_killed_leaves_whole_transactions(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    child = os.fork()
    if child == 0:
        store = TrajectoryStore(path)
        for number in range(10**6):
            store.add([make_trajectory(f"{number}a"), make_trajectory(f"{number}b")], step=number, phase="eval")
            if number == 20:
                os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with TrajectoryStore(path) as store:
        assert len(store.known("eval")) == store.count() == len(list(store.select())) == 42


def test_a_file_without_anything_in_it_holds_no_episodes(tmp_path: Path) -> None:
    (tmp_path / "trajectories.sqlite").touch()
    with pytest.raises(StoreError, match="no episodes"):
        TrajectoryStore.reading(tmp_path / "trajectories.sqlite")
