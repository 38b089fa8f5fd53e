"""Whole runs that sample ahead, and what they learn from weights that are always old."""

import asyncio
import statistics
from pathlib import Path
from typing import Any

import pytest
from helpers import any_word, small_llama
from sampling_ahead import sampling_threads, settings
from small_envs import WordEnv

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.choice import make_engine
from agent_gym.errors import StoreError
from agent_gym.rollout.chat import TemplateChat
from agent_gym.sections import EngineSection
from agent_gym.store.run import RunFolder
from agent_gym.trainers.ahead import AheadSampler
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.listening import Silence
from agent_gym.trainers.trainer import train
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trainers.warmstart import CloneSettings, clone
from agent_gym.trainers.weights import named_weights


def config(**changes: Any) -> TrainConfig:
    """Return the configuration of a run of five steps."""
    small = {
        "env": {"id": "small_envs:CountEnv", "options": {"max_turns": 3}},
        "model": {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 32, "vocabulary": 600},
        "warm_start": {"episodes": 4},
        "rollout": {"tasks": 2, "concurrency": 8, "max_tokens": 6},
        "algorithm": {"options": {"group_size": 2, "entropy_coefficient": 0.01}},
        "update": {"learning_rate": 1e-3, "updates_per_step": 2},
        "measure": {"tasks": 0},
        "steps": 5,
        "checkpoint_every": 2,
        "threads": 1,
    }
    return build(TrainConfig, {**small, **changes})


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


class Interrupting(Silence):
    """Presses Ctrl-C after some steps of training."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.training = False

    def stage(self, name: str, total: int) -> None:
        self.training = name == "training"

    def advance(self, metrics: Any) -> None:
        self.left -= self.training
        if self.training and self.left == 0:
            raise KeyboardInterrupt


def test_a_run_ahead_is_interrupted_and_resumed_without_losing_what_was_kept(tmp_path: Path) -> None:
    ahead = config(
        rollout={"tasks": 2, "concurrency": 8, "max_tokens": 6, "max_lag": 2},
        update={"learning_rate": 1e-3, "updates_per_step": 2, "importance": "token"},
        measure={"tasks": 3, "split": "train", "every": 2, "interim_tasks": 2},
    )
    folder = tmp_path / "run"
    with pytest.raises(StoreError, match="--resume"):
        train(ahead, folder, listener=Interrupting(3))
    assert not sampling_threads()
    stored = RunFolder.open(folder)
    kept = [record for record in stored.metrics() if record["step"] <= stored.checkpoints()[-1]]
    result = train(ahead, folder, resume=True)
    assert not sampling_threads()
    steps = [record for record in result.metrics if record["phase"] == "train"]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5]
    assert without_times(result.metrics)[: len(kept)] == without_times(kept)
    for record in steps:
        assert 0 <= record["lag_mean"] <= record["lag_max"] <= 2
        assert record["mismatch_mean"] <= record["mismatch_max"] and 0 < record["effective_sample_size"] <= 1.000001
        assert 0 <= record["importance_truncated"] <= 1
        assert {"waiting", "sampling_idle", "sync", "throughput"} <= set(record["seconds"])
    with stored.trajectories() as store:
        episodes = list(store.select(phase="train"))
        assert len(episodes) == 5 * 2 * 2
        for episode in episodes:
            step = int(episode.id.split("/")[1]) - 1
            assert all(0 <= step - turn.engine_version <= 2 for turn in episode.turns)


def test_a_run_in_turns_says_at_every_step_that_nothing_lags_and_nothing_differs(tmp_path: Path) -> None:
    plain = config(steps=2)
    for record in train(plain, tmp_path / "run").metrics:
        if record["phase"] == "train":
            assert (record["lag_mean"], record["lag_max"]) == (0, 0)
            assert record.get("mismatch_max", 0) < 1e-4 and "importance_mean" not in record


# -- learning ----------------------------------------------------------------------------------------------------------


def test_with_weights_that_are_always_two_updates_old_correction_still_learns(tokenizer: Any) -> None:
    chat, model, steps = TemplateChat(tokenizer), small_llama(len(tokenizer)), 45
    clone(model, any_word(chat), CloneSettings(epochs=100, batch_size=16, learning_rate=1e-2, warmup_steps=5), seed=0)
    engine = make_engine(EngineSection(), model=model, tokenizer=tokenizer, max_batch=64, shared=False)
    algorithm = grpo(group_size=8)
    corrected = UpdateSettings(learning_rate=1e-3, updates_per_step=2, importance="token")
    learner = Learner(model, algorithm, corrected)
    rewards, lags = [], []
    chosen = settings(2, steps=steps, env=WordEnv, tasks=8, max_tokens=6)
    with AheadSampler(chosen, engine, chat, algorithm.rollout) as sampler:
        sampler.updated(named_weights(model), 0)
        for step in range(steps):
            groups = sampler.groups(step)
            # However fast training is here: all that may be sampled with these weights is.
            for task in list(sampler._playing.values()):
                sampler.call(_done(task))
            rewards.append(statistics.fmean(member.reward for group in groups for member in group.valid))
            lags.append(sampler.metrics()["lag_mean"])
            if len(rewards) > 10 and statistics.fmean(rewards[-5:]) > 0.8:
                break
            learner.learn(groups, Progress(step, steps))
            sampler.updated(named_weights(model), step + 1)
    assert set(lags[2:]) == {2.0}
    assert statistics.fmean(rewards[:2]) < 0.4
    assert statistics.fmean(rewards[-5:]) > 0.8


async def _done(task: "asyncio.Task[Any]") -> None:
    await asyncio.wait([task])
