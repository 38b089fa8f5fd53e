"""The critic's loss: the official numbers, and what must always hold."""

import pytest
import torch
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import TrainingError
from agent_gym.trainers.policy_loss import aggregate
from agent_gym.trainers.value_loss import value_loss, value_metrics

OFFICIAL = golden("verl_kl_value_entropy")["value_loss"]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def inputs() -> tuple[torch.Tensor, ...]:
    """Return values, old values, returns and mask, (B, T) each."""
    return tuple(torch.tensor(OFFICIAL[name]) for name in ("vpreds", "values", "returns", "response_mask"))


def test_official_numbers_of_both_versions() -> None:
    arguments = inputs()
    clip = OFFICIAL["cliprange_value"]
    loss = aggregate(value_loss(*arguments, clip=clip), arguments[3], "token-mean")
    torch.testing.assert_close(float(loss), OFFICIAL["loss"], **CLOSE)
    older = aggregate(value_loss(*arguments, clip=clip, factor=1.0), arguments[3], "token-mean")
    torch.testing.assert_close(float(older), 2 * OFFICIAL["loss"], **CLOSE)
    metrics = value_metrics(*arguments, clip=clip)
    torch.testing.assert_close(float(metrics["value_clip_fraction"]), OFFICIAL["clipfrac"], **CLOSE)
    kept = arguments[3].bool()
    errors = (arguments[0] - arguments[2])[kept] ** 2
    torch.testing.assert_close(metrics["value_error"], errors.mean(), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(value=st.floats(-3, 3), old=st.floats(-3, 3), target=st.floats(-3, 3))
def test_the_loss_is_never_below_the_plain_one_and_is_it_without_a_bound(
    value: float, old: float, target: float
) -> None:
    tensors = [torch.tensor([[each]]) for each in (value, old, target)]
    plain = 0.5 * (tensors[0] - tensors[2]) ** 2
    mask = torch.ones(1, 1)
    assert torch.equal(value_loss(*tensors, mask, clip=float("inf")), plain)
    assert bool((value_loss(*tensors, mask, clip=0.5) >= plain).all())


def test_a_value_that_left_its_bounds_towards_the_target_gets_no_more_gradient() -> None:
    values = torch.tensor([[0.6, 0.4, -0.6]]).requires_grad_()
    losses = value_loss(values, torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3))
    [gradient] = torch.autograd.grad(losses.sum(), values)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.6, -1.6]]))


def test_masked_positions_never_matter_and_what_is_not_finite_is_refused() -> None:
    values, old, returns, mask = inputs()
    rubbish = [torch.where(mask.bool(), each, torch.nan) for each in (values, old, returns)]
    rubbish[0].requires_grad_()
    losses = value_loss(*rubbish, mask)
    assert torch.equal(losses, value_loss(values, old, returns, mask) * mask)
    [gradient] = torch.autograd.grad(losses.sum(), rubbish[0])
    assert torch.isfinite(gradient).all() and (gradient[mask == 0] == 0).all()
    fine, broken = torch.zeros(1, 1), torch.full((1, 1), torch.inf)
    with pytest.raises(TrainingError, match="A value is not finite"):
        value_loss(broken, fine, fine, torch.ones(1, 1))
    with pytest.raises(TrainingError, match="A return is not finite"):
        value_loss(fine, fine, broken, torch.ones(1, 1))
