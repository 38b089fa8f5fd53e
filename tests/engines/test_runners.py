"""Both runners give the model's own logits, whatever mixture of prompts and single tokens they read."""

import random
from typing import Any

import pytest
import torch
from helpers import seeded, small_gpt2, small_llama, small_qwen3
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from agent_gym.engines.runners import Row, SequentialRunner, SlotRunner

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def small_mistral() -> Any:
    return seeded(MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=4), 0)


def small_gemma2() -> Any:
    return seeded(Gemma2ForCausalLM, Gemma2Config(**SHAPE, head_dim=8, sliding_window=4), 0)


def small_mamba() -> Any:
    config = MambaConfig(vocab_size=64, hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=0.2)
    return seeded(MambaForCausalLM, config, 0)


PACKED = [small_llama, small_qwen3, small_gpt2]
UNPACKED = [small_mistral, small_gemma2, small_mamba]


@torch.no_grad()
def own_logits(model: Any, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits


@torch.no_grad()
def converse(runner: Any, model: Any, seed: int, *, steps: int = 30) -> None:
    """Open, extend, fork and close conversations in random order; compare every logit with the model's own."""
    rng = random.Random(seed)
    live: list[tuple[list[int], Any]] = []
    seen: list[tuple[list[int], torch.Tensor]] = []

    def tokens(most: int) -> list[int]:
        return [rng.randrange(64) for _ in range(rng.randint(1, most))]

    for _ in range(steps):
        if live and rng.random() < 0.3:
            runner.free(live.pop(rng.randrange(len(live)))[1])
        if live and rng.random() < 0.3:
            ids, state = rng.choice(live)
            cut = rng.choice([len(ids), rng.randint(1, len(ids))])
            live.append((ids[:cut], runner.fork(state, cut)))
        chosen = rng.sample(range(len(live)), k=rng.randint(0, len(live)))
        rows = [Row(live[i][1], len(live[i][0]), tokens(rng.choice([1, 1, 6]))) for i in chosen]
        fresh = [tokens(8)] * rng.choice([0, 1, 3]) or ([tokens(8)] if not rows else [])
        rows += [Row(None, 0, list(ids)) for ids in fresh]
        rng.shuffle(order := list(range(len(rows))))
        logits = runner.forward([rows[i] for i in order])
        for place, i in enumerate(order):
            before = live[chosen[i]][0] if i < len(chosen) else []
            seen.append((before + rows[i].new_ids, logits[place]))
        for i, row in zip(chosen, rows, strict=False):
            live[i] = (live[i][0] + row.new_ids, row.state)
        live += [(list(row.new_ids), row.state) for row in rows[len(chosen) :]]
    compare(model, seen)


@torch.no_grad()
def compare(model: Any, seen: list[tuple[list[int], torch.Tensor]]) -> None:
    """Compare logits after conversations with the model's own, which reads each to its end once."""
    longest: list[int] = []
    # What goes on from others comes before them.
    for ids, logits in sorted(seen, key=lambda each: each[0], reverse=True):
        if longest[: len(ids)] != ids:
            longest, own = ids, model(input_ids=torch.tensor([ids])).logits[0]
        torch.testing.assert_close(logits, own[len(ids) - 1], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("make", PACKED)
@pytest.mark.parametrize("seed", range(3))
def test_packed_conversations_get_the_models_own_logits(make: Any, seed: int) -> None:
    model = make()
    converse(SlotRunner(model), model, seed)


@pytest.mark.parametrize("make", [*PACKED, *UNPACKED])
def test_sequential_conversations_get_the_models_own_logits(make: Any) -> None:
    model = make()
    converse(SequentialRunner(model), model, seed=0, steps=12)


@pytest.mark.parametrize("make", PACKED)
def test_the_probe_finds_packing_right(make: Any) -> None:
    difference = SlotRunner(make()).difference_from_model()
    assert difference is not None and difference < 1e-4


@pytest.mark.parametrize("make", UNPACKED)
def test_the_probe_finds_that_windows_soft_caps_and_state_spaces_cannot_be_packed(make: Any) -> None:
    model = make().train()
    difference = SlotRunner(model).difference_from_model()
    assert difference is None or difference > 1e-3
    assert model.training


def test_the_probe_leaves_the_models_attention_as_it_was() -> None:
    model = small_llama()
    before = model.config._attn_implementation
    SlotRunner(model).difference_from_model()
    assert model.config._attn_implementation == before


@torch.no_grad()
def test_identical_prompts_are_read_once() -> None:
    model = small_llama()
    widths: list[int] = []
    model.register_forward_pre_hook(lambda m, a, k: widths.append(k["input_ids"].shape[1]), with_kwargs=True)
    runner = SlotRunner(model)
    prompt, other = [3, 4, 5, 6, 7], [3, 4, 5, 6]
    rows = [Row(None, 0, list(prompt)), Row(None, 0, list(other)), Row(None, 0, list(prompt)), Row(None, 0, [9])]
    logits = runner.forward(rows)
    assert widths == [10]
    for row, logit in zip(rows, logits, strict=True):
        torch.testing.assert_close(logit, own_logits(model, row.new_ids), atol=1e-4, rtol=1e-3)
    followed = runner.forward([Row(row.state, len(row.new_ids), [index + 20]) for index, row in enumerate(rows)])
    for index, row in enumerate(rows):
        expected = own_logits(model, [*row.new_ids, index + 20])
        torch.testing.assert_close(followed[index], expected, atol=1e-4, rtol=1e-3)


def test_slots_stay_dense_when_they_are_freed_in_any_order() -> None:
    runner = SlotRunner(small_llama())
    with torch.no_grad():
        rows = [Row(None, 0, [number, number + 1]) for number in range(6)]
        runner.forward(rows)
    for index in (0, 4, 1):
        runner.free(rows[index].state)
    kept = [rows[index].state.index for index in (2, 3, 5)]
    assert sorted(kept) == [0, 1, 2] and len(runner._slots) == 3
    assert all(runner._slots[slot.index] is slot for slot in runner._slots)
