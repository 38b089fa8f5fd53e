"""Entropies from a few tokens: never above the exact one, and close to it where the tail is short or flat."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_gym.engines.topk import estimated_entropy


def exact(logprobs: torch.Tensor) -> float:
    return float(-(logprobs.exp() * logprobs).sum())


def top(logits: torch.Tensor, k: int) -> tuple[list[float], float]:
    logprobs = logits.double().log_softmax(-1)
    named: list[float] = logprobs.topk(k).values.tolist()
    return named, exact(logprobs)


@given(st.integers(0, 1000), st.integers(1, 40), st.floats(0.1, 8))
def test_an_estimate_is_never_above_the_entropy_and_more_knowledge_never_lowers_it(
    seed: int, k: int, sharpness: float
) -> None:
    logits = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * sharpness
    named, entropy = top(logits, k)
    bucket, bounded = estimated_entropy(named), estimated_entropy(named, named[-1])
    assert bucket + 1e-9 >= 0
    assert bucket <= bounded + 1e-9
    assert bounded <= entropy + 1e-6


def test_a_flat_distribution_is_exact_where_the_tail_is_known_to_be_no_steeper() -> None:
    named, entropy = top(torch.zeros(5000), 20)
    assert estimated_entropy(named, named[-1]) == pytest.approx(entropy)
    assert estimated_entropy(named) < 0.1


def test_all_tokens_named_give_the_entropy() -> None:
    named, entropy = top(torch.arange(8.0), 8)
    assert estimated_entropy(named, named[-1]) == pytest.approx(entropy)


def test_a_token_that_is_sure_has_no_entropy() -> None:
    assert estimated_entropy([0.0]) == 0
    assert estimated_entropy([math.log(0.5)]) == pytest.approx(math.log(2))
