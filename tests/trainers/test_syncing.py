"""How exactly an engine must agree with the trainer whose weights it was given."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers import run
from torch import Tensor

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.errors import EngineError
from agent_gym.sections import EngineSection
from agent_gym.trainers import syncing
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.syncing import check_arrival, tolerance
from agent_gym.trainers.trainer import train
from agent_gym.trainers.update import Updater


def test_half_precision_on_either_side_is_allowed_what_it_takes() -> None:
    auto, exact = EngineSection(), EngineSection(kind="vllm", dtype="float32")
    assert tolerance(auto, torch.float32) == tolerance(exact, torch.float32) == 5e-3
    assert tolerance(auto, torch.bfloat16) == tolerance(auto, torch.float32, mixed=True) == 0.1
    assert tolerance(EngineSection(kind="vllm", dtype="bfloat16"), torch.float32) == 0.1
    assert tolerance(EngineSection(tolerance=0.02), torch.float32, mixed=True) == 0.02


@pytest.mark.parametrize(
    ("adapter", "remedy"), [(False, r"in another way \(engine\.sync\)"), (True, "replaced the base that the adapter")]
)
def test_an_engine_that_computes_something_else_is_named_with_what_helps(adapter: bool, remedy: str) -> None:
    class Other(ScriptedEngine):
        takes_adapter = adapter

        async def score(self, token_ids: Sequence[int]) -> list[float]:
            return [-1.0] * (len(token_ids) - 1)

    engine = Other(["look"])
    run(check_arrival(engine, [1, 2, 3], [-1.0, -1.001], tolerance=5e-3))
    with pytest.raises(EngineError, match=f"Other has taken new weights and does not use them.*{remedy}"):
        run(check_arrival(engine, [1, 2, 3], [-1.0, -1.01], tolerance=5e-3))
    with pytest.raises(EngineError, match="nan"):
        run(check_arrival(engine, [1, 2, 3], [-1.0, float("nan")], tolerance=5e-3))


@pytest.fixture
def own_precision() -> Iterator[None]:
    """Let a run choose its precision: accelerate keeps that of the first one in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


RUN: dict[str, Any] = {
    "env": {"id": "alfworld", "options": {"size": "tiny", "max_turns": 6}},
    "model": {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 32, "vocabulary": 600, "mixed_precision": "bf16"},
    "rollout": {"tasks": 2, "concurrency": 8, "max_tokens": 6},
    "algorithm": {"name": "grpo", "options": {"group_size": 2}},
    "update": {"learning_rate": 1e-2},
    "measure": {"tasks": 0},
    "steps": 2,
    "threads": 1,
}


@pytest.mark.parametrize("max_lag", [0, 1])
def test_under_mixed_precision_an_engine_is_allowed_that_and_ratios_start_from_what_the_update_computes(
    max_lag: int, own_precision: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []
    rescored: list[float] = []
    arrival, logprobs = syncing.check_arrival, Updater.logprobs

    async def watched(*arguments: Any, tolerance: float) -> None:
        allowed.append(tolerance)
        await arrival(*arguments, tolerance=tolerance)

    def rescoring(self: Updater, batch: Batch) -> Tensor:
        found = logprobs(self, batch)
        rescored.append(float(((found - batch.sampled_logprobs) * batch.mask).abs().max()))
        return found

    monkeypatch.setattr(syncing, "check_arrival", watched)
    monkeypatch.setattr(Updater, "logprobs", rescoring)
    config = build(TrainConfig, {**RUN, "rollout": {**RUN["rollout"], "max_lag": max_lag}})
    records = train(config, tmp_path / "run").metrics
    assert [record["step"] for record in records] == [1, 2]
    assert set(allowed) == ({0.1} if max_lag else set())
    assert len(rescored) == 2 and all(1e-5 < difference < 0.1 for difference in rescored)
