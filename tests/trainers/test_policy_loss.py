"""Clipped losses and their aggregation: the official numbers, gradients included, and what must always hold."""

from typing import Any, get_args

import pytest
import torch
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agent_gym.errors import UnknownIdError
from agent_gym.trainers.policy_loss import Aggregation, aggregate, clip_metrics, clipped, token_weights

VANILLA = golden("verl_policy_loss_vanilla")
AGGREGATIONS = golden("verl_agg_loss")["cases"]
MODES = get_args(Aggregation)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def vanilla_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log-probabilities, old ones, advantages and mask; each (B, T)."""
    given_ = VANILLA["inputs"]
    names = ("log_prob", "old_log_prob", "advantages", "response_mask")
    return tuple(torch.tensor(given_[name]) for name in names)  # type: ignore[return-value]


def clip_arguments(case: dict[str, Any]) -> dict[str, float]:
    config = case["config"]
    return {
        "clip_low": config["clip_ratio_low"],
        "clip_high": config["clip_ratio_high"],
        "dual_clip": config["clip_ratio_c"],
    }


def case_name(case: dict[str, Any]) -> str:
    config = case["config"]
    return f"{config['clip_ratio_high']}-{config['clip_ratio_c']}-{case['loss_agg_mode']}"


@pytest.mark.parametrize("case", VANILLA["cases"], ids=case_name)
def test_official_loss_metrics_and_gradient(case: dict[str, Any]) -> None:
    logprobs, old, advantages, mask = vanilla_inputs()
    logprobs.requires_grad_()
    losses = clipped(logprobs, old, advantages, mask, **clip_arguments(case))
    loss = aggregate(losses, mask, case["loss_agg_mode"])
    torch.testing.assert_close(float(loss.detach()), case["loss"], **CLOSE)
    loss.backward()
    if case["grad_log_prob"] is not None:
        assert logprobs.grad is not None
        torch.testing.assert_close(logprobs.grad, torch.tensor(case["grad_log_prob"]), **CLOSE)
    metrics = clip_metrics(logprobs.detach(), old, advantages, mask, **clip_arguments(case))
    official = case["metrics"]
    torch.testing.assert_close(float(metrics["clip_fraction"]), official["actor/pg_clipfrac"], **CLOSE)
    torch.testing.assert_close(float(metrics["dual_clip_fraction"]), official["actor/pg_clipfrac_lower"], **CLOSE)
    torch.testing.assert_close(float(metrics["kl"]), official["actor/ppo_kl"], **CLOSE)


def aggregation_name(case: dict[str, Any]) -> str:
    return f"{case['impl'][:5]}-{case['name']}-{case['loss_agg_mode']}-{case.get('loss_scale_factor')}"


DIFFERENT = [
    case
    for case in AGGREGATIONS
    if case["impl"].startswith("older")
    and case["name"] == "row2_fully_masked"
    and case["loss_agg_mode"] in ("seq-mean-token-sum", "seq-mean-token-mean")
]
"""Cases where ours deliberately differs from the older official copy."""


@pytest.mark.parametrize("case", [case for case in AGGREGATIONS if case not in DIFFERENT], ids=aggregation_name)
def test_official_aggregations(case: dict[str, Any]) -> None:
    ours = aggregate(
        torch.tensor(case["loss_mat"]),
        torch.tensor(case["loss_mask"]),
        case["loss_agg_mode"],
        scale=case.get("loss_scale_factor"),
    )
    torch.testing.assert_close(float(ours), case["loss"], **CLOSE)


def test_a_row_without_tokens_does_not_count_where_the_older_official_copy_counts_it_or_gives_nan() -> None:
    total, mean = DIFFERENT
    values, mask = torch.tensor(total["loss_mat"]), torch.tensor(total["loss_mask"])
    rows = len(mask)
    ours = float(aggregate(values, mask, "seq-mean-token-sum"))
    assert ours == pytest.approx(total["loss"] * rows / (rows - 1), rel=1e-4)
    assert mean["loss"] == "nan" and torch.isfinite(aggregate(values, mask, "seq-mean-token-mean"))


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[int]]:
    """Return values (B, T), a mask (B, T) and the sizes of parts that make B rows."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    rows, width = sum(sizes), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    mask = (torch.rand(rows, width, generator=generator) < draw(st.sampled_from([0.2, 0.7, 1.0]))).float()
    return torch.randn(rows, width, generator=generator), mask, sizes


