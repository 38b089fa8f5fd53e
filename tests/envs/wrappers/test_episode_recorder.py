"""Episodes as lines of JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import CountEnv

from agent_gym.envs.wrappers import EpisodeRecorder
from agent_gym.errors import StoreError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_episode_is_written_when_it_ends_and_a_broken_off_one_when_the_next_begins(tmp_path: Path) -> None:
    env = EpisodeRecorder(CountEnv(), path=tmp_path / "episodes.jsonl")
    start, _ = env.reset(seed=3, options={"task": "count 2"})
    observation = env.step("down")[0]
    env.reset(seed=4)
    for _ in range(3):
        env.step("up")
    broken, whole = lines(tmp_path / "episodes.jsonl")
    assert broken == {
        "task": "count 2",
        "goal": "count to 3",
        "seed": 3,
        "start": start,
        "ended": False,
        "turns": [{"action": "down", "observation": observation, "reward": 0.0}],
    }
    assert whole["ended"] and whole["success"] and [turn["reward"] for turn in whole["turns"]] == [0.0, 0.0, 1.0]


def test_closing_writes_what_there_is_once(tmp_path: Path) -> None:
    env = EpisodeRecorder(CountEnv(), path=tmp_path / "episodes.jsonl")
    env.reset(seed=0)
    env.step("up\ud800")
    env.close()
    env.close()
    assert len(lines(tmp_path / "episodes.jsonl")) == 1


def test_a_fork_is_recorded_with_its_parents_turns(tmp_path: Path) -> None:
    env = EpisodeRecorder(CountEnv(), path=tmp_path / "episodes.jsonl")
    env.reset(seed=0)
    env.step("up")
    child = env.fork()
    child.step("stop")
    env.step("up")
    env.close()
    assert [[turn["action"] for turn in line["turns"]] for line in lines(tmp_path / "episodes.jsonl")] == [
        ["up", "stop"],
        ["up", "up"],
    ]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    env = EpisodeRecorder(CountEnv(), path=tmp_path / "no" / "folder.jsonl")
    env.reset(seed=0)
    with pytest.raises(StoreError, match=r"folder\.jsonl cannot be written"):
        env.step("stop")
