"""Failures and ends of vLLM in this process, and runs that use it. Runs in the Python that has it: see test_vllm.py."""

import asyncio
import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_shared import PROMPT, TOKENIZER, TOLERANCE, ask, run

from agent_gym.config import EvalConfig, TrainConfig
from agent_gym.config_files import build
from agent_gym.engines import vllm_building
from agent_gym.engines.base import Sampling
from agent_gym.engines.vllm import VllmEngine
from agent_gym.errors import ChatTemplateError, ConfigError, EngineError
from agent_gym.evaluation import vllm_model
from agent_gym.evaluation.runner import evaluate
from agent_gym.store.run import RunFolder
from agent_gym.trainers.trainer import train

# -- failures, and the end ---------------------------------------------------------------------------------------------


def test_what_vllm_meets_is_told_to_those_who_wait_and_later_ones_are_served(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        monkeypatch.undo()
        raise RuntimeError("out of memory on device 3")

    run(asyncio.wait_for(_patched(engine, monkeypatch, fail), 60))
    assert len(ask(engine).token_ids) == 12


async def _patched(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, fail: Any) -> None:
    await asyncio.wrap_future(engine._thread.call(lambda inner: monkeypatch.setattr(inner, "step", fail)))
    answers = await asyncio.gather(
        *(engine.generate(PROMPT, Sampling(8, seed=seed)) for seed in range(3)), return_exceptions=True
    )
    failed = [answer for answer in answers if isinstance(answer, EngineError)]
    assert failed
    assert all("vLLM failed: out of memory on device 3" in str(error) for error in failed)


def test_log_probabilities_that_are_no_numbers_are_an_error(engine: VllmEngine, model: Any) -> None:
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in model.state_dict().items()}
    run(engine.sync(broken.items()))
    with pytest.raises(EngineError, match="no numbers"):
        ask(engine)
    with pytest.raises(EngineError, match="no numbers"):
        run(engine.score(PROMPT))


@pytest.mark.parametrize("wrong", [("nonsense.weight", torch.zeros(3)), ("model.norm.weight", torch.zeros(3))])
def test_weights_that_do_not_fit_are_refused_and_nothing_is_sampled_with_them(
    shared: VllmEngine, wrong: tuple[str, torch.Tensor]
) -> None:
    """Must come after those that use the shared engine's weights."""
    version = shared.version
    with pytest.raises(EngineError, match="do not fit"):
        run(shared.sync([wrong]))
    assert shared.version == version
    with pytest.raises(EngineError, match="no weights"):
        ask(shared)
    with pytest.raises(EngineError, match="hand them to sync"):
        run(shared.sync())


def test_an_engine_whose_thread_has_died_leaves_nothing(shared: VllmEngine) -> None:
    """The last that uses the shared engine; those that come after it make others in the same process."""

    def leave(inner: Any) -> None:
        raise SystemExit("gone")

    with pytest.raises(EngineError, match=r"vLLM's thread has ended \(gone\)"):
        shared._thread.call(leave).result()
    run(shared.aclose())
    run(shared.aclose())
    assert not [each for each in threading.enumerate() if each.name == "vllm"]
    assert not torch.distributed.is_initialized()
    with pytest.raises(EngineError, match="has ended"):
        run(shared.generate(PROMPT, Sampling()))


# -- engines of their own ----------------------------------------------------------------------------------------------


def test_a_model_that_vllm_cannot_run_is_an_error_that_names_it_and_says_why(tmp_path: Path, model: Any) -> None:
    with pytest.raises(EngineError, match=f"vLLM cannot run the model {tmp_path / 'none'}"):
        VllmEngine(str(tmp_path / "none"))
    with pytest.raises(EngineError, match=r"run the model of the trainer: User-specified max_model_len \(9999\)"):
        VllmEngine.twin(model, TOKENIZER, options={"max_model_len": 9999})
    assert not torch.distributed.is_initialized()
    assert not [each for each in threading.enumerate() if each.name == "vllm"]
    assert vllm_building.on_cpu() or torch.cuda.is_available()


# -- training and evaluation -------------------------------------------------------------------------------------------


def test_training_samples_with_vllm_and_hands_it_the_weights_after_each_step(tmp_path: Path) -> None:
    config = build(
        TrainConfig,
        {
            "env": {"id": "alfworld", "options": {"max_turns": 3}},
            "model": {"hidden": 64, "heads": 2, "layers": 2, "feed_forward": 128},
            "engine": {"kind": "vllm", "cache_gib": 0.25},
            "rollout": {"tasks": 2, "max_tokens": 6},
            "algorithm": {"name": "grpo", "options": {"group_size": 3}},
            "update": {"learning_rate": 1e-3},
            "measure": {"tasks": 2},
            "steps": 3,
        },
    )
    result = train(config, tmp_path / "run")
    steps = [record for record in result.metrics if record["phase"] == "train"]
    assert [record["step"] for record in steps] == [1, 2, 3]
    assert all(record["mismatch_max"] < TOLERANCE for record in steps)
    with RunFolder.open(tmp_path / "run").trajectories() as store:
        versions = {turn.engine_version for each in store.select() for turn in each.turns}
    assert versions == {0, 1, 2, 3}
    assert result.after is not None
    assert not [each for each in threading.enumerate() if each.name == "vllm"]
    assert not torch.distributed.is_initialized()


def test_evaluation_plays_a_folder_with_vllm(tmp_path: Path, model: Any) -> None:
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    values = {"model": f"vllm:{tmp_path / 'model'}", "env": {"id": "small_envs:CountEnv"}, "split": "train"}
    config = build(EvalConfig, {**values, "tasks": 2, "rollout": {"max_tokens": 4}, "vllm": {"cache_gib": 0.25}})
    evaluate(config, tmp_path / "run")
    with RunFolder.open(tmp_path / "run").trajectories() as store:
        turns = [turn for each in store.select() for turn in each.turns]
    assert len(turns) >= 2
    assert all(0 < turn.generated_tokens <= 4 for turn in turns)
    with pytest.raises(ConfigError, match=r"Unknown argument vllm\.memory_shares: did you mean 'memory_share'"):
        evaluate(config.model_copy(update={"vllm": {"memory_shares": 0.5}}), tmp_path / "other")


def test_a_model_that_cannot_be_played_with_leaves_no_vllm_behind(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        closed = False

        async def sync(self, weights: Any) -> None:
            raise EngineError("The new weights are not all.")

        async def aclose(self) -> None:
            self.closed = True

    refusing = Refusing()
    monkeypatch.setattr(vllm_model, "is_adapter", lambda folder: True)
    monkeypatch.setattr(vllm_model, "load_model", lambda path: (model, TOKENIZER))
    monkeypatch.setattr(VllmEngine, "twin", lambda *arguments, **values: refusing)
    config = build(EvalConfig, {"model": f"vllm:{tmp_path}", "env": {"id": "small_envs:CountEnv"}})
    with pytest.raises(EngineError, match="not all"):
        vllm_model.VllmModel(config)
    assert refusing.closed
    mute = copy.deepcopy(TOKENIZER)
    mute.chat_template = None
    monkeypatch.setattr(vllm_model, "load_model", lambda path: (model, mute))
    monkeypatch.setattr(VllmEngine, "twin", lambda *arguments, **values: pytest.fail("vLLM was started"))
    with pytest.raises(ChatTemplateError):
        vllm_model.VllmModel(config)
