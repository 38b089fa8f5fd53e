"""Scores without logits: the numbers and the gradients of the plain computation."""

from typing import Any

import pytest
import torch
from allocated import Peak
from helpers import small_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from agent_gym.engines.adapters import add_adapters
from agent_gym.sections import LoraSection
from agent_gym.trainers import fused
from agent_gym.trainers import scorer as scorer_module
from agent_gym.trainers.fused import can_fuse, token_scores
from agent_gym.trainers.scorer import TokenScorer


def inputs(
    seed: int = 0, *, tokens: int = 7, width: int = 5, vocabulary: int = 11, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states, weight and bias, all with gradient, and targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((tokens, width), (vocabulary, width), (vocabulary,))
    )
    return hidden, weight, bias, torch.randint(0, vocabulary, (tokens,), generator=generator)


def plain(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logs = (nn.functional.linear(hidden, weight, bias) / temperature).log_softmax(-1)
    return logs.gather(1, targets.unsqueeze(1)).squeeze(1), -(logs.exp() * logs).sum(-1)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_gradients_are_those_of_finite_differences(frozen: bool, entropy_gradient: bool, biased: bool) -> None:
    hidden, weight, bias, targets = inputs()
    if frozen:
        weight, bias = weight.detach(), bias.detach()

    def scores(hidden: Tensor, weight: Tensor, bias: Tensor) -> Any:
        found = token_scores(
            hidden,
            weight,
            bias if biased else None,
            targets,
            temperature=0.7,
            rows=3,
            entropy_gradient=entropy_gradient,
        )
        return found if entropy_gradient else found[0]

    assert torch.autograd.gradcheck(scores, (hidden, weight, bias))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 12), st.floats(0.3, 3.0), st.booleans())
