"""Whole runs: deterministic, resumable, and leaving nothing behind when they cannot start."""

import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from curves import logged, tensorboard

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.errors import ConfigError, EngineError, StoreError, TrainingError, UnknownIdError
from agent_gym.store.run import RunFolder
from agent_gym.trainers.trainer import RunResult, train

SMALL: dict[str, Any] = {
    "env": {"id": "alfworld", "options": {"size": "tiny", "max_turns": 6}},
    "model": {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 32, "vocabulary": 600},
    "warm_start": {"episodes": 24, "mistakes": 0.1, "distractions": ["look"], "distracted": 0.2},
    "rollout": {"tasks": 2, "concurrency": 8, "max_tokens": 6},
    "algorithm": {"options": {"group_size": 2, "entropy_coefficient": 0.01}},
    "update": {"learning_rate": 1e-3, "updates_per_step": 2},
    "measure": {"tasks": 4, "every": 3, "interim_tasks": 2},
    "steps": 5,
    "checkpoint_every": 2,
    "threads": 1,
}

KILLED = """
import json, os, signal, sys
from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.trainers.listening import Silence
from agent_gym.trainers.trainer import train

class Killer(Silence):
    steps = 0
    training = False
    def stage(self, name, total):
        self.training = name == "training"
    def advance(self, metrics):
        self.steps += self.training
        if self.steps == float(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

def deadly(function, calls):
    left = [calls]
    def call(*arguments, **values):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **values)
    return call

import torch
if sys.argv[3] == "1.25":  # The second step's first update.
    torch.optim.AdamW.step = deadly(torch.optim.AdamW.step, 3)
if sys.argv[3] == "1.75":  # The checkpoint after the second step, when the model is written.
    torch.save = deadly(torch.save, 2)

train(build(TrainConfig, json.loads(sys.argv[1])), sys.argv[2], resume=True, listener=Killer())
"""


def config(**changes: Any) -> TrainConfig:
    return build(TrainConfig, {**SMALL, **changes})


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(config(), tmp_path_factory.mktemp("runs") / "undisturbed")


def test_a_run_logs_the_warm_start_every_step_and_every_measurement(undisturbed: RunResult) -> None:
    phases = [(record["phase"], record["step"]) for record in undisturbed.metrics]
    train_steps = [("train", step) for step in range(1, 6)]
    assert phases == [("warm_start", 0), ("before", 0), *train_steps[:3], ("during", 3), *train_steps[3:], ("after", 5)]
    assert undisturbed.before and undisturbed.before.episodes == 4
    assert undisturbed.after and undisturbed.after.failed == 0


def test_every_episode_is_stored_with_its_tokens(undisturbed: RunResult) -> None:
    with RunFolder.open(undisturbed.folder).trajectories() as store:
        episodes = list(store.select(phase="train"))
        assert len(episodes) == 5 * 2 * 2
        assert {len(e.token_ids) == len(e.action_mask) == len(e.logprobs) for e in episodes} == {True}
        assert store.phases() == ["after", "before", "during", "train"]


def test_what_was_trained_on_is_stored_with_its_signals_its_split_and_its_kind_of_task(undisturbed: RunResult) -> None:
    with RunFolder.open(undisturbed.folder).trajectories() as store:
        assert {(row.phase, row.split) for row in store.outcomes()} == {
            ("train", "train"),
            *((phase, "valid_unseen") for phase in ("before", "during", "after")),
        }
        assert all(row.task_type for row in store.outcomes())
        assert all(set(store.signals(id)) == {"advantage", "log_ratio", "reward"} for id in store.known("train"))
        assert not any(store.signals(id) for id in store.known("after"))


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(undisturbed: RunResult, tmp_path: Path) -> None:
    again = train(config(), tmp_path / "again")
    other = train(config(seed=1), tmp_path / "other")
    assert without_times(again.metrics) == without_times(undisturbed.metrics)
    assert without_times(other.metrics) != without_times(undisturbed.metrics)


