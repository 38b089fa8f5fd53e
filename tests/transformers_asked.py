"""`TransformersEngine` on small models, and what is asked of it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from helpers import run, small_llama

from agent_gym.engines.base import Completion, Sampling, Session
from agent_gym.engines.transformers import TransformersEngine

PROMPT = [5, 9, 2, 33, 21]


def make(model: Any = None, **values: Any) -> TransformersEngine:
    """Make an engine that never stops by itself."""
    return TransformersEngine(model or small_llama(), **{"stop_token_ids": [], **values})


def ask(engine: TransformersEngine, prompt: list[int], session: Session | None = None, **values: Any) -> Completion:
    completion: Completion = run(engine.generate(prompt, Sampling(**{"max_tokens": 8, **values}), session))
    return completion


def ask_all(engine: TransformersEngine, prompts: list[list[int]], **values: Any) -> list[Completion]:
    """Ask for all at once; each with its own seed."""

    async def gather() -> list[Completion]:
        return list(
            await asyncio.gather(
                *(
                    engine.generate(prompt, Sampling(**{"max_tokens": 8, "seed": number, **values}))
                    for number, prompt in enumerate(prompts)
                )
            )
        )

    done: list[Completion] = run(gather())
    return done


@torch.no_grad()
def expected(model: Any, prompt: list[int], completion: Completion) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities and entropies of the completion's tokens from one plain forward pass."""
    ids = torch.tensor([prompt + completion.token_ids])
    logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(1, ids[0, len(prompt) :].unsqueeze(1)).squeeze(1), entropies


def assert_numbers_are_the_models(model: Any, prompt: list[int], completion: Completion) -> None:
    logprobs, entropies = expected(model, prompt, completion)
    torch.testing.assert_close(torch.tensor(completion.logprobs), logprobs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(completion.entropies), entropies, atol=1e-4, rtol=1e-4)


@contextmanager
def broken(model: Any) -> Iterator[None]:
    """Let the model's forward pass fail inside the block."""

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    hook = model.model.layers[1].register_forward_pre_hook(fail)
    yield
    hook.remove()


def talk(engine: TransformersEngine, session: Session | None, start: list[int], turns: int, seed: int = 0) -> list[int]:
    """Take turns of 4 tokens, each followed by 3 tokens of context; return all tokens."""
    ids = list(start)
    for turn in range(turns):
        ids += ask(engine, ids, session, max_tokens=4, seed=100 * seed + turn).token_ids
        ids += [(turn + i) % 60 + 2 for i in range(3)]
    return ids