def test_scores_and_gradients_equal_the_plain_computation(
    seed: int, tokens: int, rows: int, temperature: float, entropy_gradient: bool
) -> None:
    hidden, weight, bias, targets = inputs(seed, tokens=tokens)
    given_, expected = (
        token_scores(
            hidden, weight, bias, targets, temperature=temperature, rows=rows, entropy_gradient=entropy_gradient
        ),
        plain(hidden, weight, bias, targets, temperature),
    )
    torch.testing.assert_close(given_, expected)
    factors = torch.randn(2, tokens, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    share = factors[1] if entropy_gradient else torch.zeros(tokens, dtype=torch.float64)
    found = [
        torch.autograd.grad((factors[0] * logprobs + share * entropies).sum(), (hidden, weight, bias))
        for logprobs, entropies in (given_, expected)
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("frozen", [False, True])
def test_in_float32_the_error_is_that_of_float32(frozen: bool) -> None:
    hidden, weight, bias, targets = inputs(3, tokens=64, width=32, vocabulary=3000, dtype=torch.float32)
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in (hidden, weight, bias))
    if frozen:
        weight, bias = weight.detach(), bias.detach()
    mine = token_scores(hidden, weight, bias, targets, rows=10, entropy_gradient=True)
    right = plain(*exact, targets, 1.0)
    torch.testing.assert_close(mine[0].double(), right[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine[1].double(), right[1], atol=1e-5, rtol=1e-5)
    trained = [tensor for tensor in (hidden, weight, bias) if tensor.requires_grad]
    found = torch.autograd.grad((mine[0] + 0.3 * mine[1]).sum(), trained)
    expected = torch.autograd.grad((right[0] + 0.3 * right[1]).sum(), exact[: len(trained)])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
def test_in_bfloat16_the_softmax_is_float32_and_gradients_keep_their_type(
    frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The gradient of the weight is made in five blocks of the vocabulary.
    monkeypatch.setattr(fused, "BLOCK_ELEMENTS", 16 * 120)
    hidden, weight, _, targets = inputs(5, tokens=40, width=16, vocabulary=500, dtype=torch.bfloat16)
    exact = tuple(tensor.detach().float().requires_grad_() for tensor in (hidden, weight))
    if frozen:
        weight = weight.detach()
    logprobs, entropies = token_scores(hidden, weight, None, targets, rows=7, entropy_gradient=True)
    assert logprobs.dtype == entropies.dtype == torch.float32
    right = plain(*exact, None, targets, 1.0)
    assert (logprobs - right[0]).abs().mean() < 0.02 and (entropies - right[1]).abs().mean() < 0.02
    trained = [hidden] if frozen else [hidden, weight]
    found = torch.autograd.grad((logprobs + entropies).sum(), trained)
    expected = torch.autograd.grad((right[0] + right[1]).sum(), exact[: len(trained)])
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_in_bfloat16_nearly_certain_tokens_keep_their_gradient(frozen: bool, entropy_gradient: bool) -> None:
    """Most generated tokens are nearly certain, and what is left of their gradient is a small difference."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(2000, 64, generator=generator) * 0.1).bfloat16().requires_grad_(not frozen)
    targets = torch.randint(0, 2000, (64,), generator=generator)
    noise = torch.randn(64, 64, generator=generator) * 0.1
    hidden = (weight.detach()[targets].float() * 22 + noise).bfloat16().requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    right = plain(exact, weight.detach().double(), None, targets, 1.0)
    certain = right[0].exp() > 0.99
    assert certain.sum() > 30
    mine = token_scores(hidden, weight, None, targets, rows=16, entropy_gradient=entropy_gradient)
    share = 0.1 if entropy_gradient else 0.0
    (found,) = torch.autograd.grad((mine[0] + share * mine[1]).sum(), hidden)
    (expected,) = torch.autograd.grad((right[0] + share * right[1]).sum(), exact)
    errors = (found.double() - expected).norm(dim=1) / expected.norm(dim=1)
    assert errors[certain].median() < 0.04 and errors[certain].max() < 0.15


@pytest.mark.parametrize("frozen", [False, True])
def test_more_tokens_take_no_more_memory_than_their_hidden_states(
    frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the gradient of a weight of 16 bits takes little besides itself."""
    monkeypatch.setattr(fused, "BLOCK_ELEMENTS", 64 * 100)
    width, vocabulary, rows, most = 64, 4000, 4, []
    for tokens in (100, 500):
        hidden, weight, _, targets = inputs(tokens=tokens, width=width, vocabulary=vocabulary, dtype=torch.bfloat16)
        weight.requires_grad_(not frozen)
        with Peak() as peak:
            token_scores(hidden, weight, None, targets, rows=rows)[0].sum().backward()
        most.append(peak.most)
    # Sums of gradients in float32 and gradients of hidden states; what is kept of each token, in rows and together.
    assert most[1] - most[0] <= 400 * (width * (4 + 2) + 130)
    logits, gradient = rows * vocabulary * (2 + 4 + 4 + 2 + 2), 0 if frozen else 2 * weight.numel()
    assert most[0] <= gradient + logits + 6 * fused.BLOCK_ELEMENTS + 100 * (width * (4 + 2) + 130)


def test_under_autocast_products_are_in_its_type_and_gradients_in_that_of_the_weights() -> None:
    hidden, weight, _, targets = inputs(6, tokens=40, width=16, vocabulary=500, dtype=torch.float32)
    expected = token_scores(hidden.bfloat16(), weight.bfloat16(), None, targets, rows=7)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = token_scores(hidden, weight, None, targets, rows=7)[0]
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(found.sum(), (hidden, weight))
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 2


def test_without_gradient_nothing_is_kept() -> None:
    hidden, weight, bias, targets = inputs()
    with torch.no_grad():
        logprobs, _ = token_scores(hidden, weight, bias, targets)
    assert not logprobs.requires_grad
    logprobs, entropies = token_scores(hidden, weight, bias, targets)
    assert logprobs.requires_grad and not entropies.requires_grad


@pytest.mark.parametrize("lora", [False, True])
def test_a_large_vocabulary_is_scored_without_logits(lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output layer is never called, and gradients are those of the scorer that calls it."""
    model = small_llama()
    if lora:
        add_adapters(model, LoraSection(rank=2), base=None, seed=0)
    ids = torch.randint(0, 64, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 12)
    mask[:, 0] = 0
    calls: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    found = []
    for elements in (1 << 26, 64 * 5):
        monkeypatch.setattr(scorer_module, "CHUNK_ELEMENTS", elements)
        scorer = TokenScorer(model, temperature=0.8)
        calls.clear()
        logprobs, entropies = scorer(ids, mask, True)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found.append((logprobs, entropies, *torch.autograd.grad((logprobs + entropies).sum(), trained)))
        assert calls == ([1] if elements > 1000 else [])
    for direct, other in zip(*found, strict=True):
        torch.testing.assert_close(other, direct, atol=1e-5, rtol=1e-4)


def test_only_plain_linear_layers_are_fused() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    assert can_fuse(nn.Linear(3, 4)) and not can_fuse(Scaled(3, 4)) and not can_fuse(nn.Embedding(3, 4))