@pytest.mark.parametrize("step", [1, 1.25, 1.75, 3, 4])
def test_a_run_killed_in_the_middle_ends_with_the_numbers_of_an_undisturbed_one(
    undisturbed: RunResult, tmp_path: Path, step: float
) -> None:
    folder = tmp_path / "killed"
    tracked = {"tracking": ["tensorboard"]}
    command = [sys.executable, "-c", KILLED, json.dumps(SMALL | tracked), str(folder), str(step)]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = train(config(**tracked), folder, resume=True)
    assert without_times(resumed.metrics) == without_times(undisturbed.metrics)
    assert tensorboard(folder) == logged(folder)
    with RunFolder.open(folder).trajectories() as stored, RunFolder.open(undisturbed.folder).trajectories() as expected:
        assert [e.token_ids for e in stored.select(phase="train")] == [
            e.token_ids for e in expected.select(phase="train")
        ]


def limited(folder: Path, kilobytes: int) -> subprocess.CompletedProcess[str]:
    """Run where no file can grow beyond a size, which the operating system reports like a disk that is full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, resource.RLIM_INFINITY))

    command = [sys.executable, "-c", KILLED, json.dumps(SMALL), str(folder), "-1"]
    return subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=limit)


@pytest.mark.parametrize("kilobytes", [40, 100])
def test_a_disk_that_fills_up_in_the_middle_loses_nothing_that_was_kept(
    undisturbed: RunResult, tmp_path: Path, kilobytes: int
) -> None:
    folder = tmp_path / "full"
    stopped = limited(folder, kilobytes)
    assert stopped.returncode != 0
    assert re.search(r"StoreError: .*--resume", stopped.stderr.splitlines()[-1]), stopped.stderr
    assert not list(folder.rglob("*.partial"))
    resumed = train(config(), folder, resume=True)
    assert without_times(resumed.metrics) == without_times(undisturbed.metrics)


def test_a_finished_run_is_not_trained_again(undisturbed: RunResult) -> None:
    before = (undisturbed.folder / "metrics.jsonl").read_bytes()
    result = train(config(), undisturbed.folder, resume=True)
    assert (undisturbed.folder / "metrics.jsonl").read_bytes() == before
    assert result.after == undisturbed.after


def test_a_checkpoint_is_a_model_that_any_engine_can_load_and_old_ones_are_removed(undisturbed: RunResult) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = RunFolder.open(undisturbed.folder)
    assert run.checkpoints() == [4, 5]
    folder = run.checkpoint_path(5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == len(tokenizer)
    assert tokenizer.chat_template


def test_resuming_with_another_configuration_is_refused(undisturbed: RunResult) -> None:
    with pytest.raises(ConfigError, match="another 'steps'"):
        train(config(steps=6), undisturbed.folder, resume=True)


def test_an_existing_run_is_not_written_over(undisturbed: RunResult) -> None:
    with pytest.raises(StoreError, match="--resume"):
        train(config(), undisturbed.folder)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": {"path": "/no/such/model"}}, EngineError, "There is no model in /no/such/model"),
        ({"env": {"id": "alfword"}}, UnknownIdError, "did you mean 'alfworld'"),
        ({"env": {"id": "alfworld", "options": {"siez": "tiny"}}}, ConfigError, "siez"),
        ({"algorithm": {"name": "grop"}}, UnknownIdError, "did you mean 'grpo'"),
        ({"algorithm": {"options": {"group_sise": 3}}}, ConfigError, "did you mean 'group_size'"),
        ({"rollout": {"syntax": "pain"}}, UnknownIdError, "did you mean 'plain'"),
        ({"measure": {"split": "validation"}}, ConfigError, "no tasks in the split 'validation'"),
        ({"model": {"hidden": 18, "heads": 4}}, ConfigError, r"model\.hidden"),
    ],
)
def test_what_cannot_start_is_one_sentence_and_leaves_no_folder(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_warm_start_has_nothing_to_clone_says_so_and_leaves_no_folder(tmp_path: Path) -> None:
    hopeless = config(env={"id": "alfworld", "options": {"size": "tiny", "max_turns": 1}})
    with pytest.raises(TrainingError, match="no demonstrations to clone"):
        train(hopeless, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named(undisturbed: RunResult, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(undisturbed.folder, folder)
    (folder / "checkpoints" / "step-5" / "training.pt").write_bytes(b"PK")
    with pytest.raises(StoreError, match=r"step-5 cannot be read"):
        train(config(), folder, resume=True)
