"""Training through DeepSpeed (ZeRO-3): what is asked of it, what is refused, and the steps of one process."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from learner_steps import Made, one_process
from ranks import on_ranks
from zero_steps import CONFIG, on_this_rank_by_zero, run_by_zero

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.errors import ConfigError, MissingExtraError
from agent_gym.trainers import deepspeed
from agent_gym.trainers.processes import join
from agent_gym.trainers.trainer import train

TOLD: dict[str, Any] = {
    "train_batch_size": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 3,
        "reduce_bucket_size": "auto",
        "offload_optimizer": {"device": "cpu", "nvme_path": None},
    },
    "steps_per_print": 1e9,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_accelerate_was_told_is_kept_and_what_is_the_runs_own_is_not(dtype: torch.dtype) -> None:
    settings = deepspeed.engine_settings(TOLD, "no", {dtype})
    assert settings == {
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
        "steps_per_print": 1e9,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_allow_untested_optimizer": True,
    }
    assert TOLD["gradient_clipping"] == "auto"


def test_an_optimiser_is_offloaded_only_where_accelerate_was_told_so() -> None:
    for device, offloaded in (("cpu", True), ("nvme", True), ("none", False), (None, False)):
        assert deepspeed.offloads({"zero_optimization": {"offload_optimizer": {"device": device}}}) is offloaded
    assert not deepspeed.offloads({"zero_optimization": {}})
    assert not deepspeed.offloads(TOLD | {"zero_force_ds_cpu_optimizer": False})


@pytest.mark.parametrize(
    ("mixed_precision", "dtypes", "said"),
    [
        ("bf16", {torch.float32}, "model.dtype=bfloat16"),
        ("fp16", {torch.bfloat16}, "fp16"),
        ("no", {torch.float16}, "model.dtype"),
        ("no", {torch.float32, torch.bfloat16}, "model.dtype"),
    ],
)
def test_types_that_deepspeed_would_change_are_refused(mixed_precision: str, dtypes: set[Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        deepspeed.engine_settings(TOLD, mixed_precision, dtypes)
    deepspeed.engine_settings(TOLD, "bf16", {torch.bfloat16})


@pytest.mark.parametrize(
    ("what", "said"),
    [({"optimizer": "muon"}, "muon"), ({"adapters": True}, "model.lora"), ({"critic": True}, "critic")],
)
def test_what_does_not_go_with_deepspeed_is_refused(what: dict[str, Any], said: str) -> None:
    fine: dict[str, Any] = {"optimizer": "adamw", "adapters": False, "critic": False}
    deepspeed.check(**fine)
    with pytest.raises(ConfigError, match=rf"{said}.*distributed\.shard"):
        deepspeed.check(**{**fine, **what})


def test_parts_of_a_tensor_are_equally_long_and_make_it_up() -> None:
    whole = torch.arange(1.0, 8.0).view(1, 7)
    parts = [deepspeed.own_part(whole, 3, rank) for rank in range(4)]
    assert torch.cat(parts).tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0]


def test_without_deepspeed_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agent-gym\[deepspeed\]'"):
        join()


def test_only_zero_3_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    with pytest.raises(ConfigError, match="zero_stage 2"):
        deepspeed.plugin()
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO3_INIT", "true")
    assert not deepspeed.plugin().zero3_init_flag


needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
PLANS: dict[str, dict[str, Any]] = {
    "reference": {"name": "kl reference"},
    "prefixes": {"name": "all", "share_prefixes": True},
    "clipped": {"name": "bonus", "max_grad_norm": 0.01, "weight_decay": 0.1},
}


@pytest.fixture(scope="module")
def beginning() -> Made:
    """What one process makes in the first two steps."""
    return one_process(name="grpo", steps=(0, 1))


@pytest.fixture
def file(tmp_path: Path) -> str:
    """DeepSpeed's configuration."""
    (tmp_path / "deepspeed.json").write_text(json.dumps(CONFIG))
    return str(tmp_path / "deepspeed.json")


def assert_alike(one: Made, other: Made) -> None:
    """What one process and several came to differs by rounding alone."""
    for mine, theirs in zip(one.metrics, other.metrics, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    for name, weight in one.weights.items():
        assert float((weight - other.weights[name]).abs().quantile(0.99)) < 1e-5
    # After the steps it is a mean of the gradients, which DeepSpeed keeps to itself.
    for number, state in one.state["optimizer"]["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(value, other.state["optimizer"]["state"][number][name], atol=1e-5, rtol=1e-5)


@needs_deepspeed
def test_two_processes_make_the_steps_of_one_and_go_on_with_each_others(
    tmp_path: Path, file: str, beginning: Made
) -> None:
    plans: dict[str, Any] = {**PLANS, "goes on": {"name": "grpo", "steps": (2,), "after": beginning}}
    plans |= {"begins": {"name": "grpo", "steps": (0, 1)}, "first": {"name": "grpo", "steps": (0,)}}
    made = on_ranks(2, on_this_rank_by_zero, file, plans, folder=tmp_path)
    for each in made:
        assert not isinstance(each, Exception), each
        for key, plan in PLANS.items():
            assert_alike(one_process(**plan), each[key])
        assert_alike(one_process(name="grpo", steps=(0,)), each["first"])
        after = one_process(name="grpo", steps=(2,), after=beginning)
        assert_alike(after, each["goes on"])
        assert_alike(after, one_process(name="grpo", steps=(2,), after=each["begins"]))


@needs_deepspeed
def test_a_run_through_deepspeed_comes_to_the_numbers_of_one_process(tmp_path: Path, file: str) -> None:
    values: dict[str, Any] = {
        "env": {"id": "alfworld", "options": {"size": "tiny", "max_turns": 5}},
        "model": {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 32, "vocabulary": 600},
        "warm_start": {"episodes": 12},
        "rollout": {"tasks": 3, "concurrency": 8, "max_tokens": 6},
        "algorithm": {"name": "grpo", "options": {"group_size": 3}},
        "update": {"learning_rate": 1e-3, "updates_per_step": 2, "micro_batch_tokens": 300},
        "measure": {"tasks": 3},
        "steps": 2,
        "checkpoint_every": 1,
        "threads": 1,
    }
    expected = train(build(TrainConfig, values), tmp_path / "one")
    made, other = on_ranks(2, run_by_zero, file, values, str(tmp_path / "spread"), folder=tmp_path)
    assert not isinstance(made, Exception), made
    assert [record.keys() for record in made] == [record.keys() for record in other]
    for mine, theirs in zip(made, expected.metrics, strict=True):
        for name, value in theirs.items():
            if isinstance(value, float):
                assert mine[name] == pytest.approx(value, abs=1e-5, rel=1e-5), name
