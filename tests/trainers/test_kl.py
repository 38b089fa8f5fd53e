"""Divergence from a reference, and entropies: the official numbers, and what must always hold."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from base_rows import START, filled, groups, learner, same, trained
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agent_gym.errors import ConfigError, TrainingError, UnknownIdError
from agent_gym.trainers.dapo import dapo
from agent_gym.trainers.dr_grpo import dr_grpo
from agent_gym.trainers.gigpo import gigpo
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.kl import PenalisedRewards, ReferenceKL
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.policy_loss import kl
from agent_gym.trainers.ppo import ppo
from agent_gym.trainers.reinforce import reinforce_plus_plus
from agent_gym.trainers.rloo import rloo
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.update import UpdateSettings

OFFICIAL = golden("verl_kl_value_entropy")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.mark.parametrize("case", OFFICIAL["kl"]["cases"], ids=lambda case: case["kind"])
def test_official_estimates(case: dict[str, Any]) -> None:
    logprobs, reference = (torch.tensor(OFFICIAL["kl"][name]) for name in ("logprob", "ref_logprob"))
    torch.testing.assert_close(kl(logprobs, reference, case["kind"]), torch.tensor(case["kld"]), **CLOSE)


class Fixed(nn.Module):
    """A model whose logits (B, T, V) are given."""

    config = SimpleNamespace()

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


def test_the_term_is_its_coefficient_times_the_estimate_and_sees_no_padding() -> None:
    batch = filled(grpo(kl_coefficient=0.5), groups())
    term = ReferenceKL(0.5, "k2")
    kept = batch.mask.bool()
    logprobs = torch.where(kept, batch.ref_logprobs - 1.0, torch.nan).requires_grad_()
    losses = term(batch, logprobs, logprobs, START)
    torch.testing.assert_close(losses, 0.5 * 0.5 * batch.mask)
    [gradient] = torch.autograd.grad(losses.sum(), logprobs)
    torch.testing.assert_close(gradient, -0.5 * batch.mask)
    assert float(term.metrics(batch, logprobs.detach(), logprobs)["kl_reference"]) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("whose", ["policy", "reference"])
def test_numbers_that_are_not_finite_are_refused_where_the_estimators_bounds_would_hide_them(
    bad: float, whose: str
) -> None:
    batch = filled(grpo(kl_coefficient=0.5), groups())
    logprobs = batch.ref_logprobs.clone()
    (batch.ref_logprobs if whose == "reference" else logprobs)[batch.mask.bool()] = bad
    with pytest.raises(TrainingError, match=f"A {'reference ' * (whose == 'reference')}log-probability is not finite"):
        ReferenceKL(0.5)(batch, logprobs, logprobs, START)


def test_without_a_coefficient_there_is_no_term_and_no_reference() -> None:
    base = grpo(kl_coefficient=0.0, kl_estimator="k1")
    assert base == grpo() and not base.needs_reference
    assert same(trained(base, groups()), trained(grpo(), groups()))
    assert grpo(kl_coefficient=0.1).needs_reference


def test_the_penalty_holds_the_policy_back() -> None:
    """The first step is where the reference is: its gradient is 0; from the second on it pulls."""
    distances = []
    for coefficient in (1e-9, 5.0):
        own = learner(grpo(kl_coefficient=coefficient))
        for _ in range(3):
            metrics = own.learn(groups(), START)
        distances.append(metrics["kl_reference"])
    assert 0 < distances[1] < 0.5 * distances[0]


@pytest.mark.parametrize("window", [False, True], ids=["trajectories", "turns"])
def test_on_the_reward_each_token_pays_and_the_trajectory_their_sum(window: bool) -> None:
    made = groups(window=window)
    plain, batch = filled(grpo(), made), filled(grpo(kl_coefficient=0.5, kl_estimator="k1", kl_on="reward"), made)
    penalties = 0.5 * (batch.old_logprobs - batch.ref_logprobs) * batch.mask
    assert (penalties[batch.mask.bool()] != 0).all()
    torch.testing.assert_close(batch.token_rewards, plain.token_rewards - penalties)
    for number in batch.trajectories.unique():
        rows = batch.trajectories == number
        expected = plain.rewards[rows] - penalties[rows].sum()
        torch.testing.assert_close(batch.rewards[rows], expected)
        torch.testing.assert_close(batch.token_rewards[rows].sum(), batch.rewards[rows][0])
    [stage] = grpo().advantages
    torch.testing.assert_close(batch.advantages, stage(batch, batch.advantages))
    assert grpo(kl_on="reward") == grpo()


@pytest.mark.parametrize("base", [dapo, dr_grpo, gigpo, ppo, reinforce_plus_plus, rloo])
def test_every_base_estimates_from_the_penalised_rewards(base: Any) -> None:
    algorithm = base(kl_coefficient=0.5, kl_estimator="k1", kl_on="reward")
    penalty, estimator = algorithm.advantages
    assert penalty == PenalisedRewards(0.5) and (estimator,) == base().advantages and algorithm.losses == base().losses
    batch = filled(algorithm, groups())
    assert not torch.allclose(batch.advantages, filled(base(), groups()).advantages)


def test_a_broken_reference_is_refused_before_it_spoils_rewards() -> None:
    batch = filled(grpo(kl_coefficient=1.0, kl_on="reward"), groups())
    batch.ref_logprobs[batch.mask.bool()] = float("inf")
    with pytest.raises(TrainingError, match="A reference log-probability is not finite"):
        PenalisedRewards(1.0)(batch, batch.advantages)


def test_a_negative_coefficient_and_a_missing_reference_are_refused() -> None:
    with pytest.raises(ConfigError, match="kl_coefficient must be at least 0, not -1"):
        grpo(kl_coefficient=-1.0)
    with pytest.raises(UnknownIdError, match="KL estimator 'k4'"):
        grpo(kl_estimator="k4")  # type: ignore[arg-type]
    with pytest.raises(UnknownIdError, match="place of the KL penalty 'advantage'"):
        grpo(kl_on="advantage")  # type: ignore[arg-type]
    model = learner(grpo()).updater.scorer.model
    with pytest.raises(TrainingError, match="compares with a reference policy"):
        Learner(model, grpo(kl_coefficient=0.1), UpdateSettings())
