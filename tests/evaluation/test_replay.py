"""Stored episodes played again: nothing differs, unless the environment does."""

import random
from pathlib import Path
from typing import Any

import pytest
from helpers import CountEnv

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.evaluation.replay import first_divergence, replay_run
from agent_gym.evaluation.runner import evaluate
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.chat import ByteChat
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.rollout.player import act_at_random, play
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory


def episode(seed: int = 3, **options: Any) -> Trajectory:
    chat, settings = ByteChat(), EpisodeSettings()
    return play(CountEnv(**options), act_at_random, chat, syntax("plain"), settings, seed=seed, task_id="count 2")


class Reworded(CountEnv):
    """Says the second number in other words."""

    def _said(self) -> str:
        said = super()._said()
        return said.replace("the number is", "it is") if self.turn == 2 else said


class Generous(CountEnv):
    """Rewards every turn."""

    def _act(self, action: str) -> Any:
        observation, state = super()._act(action)
        state.reward += 1
        return observation, state


class Longer(CountEnv):
    """Ends later than it did."""

    def _act(self, action: str) -> Any:
        observation, state = super()._act(action)
        state.terminated = False
        return observation, state


class Broken(CountEnv):
    """Cannot even begin."""

    def _start(self, task: Any, rng: random.Random) -> Any:
        raise RuntimeError("gone")


@pytest.mark.parametrize("max_turns", [2, 50])
def test_nothing_differs_in_the_same_environment(max_turns: int) -> None:
    for seed in range(10):
        assert first_divergence(CountEnv(max_turns=10**9), episode(seed, max_turns=max_turns)) is None


@pytest.mark.parametrize(
    ("env", "turn", "what", "words"),
    [
        (Reworded, 2, "observation", "it is"),
        (Generous, 1, "reward", "1.0"),
        (Longer, None, "end", "the episode goes on"),
        (Broken, 0, "error", "RuntimeError: gone"),
    ],
)
def test_the_first_difference_is_named(env: type[CountEnv], turn: int | None, what: str, words: str) -> None:
    stored = next(made for made in map(episode, range(99)) if len(made.turns) > 3 and made.terminated)
    found = first_divergence(env(), stored)
    assert found is not None and (found.turn, found.what) == (len(stored.turns) if turn is None else turn, what)
    assert words in found.found
    assert found.diff().startswith("-") and f"+{found.found}" in found.diff()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    values = {"env": {"id": "alfworld", "options": {"size": "tiny"}}, "tasks": 5, "model": "random"}
    evaluate(build(EvalConfig, values), tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


def test_all_episodes_of_a_run_or_one_of_them_are_replayed(run: RunFolder) -> None:
    results = list(replay_run(run))
    assert len(results) == 5 and all(result.divergence is None and result.turns for result in results)
    (one,) = replay_run(run, "eval/3/0")
    assert one.task_id == "tiny-valid_unseen-000600"
    assert len(list(replay_run(run, count=2))) == 2


def test_what_cannot_be_replayed_is_named(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UnknownIdError, match="Unknown episode"):
        list(replay_run(run, "eval/9/0"))
    with pytest.raises(ConfigError, match="names no environment"):
        list(replay_run(RunFolder.create(tmp_path / "bare", {})))
