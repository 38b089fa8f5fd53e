"""Small environments, models and records for the tests."""

import asyncio
import itertools
import json
import random
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import torch
from small_envs import WORDS, CountEnv, Fragile, Numbered, WordEnv
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agent_gym.engines.base import Completion, Engine, Sampling
from agent_gym.trajectory import Trajectory

__all__ = ["WORDS", "CountEnv", "Fragile", "Numbered", "WordEnv"]

TEXTS = [f"say {word}. {word}, up, down, stop, the number is {n}; {word} {n}" for n, word in enumerate(WORDS)] * 4

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""Sizes of a model with grouped-query attention, as most configurations of transformers name them."""


def golden(name: str) -> Any:
    """Read a file of golden numbers; "nan" and the like become floats."""
    return json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def once(engine: Engine, prompt: Sequence[int], sampling: Sampling) -> Completion:
    """Ask an engine for one completion, in an event loop of its own."""

    async def work() -> Completion:
        try:
            return await engine.generate(prompt, sampling)
        finally:
            await engine.disconnect()

    completion: Completion = run(work())
    return completion


class RecordingEngine(Engine):
    """Hands requests on to another engine and writes down what went in and out."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.max_context = inner.max_context
        self.calls: list[tuple[list[int], Completion]] = []

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        prompt = list(prompt_ids)
        completion = await self.inner.generate(prompt, sampling, session)
        self.calls.append((prompt, completion))
        return completion

    def session(self) -> Any:
        return self.inner.session()


def small_llama(vocabulary: int = 64, *, layers: int = 2, seed: int = 0, **values: Any) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        **values,
    )
    return seeded(LlamaForCausalLM, config, seed)


def small_qwen3(vocabulary: int = 64) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        **SMALL | {"vocab_size": vocabulary},
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        eos_token_id=1,
    )
    return seeded(Qwen3ForCausalLM, config, 0)


def small_mistral() -> Any:
    """A model whose tokens see 5 tokens back."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        **SMALL,
        head_dim=8,
        initializer_range=0.2,
        sliding_window=5,
    )
    return seeded(MistralForCausalLM, config, 0)


def small_mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=64, hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=0.2)
    return seeded(MambaForCausalLM, config, 0)


def small_gpt2(vocabulary: int = 64, *, dropout: float = 0.1) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        initializer_range=0.2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=1,
        eos_token_id=1,
    )
    return seeded(GPT2LMHeadModel, config, 0)


def seeded(cls: type, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(config).eval()


def trajectory(context: int, action: int, *, seed: int = 0, vocabulary: int = 64, reward: float = 0.0) -> Trajectory:
    """Return a random trajectory: context, action, context, action."""
    from agent_gym.trajectory import Turn

    rng = random.Random(seed)
    made = Trajectory(task_id="made", id=f"made{seed}")
    for _ in range(2):
        made.append_context([rng.randrange(2, vocabulary) for _ in range(context)])
        start = len(made.token_ids)
        ids = [rng.randrange(2, vocabulary) for _ in range(action)]
        made.append_action(ids, [-rng.random() - 3 for _ in ids], [rng.random() for _ in ids])
        made.turns.append(Turn("o", "t", "a", start, start + action))
    made.turns[-1].reward = reward
    return made


def any_word(chat: Any) -> list[Trajectory]:
    """Return demonstrations of answering `WordEnv` with some word, right or wrong alike."""
    made = []
    for shown, said in itertools.product(WORDS, WORDS):
        demonstration = Trajectory(shown)
        demonstration.append_context(chat.begin(f"say {shown}"))
        answer = chat.answer(said)
        demonstration.append_action(answer, [0.0] * len(answer), [0.0] * len(answer))
        made.append(demonstration)
    return made
