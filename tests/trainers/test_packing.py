"""Rows laid end to end: the scores and gradients of rows that are padded, from fewer tokens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import small_gpt2, small_llama, small_mamba, small_mistral, small_qwen3, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from agent_gym.engines.attention import register_attention
from agent_gym.errors import TrainingError
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.batch import make_batch
from agent_gym.trainers.micro_batches import end_to_end
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.update import Updater, UpdateSettings


def rows(seed: int, count: int = 5, width: int = 14) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids (B, T), mask and lengths; some rows are short, some have nothing to score."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 64, (count, width), generator=generator)
    lengths = torch.randint(1, width + 1, (count,), generator=generator)
    mask = (torch.rand(count, width, generator=generator) < 0.4) & (torch.arange(width) < lengths.unsqueeze(1))
    mask[:, 0] = False
    return ids, mask.float(), lengths


def assert_packing_changes_nothing(model: Any, ids: Tensor, mask: Tensor, lengths: Tensor) -> None:
    found = []
    for pack in ("off", "on"):
        scorer = TokenScorer(model, temperature=0.8, pack=pack)  # type: ignore[arg-type]
        assert scorer.packs is (pack == "on")
        logprobs, entropies = scorer(ids, mask, True, None, lengths)
        loss = (logprobs + 0.5 * entropies).sum() / mask.sum().clamp(min=1)
        found.append((logprobs, entropies, *torch.autograd.grad(loss, list(model.parameters()))))
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [small_llama, small_qwen3, small_mistral, lambda: small_gpt2(dropout=0.0)])
def test_scores_and_gradients_are_those_of_padded_rows(make: Callable[[], Any], attention: str) -> None:
    model = make()
    model.set_attn_implementation(attention)
    assert_packing_changes_nothing(model, *rows(3))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_rows_of_any_lengths_are_packed(seed: int, count: int) -> None:
    assert_packing_changes_nothing(small_llama(), *rows(seed, count))


def test_only_what_is_needed_goes_through_the_model() -> None:
    model, through = small_llama(), []
    scorer = TokenScorer(model, pack="on")
    model.model.embed_tokens.register_forward_pre_hook(lambda module, inputs: through.append(inputs[0].tolist()))
    ids = torch.tensor([[5, 6, 7, 8], [9, 3, 0, 0], [4, 4, 4, 4]])
    mask = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).float()
    scorer(ids, mask)
    assert through == [[[5, 6, 7, 9, 3, 4]]]


def test_activations_can_be_computed_again_in_packed_rows() -> None:
    model, (ids, mask, lengths) = small_llama(), rows(1)
    scorer = TokenScorer(model, pack="on")
    found = []
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        scorer.train()
        found.append(torch.autograd.grad(scorer(ids, mask, False, None, lengths)[0].sum(), list(model.parameters())))
    for kept, computed in zip(*found, strict=True):
        torch.testing.assert_close(computed, kept)


def varlen_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend as flash-attention does: within the bounds that it is told, and over the whole row without any."""
    bounds = kwargs.get("cu_seq_lens_q")
    sizes = [query.shape[2]] if bounds is None else bounds.diff().tolist()
    if bounds is not None:
        assert bounds.dtype == torch.int32 and kwargs["max_length_k"] == kwargs["max_length_q"] == max(sizes)
    parts = zip(*(tensor.split(sizes, 2) for tensor in (query, key, value)), strict=True)
    attended = [scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True) for part in parts]
    return torch.cat(attended, 2).transpose(1, 2), None


def test_auto_packs_where_flash_attention_is_and_says_outright_where_rows_begin() -> None:
    """flash-attention does not run here; what stands in for it is told the same."""
    model, (ids, mask, lengths) = small_llama(), rows(2)
    assert not TokenScorer(model, pack="auto").packs
    expected = TokenScorer(model)(ids, mask, False, None, lengths)[0]
    register_attention("flash_stand_in", varlen_attention)
    model.config._attn_implementation = "flash_stand_in"
    scorer = TokenScorer(model, pack="auto")
    assert scorer.packs and not TokenScorer(model, pack="off").packs
    torch.testing.assert_close(scorer(ids, mask, False, None, lengths)[0], expected, atol=1e-5, rtol=1e-5)


def test_a_model_whose_state_runs_on_cannot_be_packed() -> None:
    model = small_mamba()
    with pytest.raises(TrainingError, match=r"update\.pack=off"):
        TokenScorer(model, pack="on")
    assert not TokenScorer(model, pack="auto").packs


def test_packing_and_shared_prefixes_are_not_asked_for_together() -> None:
    with pytest.raises(TrainingError, match="share_prefixes"):
        TokenScorer(small_llama(), pack="on", share_prefixes=True)
    assert not TokenScorer(small_llama(), pack="auto", share_prefixes=True).packs


def test_packed_micro_batches_hold_as_many_tokens_as_they_may() -> None:
    lengths = torch.tensor([4, 3, 9, 1, 2, 2])
    parts = [part.tolist() for part in end_to_end(lengths, torch.arange(6), 7)]
    assert parts == [[0, 1], [2], [3, 4, 5]]
    assert not list(end_to_end(lengths, torch.arange(0), 7))


def test_an_update_of_packed_rows_is_that_of_padded_ones() -> None:
    played = [trajectory(2 + 2 * seed, 3 + seed, seed=seed, reward=float(seed % 2)) for seed in range(6)]
    found = []
    for pack in ("off", "on"):
        model, algorithm = small_llama(), make_algorithm("grpo", {})
        batch = make_batch(played, [t.reward for t in played], [0, 0, 0, 1, 1, 1])
        algorithm.fill(batch)
        updater = Updater(model, UpdateSettings(learning_rate=1e-3, micro_batch_tokens=30, pack=pack))  # type: ignore[arg-type]
        metrics = updater.step(batch, algorithm, Progress(0, 1), seed=0)
        found.append((metrics, [parameter.detach() for parameter in model.parameters()]))
    (padded, before), (packed, after) = found
    assert packed == pytest.approx(padded, rel=1e-4, abs=1e-6) and padded["grad_norm"] > 0
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
