"""Which engine a configuration means."""

from typing import Any

import pytest
import torch
from helpers import run, small_llama

from agent_gym.cli.training import engine_keys
from agent_gym.config import TrainConfig
from agent_gym.config_files import load
from agent_gym.engines.base import Sampling
from agent_gym.engines.choice import make_engine
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import ConfigError
from agent_gym.sections import EngineSection, RolloutSection

SERVED = {"engine.kind": "server", "engine.urls": ["http://127.0.0.1:8000"]}


def test_the_engine_works_on_the_trainers_own_model_where_it_may() -> None:
    model = small_llama()
    engine = make_engine(EngineSection(), model=model, tokenizer=None, max_batch=3)
    assert isinstance(engine, TransformersEngine) and engine.model is model and engine.max_batch == 3


def test_a_copy_has_its_own_weights_type_and_draws_none_of_the_trainers_random_numbers() -> None:
    model = small_llama()
    before = torch.get_rng_state()
    section = EngineSection(dtype="bfloat16")
    engine = make_engine(section, model=model, tokenizer=None, max_batch=3, shared=False)
    assert isinstance(engine, TransformersEngine)
    assert torch.equal(before, torch.get_rng_state())
    assert engine.model.dtype == torch.bfloat16 and model.dtype == torch.float32
    assert engine.model.get_input_embeddings().weight is not model.get_input_embeddings().weight


def test_a_copy_says_what_the_model_says_once_it_has_the_weights() -> None:
    model = small_llama()
    engine = make_engine(EngineSection(), model=model, tokenizer=None, max_batch=3, shared=False)
    shared = make_engine(EngineSection(), model=model, tokenizer=None, max_batch=3)
    run(engine.sync(model.state_dict().items()))
    answers = [run(each.generate([1, 2, 3], Sampling(max_tokens=8, seed=5))) for each in (engine, shared)]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].logprobs == pytest.approx(answers[1].logprobs, abs=1e-5)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"engine.kind": "server"}, "servers need addresses"),
        ({"engine.urls": ["http://127.0.0.1:8000"]}, "urls is heeded with kind: server alone"),
        ({"engine.sync": "file"}, "sync is heeded with kind: server alone, and this is transformers"),
        ({"engine.tensor_parallel": 2}, "tensor_parallel is heeded with kind: vllm alone"),
        ({"engine.vllm": {"seed": 1}}, "vllm is heeded with kind: vllm alone"),
        ({"engine.top_logprobs": 5}, "top_logprobs is heeded with kind: vllm or server alone"),
        ({"engine.timeout": 5.0}, "timeout is heeded with kind: vllm or server alone"),
        ({"engine.kind": "vllm", "engine.tries": 2}, "tries is heeded with kind: server alone, and this is vllm"),
        ({**SERVED, "engine.memory_share": 0.5}, "memory_share is heeded with kind: vllm alone, and this is server"),
        ({**SERVED, "engine.sleep": False}, "sleep is heeded with kind: vllm alone"),
        ({"rollout.ray_actors": 2}, "ray_actors needs workers: ray"),
        ({"engine.kind": "serve"}, "'transformers', 'vllm' or 'server'"),
    ],
)
def test_a_kind_that_lacks_something_or_does_not_heed_it_is_refused(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(TrainConfig, None, keys)


def test_what_a_kind_heeds_and_what_is_as_by_default_is_taken() -> None:
    taken = load(TrainConfig, None, {**SERVED, "engine.top_logprobs": 5, "engine.dtype": "bfloat16", "engine.tries": 2})
    assert taken.engine.changed == {"kind", "urls", "top_logprobs", "dtype", "tries"}
    load(TrainConfig, None, {"engine.kind": "vllm", "engine.sleep": False, "engine.sync_timeout": 5.0})
    # A run's own configuration names every key.
    load(TrainConfig, None, {"engine": EngineSection().model_dump(), "rollout": RolloutSection().model_dump()})
    load(TrainConfig, None, {"rollout.workers": "ray", "rollout.ray_actors": 2})


@pytest.mark.parametrize("keys", [{"dtype": "bfloat16"}, {"tolerance": 0.1}])
def test_a_type_of_its_own_is_refused_where_the_engine_works_on_the_trainers_model(keys: dict[str, Any]) -> None:
    section = EngineSection(**keys)
    with pytest.raises(ConfigError, match=f"engine.{min(keys)} is for an engine with weights of its own"):
        make_engine(section, model=small_llama(), tokenizer=None, max_batch=3)
    make_engine(section, model=small_llama(), tokenizer=None, max_batch=3, shared=False)


@pytest.mark.parametrize("kind", ["transformers", "vllm", "http://127.0.0.1:8000"])
def test_another_engine_on_the_command_line_leaves_out_what_a_recipe_says_for_its_own(kind: str) -> None:
    values = {"kind": "vllm", "memory_share": 0.5, "tensor_parallel": 4, "top_logprobs": 5, "vllm": {"seed": 1}}
    section = load(TrainConfig, None, engine_keys(kind), base={"engine": values}).engine
    served = {"kind", "urls", "top_logprobs"}
    assert section.changed == {"transformers": set(), "vllm": set(values)}.get(kind, served)
    assert engine_keys(None) == {}