@settings(max_examples=60, deadline=None)
@given(batch=batches(), mode=st.sampled_from(MODES), scale=st.sampled_from([None, 20.0]))
def test_parts_weighted_by_the_token_weights_of_the_whole_make_up_the_whole(
    batch: tuple[Tensor, Tensor, list[int]], mode: Aggregation, scale: float | None
) -> None:
    values, mask, sizes = batch
    whole = aggregate(values, mask, mode, scale=scale)
    weights, total = token_weights(mask, mode, scale=scale)
    parts = torch.zeros(())
    for part, weight in zip(values.split(sizes), weights.split(sizes), strict=True):
        parts = parts + (part * weight).sum() / total
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_the_turn_mean_counts_every_turn_of_a_trajectory_and_every_trajectory_the_same() -> None:
    values = torch.tensor([[1.0, 3.0, 10.0, 0.0], [5.0, 0.0, 0.0, 0.0], [7.0, 7.0, 7.0, 9.0]])
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    turns = torch.tensor([[0, 0, 1, -1], [0, -1, -1, -1], [1, 1, 1, 1]])
    # One trajectory of a row with turns {1, 3} and {10}; one of two rows, a turn each.
    expected = ((2.0 + 10.0) / 2 + (5.0 + 7.5) / 2) / 2
    found = aggregate(values, mask, "turn-mean", turns=turns, trajectories=torch.tensor([0, 1, 1]))
    assert float(found) == pytest.approx(expected)
    assert float(aggregate(values, mask, "turn-mean")) == pytest.approx((14 / 3 + 5 + 7.5) / 3)


@settings(max_examples=30, deadline=None)
@given(batch=batches(), mode=st.sampled_from(MODES))
def test_masked_positions_never_matter_whatever_stands_there(
    batch: tuple[Tensor, Tensor, list[int]], mode: Aggregation
) -> None:
    values, mask, _ = batch
    results = []
    for rubbish in (0.0, float("nan"), float("inf")):
        spoilt = [torch.where(mask.bool(), part, rubbish) for part in (values, values / 2 - 1, values * 3)]
        logprobs, old, advantages = spoilt
        logprobs.requires_grad_()
        losses = clipped(logprobs, old, advantages, mask)
        loss = aggregate(losses, mask, mode)
        loss.backward()
        metrics = clip_metrics(logprobs.detach(), old, advantages, mask)
        results.append((loss.detach(), logprobs.grad, losses.detach(), *metrics.values()))
        raw = aggregate(spoilt[0].detach(), mask, mode)
        assert torch.isfinite(raw)
    for other in results[1:]:
        for mine, first in zip(other, results[0], strict=True):
            assert mine is not None and first is not None and torch.equal(mine, first)


def test_clip_higher_lets_good_tokens_grow_further() -> None:
    logprobs = torch.tensor([[0.25]]).requires_grad_()
    arguments = (torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    for clip_high, gradient in ((0.2, 0.0), (0.5, -(2.718281828**0.25))):
        [grad] = torch.autograd.grad(clipped(logprobs, *arguments, clip_high=clip_high).sum(), logprobs)
        assert float(grad) == pytest.approx(gradient)


def test_one_broken_token_cannot_make_the_ratio_infinite() -> None:
    logprobs, old = torch.zeros(1, 2), torch.tensor([[-1e9, 0.0]])
    losses = clipped(logprobs, old, -torch.ones(1, 2), torch.ones(1, 2))
    assert torch.isfinite(losses).all() and float(losses[0, 0]) == 3.0


def test_an_empty_mask_gives_0_and_no_nan() -> None:
    for mode in MODES:
        assert float(aggregate(torch.ones(2, 3), torch.zeros(2, 3), mode)) == 0.0
    values = torch.zeros(2, 3)
    assert all(float(value) == 0.0 for value in clip_metrics(values, values, values, values).values())


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'token-mean'"):
        aggregate(torch.ones(1, 1), torch.ones(1, 1), "token_mean")  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    batch=batches(),
    mode=st.sampled_from(MODES),
    clip=st.sampled_from([(0.2, 0.2, 3.0), (0.2, 0.28, 10.0), (0.1, 0.1, 1.5), (1.0, 1.0, float("inf"))]),
)
def test_on_policy_every_clip_setting_gives_the_plain_policy_gradient(
    batch: tuple[Tensor, Tensor, list[int]], mode: Aggregation, clip: tuple[float, float, float]
) -> None:
    advantages, mask, _ = batch
    old = -advantages.abs()
    logprobs = old.clone().requires_grad_()
    numbers = dict(zip(("clip_low", "clip_high", "dual_clip"), clip, strict=True))
    loss = aggregate(clipped(logprobs, old, advantages, mask, **numbers), mask, mode)
    weights, total = token_weights(mask, mode)
    torch.testing.assert_close(loss.detach(), -aggregate(advantages, mask, mode), **CLOSE)
    [gradient] = torch.autograd.grad(loss, logprobs)
    torch.testing.assert_close(gradient, -advantages * weights / total, **CLOSE)
    assert (gradient[mask == 0] == 0).all()


@settings(max_examples=40, deadline=None)
@given(batch=batches(), mode=st.sampled_from(MODES), extra=st.integers(1, 4))
def test_the_width_of_the_padding_does_not_matter(
    batch: tuple[Tensor, Tensor, list[int]], mode: Aggregation, extra: int
) -> None:
    values, mask, _ = batch
    padded, more = (torch.nn.functional.pad(each, (0, extra)) for each in (values + 1, mask))
    wide, narrow = aggregate(padded, more, mode, scale=20.0), aggregate(values + 1, mask, mode, scale=20.0)
    torch.testing.assert_close(wide, narrow, atol=1e-6, rtol=1e-5)
