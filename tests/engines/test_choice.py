"""Which engine a configuration means."""

import pytest
import torch
from helpers import run, small_llama

from agent_gym.config import TrainConfig
from agent_gym.config_files import load
from agent_gym.engines.base import Sampling
from agent_gym.engines.choice import make_engine
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import ConfigError
from agent_gym.sections import EngineSection


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
        ({"engine.urls": ["http://127.0.0.1:8000"]}, "addresses need kind: server"),
        ({"engine.kind": "serve"}, "'transformers', 'vllm' or 'server'"),
    ],
)
def test_a_kind_that_lacks_something_is_refused(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(TrainConfig, None, keys)
