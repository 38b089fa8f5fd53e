"""Divergence from a reference, and entropies: the official numbers, and what must always hold."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agent_gym.errors import UnknownIdError
from agent_gym.trainers.policy_loss import kl
from agent_gym.trainers.scorer import TokenScorer

OFFICIAL = golden("verl_kl_value_entropy")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.mark.parametrize("case", OFFICIAL["kl"]["cases"], ids=lambda case: case["kind"])
def test_official_estimates(case: dict[str, Any]) -> None:
    logprobs, reference = (torch.tensor(OFFICIAL["kl"][name]) for name in ("logprob", "ref_logprob"))
    torch.testing.assert_close(kl(logprobs, reference, case["kind"]), torch.tensor(case["kld"]), **CLOSE)


class Fixed(nn.Module):
    """A model whose logits (B, T, V) are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def get_output_embeddings(self) -> None:
        return None

    def get_input_embeddings(self) -> SimpleNamespace:
        return SimpleNamespace(weight=torch.zeros(self.logits.shape[-1], 1))

    def forward(self, input_ids: torch.Tensor, **arguments: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


def test_official_entropies() -> None:
    logits = torch.tensor(OFFICIAL["entropy"]["logits"])
    rows, width, _ = logits.shape
    # The logits before a token are those of the position before it.
    mask = torch.ones(rows, width + 1)
    mask[:, 0] = 0
    scorer = TokenScorer(Fixed(logits))  # type: ignore[arg-type]
    _, entropies = scorer(torch.zeros(rows, width + 1, dtype=torch.long), mask)
    torch.testing.assert_close(entropies[:, 1:], torch.tensor(OFFICIAL["entropy"]["entropy"]), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(ours=st.floats(-8, 0), theirs=st.floats(-8, 0))
def test_estimates_are_0_where_nothing_differs_and_k3_is_never_negative(ours: float, theirs: float) -> None:
    here, there = torch.tensor([[ours]]), torch.tensor([[theirs]])
    for estimator in ("k1", "abs", "k2", "k3"):
        assert kl(here, here, estimator).tolist() == [[0.0]]
    for estimator in ("abs", "k2", "k3"):
        assert float(kl(here, there, estimator)) >= -1e-6
    assert float(kl(here, there, "k1")) == -float(kl(there, here, "k1"))


def test_k3_is_unbiased_and_its_gradient_pulls_towards_the_reference() -> None:
    ours, reference = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    exact = (ours.exp() * (ours - reference)).sum()
    for estimator in ("k1", "k3"):
        torch.testing.assert_close((ours.exp() * kl(ours, reference, estimator)).sum(), exact)
    logprobs = ours.clone().requires_grad_()
    [gradient] = torch.autograd.grad(kl(logprobs, reference, "k3").sum(), logprobs)
    assert torch.equal(gradient.sign(), (ours - reference).sign())


def test_far_away_k3_is_bounded_and_without_gradient() -> None:
    logprobs = torch.tensor([-60.0, 60.0]).requires_grad_()
    values = kl(logprobs, torch.zeros(2), "k3")
    [gradient] = torch.autograd.grad(values.sum(), logprobs)
    assert values.tolist() == [10.0, 10.0] and gradient.tolist() == [0.0, 0.0]


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'k3'"):
        kl(torch.zeros(1), torch.zeros(1), "k33")  # type: ignore[arg-type]
