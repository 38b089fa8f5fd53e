"""What is found out before a run begins: it costs no model, and leaves nothing behind."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from small_envs import WordEnv

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.env import State, Task
from agent_gym.errors import ConfigError, MissingExtraError
from agent_gym.trainers.preparing import check, check_spread
from agent_gym.trainers.trainer import train


class Bare(WordEnv):
    """Notices with its first episode that a package is missing."""

    requirements: ClassVar[tuple[str, ...]] = ("pytest", "no-such-package")

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        raise MissingExtraError.of("bare", "Bare")


class Cautious(WordEnv):
    """Does without what it names as far as it can, and fails whoever plays it for nothing."""

    requirements: ClassVar[Sequence[str]] = ("pytest",)

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        raise AssertionError("an episode was begun")


def config(env: str = "small_envs:WordEnv", **changes: Any) -> TrainConfig:
    values = {"env": {"id": env}, "rollout": {"tasks": 1}, "measure": {"tasks": 0}, "steps": 1, **changes}
    return build(TrainConfig, values)


def test_a_missing_extra_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"^Bare needs an optional dependency: run pip install 'agent-gym\[b"):
        train(config(f"{__file__}:Bare", model={"path": str(tmp_path / "none")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_episode_is_begun_where_all_is_there() -> None:
    check(config(f"{__file__}:Cautious"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"update": {"optimizer": "muon"}}, "muon"),
        ({"model": {"lora": {"rank": 2}}}, "model.lora"),
        ({"algorithm": {"name": "ppo"}}, "critic"),
    ],
)
def test_what_does_not_go_with_deepspeed_is_said_before_a_model_is_loaded(changes: dict[str, Any], said: str) -> None:
    check_spread(config(**changes), shard=True)
    check_spread(config(**changes), shard=False, by_deepspeed=False)
    with pytest.raises(ConfigError, match=rf"DeepSpeed does not go with .*{said}"):
        check_spread(config(**changes), shard=True, by_deepspeed=True)


def test_lag_that_nothing_corrects_for_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    rollout = {"tasks": 1, "max_lag": 1}
    check(config(rollout=rollout, update={"importance": "token"}))
    assert not caplog.messages
    check(config(rollout=rollout), tells=False)
    assert not caplog.messages, "one of many processes says it"
    check(config(rollout=rollout))
    assert "update.importance=token" in caplog.text
