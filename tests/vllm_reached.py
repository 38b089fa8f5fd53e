"""An engine on servers of `vllm_fake`, and what is asked of it; waits between tries take no time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import helpers
import pytest
import torch
from helpers import run, small_llama
from openai_server import Reply
from vllm_fake import VOCABULARY, FakeVllm, vllm_serving

from agent_gym.engines.adapters import add_adapters
from agent_gym.engines.base import Sampling
from agent_gym.engines.retrying import Patience
from agent_gym.engines.vllm_server import VllmServerEngine, connect
from agent_gym.errors import EngineError, RefusedError
from agent_gym.sections import EngineSection, LoraSection
from agent_gym.tools.web import Retries

PROMPT = [3, 4, 5, 6]
PLAIN = Sampling(max_tokens=4, seed=7)
once = partial(helpers.once, prompt=PROMPT, sampling=PLAIN)


async def no_wait(seconds: float) -> None:
    return None


@contextmanager
def reached(
    *fakes: FakeVllm, timeout: float = 30.0, pushes: bool = True, model: Any = None, **keys: Any
) -> Iterator[VllmServerEngine]:
    """Run servers, and connect to them; waits between tries take no time."""
    with ExitStack() as stack:
        for fake in fakes:
            stack.enter_context(vllm_serving(fake))
        section = EngineSection(kind="server", urls=[fake.url for fake in fakes], timeout=timeout, **keys)
        engine = connect(section, model=model or small_llama(VOCABULARY), max_batch=64, pushes=pushes)
        for server in engine.servers.values():
            server.patience = Patience(Retries(tries=3), request=timeout, sleep=no_wait)
        yield engine
        run(engine.aclose())


def failure(engine: VllmServerEngine, kind: type[EngineError] = RefusedError, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        once(engine, **more)
    return str(caught.value)


def weights(value: float) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in small_llama(VOCABULARY).named_parameters():
        yield name, torch.full_like(parameter, value)


def adapted() -> Any:
    pytest.importorskip("peft", reason="needs the extra lora")
    model = small_llama(VOCABULARY)
    add_adapters(model, LoraSection(rank=2), base=None, seed=0)
    return model


def hanging(asked: Any) -> Reply:
    return Reply(hangs=True)


def cut_off(asked: Any) -> Reply:
    return Reply({}, cut=True)
