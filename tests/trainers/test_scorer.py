"""Log-probabilities and entropies of given tokens: the plain computation, in whatever way they are computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import seeded, small_gpt2, small_llama, small_qwen3
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from agent_gym.trainers import scorer as scorer_module
from agent_gym.trainers.scorer import TokenScorer


def small_scaled() -> Any:
    """A model whose logits are not those of its output layer alone (Gemma2 caps them)."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.5,
        final_logit_softcapping=2.0,
    )
    return seeded(Gemma2ForCausalLM, config, 0)


def batch() -> tuple[Tensor, Tensor]:
    """Return ids (3, 12) and a mask with holes, padding and an empty row."""
    ids = torch.randint(2, 64, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 12)
    mask[0, [1, 4, 5, 6, 11]] = 1
    mask[1, [3, 4]] = 1
    ids[1, 8:] = 0
    return ids, mask


def plain(model: Any, ids: Tensor, mask: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return what the scorer should, from all logits at once."""
    distribution = (model(input_ids=ids).logits[:, :-1] / temperature).log_softmax(-1)
    logprobs = distribution.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    entropies = -(distribution.exp() * distribution).sum(-1)
    pad = torch.nn.functional.pad
    return pad(logprobs, (1, 0)) * mask, pad(entropies, (1, 0)) * mask


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    return [g for g in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) if g is not None]


@pytest.mark.parametrize("make", [small_llama, small_qwen3, small_gpt2, small_scaled])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [None, 64 * 2])
def test_scores_and_gradients_equal_the_plain_computation(
    make: Callable[[], Any], temperature: float, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk:
        monkeypatch.setattr(scorer_module, "CHUNK_ELEMENTS", chunk)
    model, (ids, mask) = make(), batch()
    scorer = TokenScorer(model, temperature=temperature)
    logprobs, entropies = scorer(ids, mask, True)
    expected = plain(model, ids, mask, temperature)
    torch.testing.assert_close(logprobs, expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(entropies, expected[1], atol=1e-5, rtol=1e-4)
    mine = gradients(model, (logprobs * 2 + entropies).sum())
    theirs = gradients(model, (expected[0] * 2 + expected[1]).sum())
    assert len(mine) == len(theirs)
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_models_that_split_are_told_from_those_that_do_not() -> None:
    for make, splits in ((small_llama, True), (small_qwen3, True), (small_gpt2, True), (small_scaled, False)):
        model = make().train()
        assert TokenScorer(model).splits is splits
        assert model.training


def test_only_masked_positions_reach_the_output_layer() -> None:
    model, (ids, mask) = small_llama(), batch()
    scorer, rows = TokenScorer(model), []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].shape[0]))
    scorer(ids, mask)
    assert rows == [7]


def test_the_entropy_has_no_gradient_unless_asked_for() -> None:
    model, (ids, mask) = small_llama(), batch()
    scorer = TokenScorer(model)
    logprobs, entropies = scorer(ids, mask)
    assert logprobs.requires_grad and not entropies.requires_grad
    with torch.no_grad():
        assert not scorer(ids, mask, True)[1].requires_grad


def test_rows_and_padding_beside_a_row_change_nothing() -> None:
    model, (ids, mask) = small_llama(), batch()
    scorer = TokenScorer(model)
    together = scorer(ids, mask)[0]
    for row, length in ((0, 12), (1, 8)):
        alone = scorer(ids[row : row + 1, :length], mask[row : row + 1, :length])[0]
        torch.testing.assert_close(alone[0], together[row, :length], atol=1e-5, rtol=1e-5)
    other = torch.where(torch.arange(12) >= 8, 9, ids[1]).unsqueeze(0)
    torch.testing.assert_close(scorer(other, mask[1:2])[0][0], together[1], atol=1e-6, rtol=1e-5)


def test_an_empty_mask_scores_nothing() -> None:
    ids, mask = batch()
    logprobs, entropies = TokenScorer(small_llama())(ids, mask * 0)
    assert (logprobs == 0).all() and (entropies == 0).all()


def test_a_temperature_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        TokenScorer(small_llama(), temperature=0.0)


def test_tied_and_untied_output_layers_split() -> None:
    for tied in (True, False):
        config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64, tie_word_embeddings=tied)
        assert TokenScorer(seeded(GPT2LMHeadModel, config, 0)).splits
