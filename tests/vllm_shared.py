"""An engine of vLLM for all checks of it, and what is asked of it: a plugin of pytest in the Python that has vLLM."""

import asyncio
import copy
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import torch

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.tiny import TinySize, make_model, train_tokenizer
from agent_gym.engines.vllm import VllmEngine
from agent_gym.errors import EngineError

SIZE = TinySize(hidden=64, feed_forward=128, layers=2, heads=2, context=1024)
TEXTS = ["go to the kitchen", "take the apple from the fridge", "you see a door, a lamp and 2 cups"] * 4
TOKENIZER = train_tokenizer(TEXTS, vocabulary=400)
BLOCK = 32
PROMPT = [(7 * place + 5) % 300 + 10 for place in range(70)]
TOLERANCE = 2e-3
"""Of log-probabilities in float32, between vLLM and transformers."""


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def model_of(seed: int) -> Any:
    return make_model(TOKENIZER, SIZE, seed=seed).eval()


def moved(model: Any, relative: float) -> Any:
    """Return a copy of a model whose weights are all larger by a share of themselves."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + relative)
    return other


@pytest.fixture(scope="session")
def model() -> Any:
    return model_of(0)


@pytest.fixture(scope="session")
def shared(model: Any) -> Iterator[VllmEngine]:
    """One engine for all: to start one takes seconds."""
    before = torch.get_rng_state()
    engine = VllmEngine.twin(model, TOKENIZER, max_batch=16, block_size=BLOCK, cache_gib=0.25)
    assert torch.equal(torch.get_rng_state(), before), "starting vLLM moved the random numbers of the process"
    with pytest.raises(EngineError, match="no weights yet"):
        run(engine.generate(PROMPT, Sampling()))
    yield engine
    run(engine.aclose())


@pytest.fixture
def engine(shared: VllmEngine, model: Any) -> VllmEngine:
    run(shared.sync(model.state_dict().items()))
    return shared


def ask(engine: Any, prompt: list[int] = PROMPT, **values: Any) -> Completion:
    completion: Completion = run(engine.generate(prompt, Sampling(**{"max_tokens": 12, **values})))
    return completion


async def ask_all(engine: VllmEngine, prompts: list[list[int]], samplings: list[Sampling]) -> list[Completion]:
    return list(await asyncio.gather(*map(engine.generate, prompts, samplings)))


@torch.no_grad()
def expected(model: Any, prompt: list[int], done: Completion, temperature: float = 1.0) -> tuple[Any, Any]:
    """Return log-probabilities and entropies of a completion's tokens from one plain forward pass."""
    ids = torch.tensor([prompt + done.token_ids])
    logprobs = (model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
    return logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def assert_logprobs(model: Any, prompt: list[int], done: Completion, temperature: float = 1.0) -> None:
    logprobs, _ = expected(model, prompt, done, temperature)
    torch.testing.assert_close(torch.tensor(done.logprobs), logprobs, atol=TOLERANCE, rtol=0)
