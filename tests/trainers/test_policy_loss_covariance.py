"""Clip-Cov and KL-Cov: the official numbers of both repositories, gradients included, and what must always hold."""

from typing import Any

import pytest
import torch
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agent_gym.errors import TrainingError
from agent_gym.trainers.policy_loss import (
    aggregate,
    clip_cov,
    clip_cov_metrics,
    clip_metrics,
    clipped,
    covariance,
    kl_cov,
    kl_cov_metrics,
)

VERL, CLIP, KL, BOTH = (golden(name) for name in ("verl_clip_cov_kl_cov", "clip_cov", "kl_cov", "verl_cov_losses"))
BASELINE = golden("ppo_clip_agg_baseline")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FEW = settings(max_examples=40, deadline=None)


def inputs(file: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log-probabilities (which ask for gradient), old ones, advantages and mask; each (B, T)."""
    names = ("log_prob", "old_log_prob", "advantages", "response_mask")
    tensors = [torch.tensor(file["inputs"][name]) for name in names]
    return tensors[0].requires_grad_(), tensors[1], tensors[2], tensors[3]


def seeded(case: dict[str, Any]) -> torch.Generator:
    return torch.Generator().manual_seed(case["torch_manual_seed"])


def options(case: dict[str, Any]) -> dict[str, float]:
    """Return our options for a case of Clip-Cov of any of the files."""
    own = case | case.get("policy_loss", {})
    return {
        "ratio": own["clip_cov_ratio"],
        "low": own["clip_cov_lb"],
        "high": own["clip_cov_ub"],
        "clip_low": own.get("clip_ratio_low", own.get("cliprange_low")),
        "clip_high": own.get("clip_ratio_high", own.get("cliprange_high")),
    }


def name(case: dict[str, Any]) -> str:
    own = case | case.get("policy_loss", {})
    share = own.get("clip_cov_ratio", own.get("kl_cov_ratio", own.get("k_percent")))
    return f"{case['fn']}-{share}-{own.get('ppo_kl_coef', own.get('clip_cov_lb'))}-{case.get('loss_agg_mode')}"


def check(case: dict[str, Any], losses: Tensor, logprobs: Tensor, mask: Tensor) -> None:
    """Compare loss and gradient."""
    loss = aggregate(losses, mask, case.get("loss_agg_mode", "token-mean"))
    torch.testing.assert_close(float(loss.detach()), case["loss"], **CLOSE)
    [gradient] = torch.autograd.grad(loss, logprobs)
    torch.testing.assert_close(gradient, torch.tensor(case["grad_log_prob"]), **CLOSE)


@pytest.mark.parametrize("case", [case for case in VERL["cases"] if "clip_cov" in case["fn"]], ids=name)
def test_official_clip_cov(case: dict[str, Any]) -> None:
    logprobs, old, advantages, mask = inputs(VERL)
    arguments = (logprobs, old, advantages, mask)
    losses = clip_cov(*arguments, **options(case), generator=seeded(case))
    check(case, losses, logprobs, mask)
    kept = mask.bool()
    official = torch.tensor([[float(value) for value in row] for row in case["covariance"]])
    torch.testing.assert_close(covariance(logprobs, advantages, mask)[kept], official[kept], **CLOSE)
    metrics = clip_cov_metrics(logprobs.detach(), *arguments[1:], **options(case), generator=seeded(case))
    zeroed = torch.zeros_like(mask)
    for row, column in case["zeroed_token_positions"]:
        zeroed[row, column] = 1
    assert torch.equal((losses == 0) & kept, zeroed.bool())
    assert int(kept.sum() * metrics["covariance_clip_fraction"] + 0.5) == int(zeroed.sum())
    torch.testing.assert_close(
        float(metrics["covariance_clip_fraction"]), case["metrics"]["actor/pg_clipfrac"], **CLOSE
    )
    torch.testing.assert_close(float(metrics["kl"]), case["metrics"]["actor/ppo_kl"], **CLOSE)
    share = torch.tensor(case["clipped_by_ppo"]).float()[kept].mean()
    torch.testing.assert_close(metrics["clip_fraction"], share, **CLOSE)


@pytest.mark.parametrize("case", CLIP["cases"], ids=name)
def test_clip_cov_of_the_papers_own_repository(case: dict[str, Any]) -> None:
    arguments = inputs(CLIP)
    check(case, clip_cov(*arguments, **options(case), generator=seeded(case)), arguments[0], arguments[3])
    metrics = clip_cov_metrics(arguments[0].detach(), *arguments[1:], **options(case), generator=seeded(case))
    torch.testing.assert_close(float(metrics["covariance_clip_fraction"]), case["pg_clipfrac"], **CLOSE)
    torch.testing.assert_close(float(metrics["kl"]), case["ppo_kl"], **CLOSE)


@pytest.mark.parametrize("case", [case for case in VERL["cases"] if "kl_cov" in case["fn"]], ids=name)
def test_official_kl_cov(case: dict[str, Any]) -> None:
    arguments = inputs(VERL)
    own = case["policy_loss"]
    losses = kl_cov(*arguments, fraction=own["kl_cov_ratio"], coefficient=own["ppo_kl_coef"])
    check(case, losses, arguments[0], arguments[3])
    metrics = kl_cov_metrics(arguments[0].detach(), arguments[1], arguments[3])
    torch.testing.assert_close(float(metrics["kl_abs"]), case["metrics"]["actor/ppo_kl"], **CLOSE)


@pytest.mark.parametrize("case", KL["cases"], ids=name)
def test_kl_cov_of_the_papers_own_repository_takes_percent(case: dict[str, Any]) -> None:
    arguments = inputs(KL)
    # It also never takes more percent than there are tokens.
    percent = min(case["k_percent"], float(arguments[3].sum()))
    losses = kl_cov(*arguments, fraction=percent / 100, coefficient=case["ppo_kl_coef"])
    check(case, losses, arguments[0], arguments[3])
    metrics = kl_cov_metrics(arguments[0].detach(), arguments[1], arguments[3])
    torch.testing.assert_close(float(metrics["kl_abs"]), case["ppo_kl_abs"], **CLOSE)


@pytest.mark.parametrize("case", BOTH["cases"], ids=name)
def test_both_once_more_in_verl_on_the_papers_numbers(case: dict[str, Any]) -> None:
    arguments = inputs(BOTH)
    if case["fn"] == "verl_kl_cov":
        losses = kl_cov(*arguments, fraction=case["kl_cov_ratio"], coefficient=case["ppo_kl_coef"])
    else:
        losses = clip_cov(*arguments, **options(case), generator=seeded(case))
    check(case, losses, arguments[0], arguments[3])


@pytest.mark.parametrize("case", BASELINE["cases"], ids=lambda case: case["loss_agg_mode"])
def test_the_clipped_baseline_of_the_papers_own_repository_has_no_dual_clip(case: dict[str, Any]) -> None:
    arguments = inputs(BASELINE)
    bounds = {"clip_low": case["cliprange_low"], "clip_high": case["cliprange_high"], "dual_clip": float("inf")}
    check(case, clipped(*arguments, **bounds), arguments[0], arguments[3])
    metrics = clip_metrics(arguments[0].detach(), *arguments[1:], **bounds)
    torch.testing.assert_close(float(metrics["clip_fraction"]), case["pg_clipfrac"], **CLOSE)
    torch.testing.assert_close(float(metrics["kl"]), case["ppo_kl"], **CLOSE)


@st.composite
def tokens(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log-probabilities, old ones, advantages and a mask with at least one token."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    old, change, advantages = torch.randn(3, rows, width, generator=generator)
    mask = (torch.rand(rows, width, generator=generator) < 0.7).float()
    mask[0, 0] = 1
    return (old + 0.3 * change).requires_grad_(), old, 3 * advantages, mask


@FEW
@given(made=tokens())
def test_without_a_band_clip_cov_is_ppo_without_dual_clip(made: tuple[Tensor, ...]) -> None:
    plain = clipped(*made, clip_high=0.28, dual_clip=float("inf"))
    assert torch.equal(clip_cov(*made, low=float("inf"), high=float("inf"), clip_high=0.28), plain)


@FEW
@given(made=tokens(), ratio=st.sampled_from([0.1, 0.5, 1.0]), seed=st.integers(0, 9))
def test_clip_cov_takes_out_as_many_as_it_may_and_leaves_the_others_alone(
    made: tuple[Tensor, ...], ratio: float, seed: int
) -> None:
    logprobs, _, advantages, mask = made
    plain = clipped(*made, dual_clip=float("inf"))
    losses = clip_cov(*made, ratio=ratio, low=0.5, high=20.0, generator=torch.Generator().manual_seed(seed))
    [before], [after] = (torch.autograd.grad(each.sum(), logprobs) for each in (plain, losses))
    products = covariance(logprobs, advantages, mask)
    eligible = mask.bool() & (before != 0) & (products > 0.5) & (products < 20)
    gone = after != before
    assert int(gone.sum()) == min(int(eligible.sum()), max(1, int(ratio * float(mask.sum()))))
    assert bool((eligible | ~gone).all()) and bool((after[gone] == 0).all() and (losses[gone] == 0).all())
    assert torch.equal(losses[~gone], plain[~gone])


@FEW
@given(made=tokens(), fraction=st.sampled_from([0.0, 0.3, 1.0]))
def test_kl_cov_without_its_coefficient_is_the_plain_policy_gradient_and_ranks_by_covariance(
    made: tuple[Tensor, ...], fraction: float
) -> None:
    logprobs, old, advantages, mask = made
    plain = torch.where(mask.bool(), -advantages * (logprobs - old).exp(), 0.0)
    assert torch.equal(kl_cov(*made, fraction=fraction, coefficient=0.0), plain)
    chosen = kl_cov(*made, fraction=fraction, coefficient=100.0) != plain
    products = covariance(logprobs, advantages, mask)
    assert int(chosen.sum()) == min(max(1, int(fraction * float(mask.sum()))), int(mask.sum()))
    rest = mask.bool() & ~chosen
    assert not rest.any() or products[chosen].min() >= products[rest].max()


@FEW
@given(made=tokens(), shift=st.integers(-4, 4))
def test_covariance_does_not_see_shifts_and_sums_over_the_mask_alone(made: tuple[Tensor, ...], shift: int) -> None:
    logprobs, _, advantages, mask = made
    spoilt = [torch.where(mask.bool(), each, torch.nan) for each in (logprobs, advantages + shift)]
    torch.testing.assert_close(covariance(*spoilt, mask), covariance(logprobs, advantages, mask), atol=1e-4, rtol=1e-3)


@FEW
@given(made=tokens())
def test_masked_positions_never_matter(made: tuple[Tensor, ...]) -> None:
    kept = made[3].bool()
    results = []
    for rubbish in (0.0, float("nan"), float("inf")):
        logprobs, old, advantages = (torch.where(kept, each.detach(), rubbish) for each in made[:3])
        logprobs.requires_grad_()
        for losses in (
            clip_cov(logprobs, old, advantages, made[3], ratio=0.5, low=0.1),
            kl_cov(logprobs, old, advantages, made[3], fraction=0.5),
        ):
            results.append((losses.detach(), *torch.autograd.grad(losses.sum(), logprobs)))
    for number, pair in enumerate(results):
        assert all(torch.equal(one, other) for one, other in zip(pair, results[number % 2], strict=True))


def test_the_bounds_of_the_covariance_are_strict() -> None:
    old = torch.tensor([[1.0, -1.0]])
    arguments = (old, old, old, torch.ones(1, 2))
    assert covariance(old, old, torch.ones(1, 2)).tolist() == [[1.0, 1.0]]
    for low, high, left in ((1.0, 5.0, 2), (0.0, 1.0, 2), (0.9, 1.1, 0)):
        assert int((clip_cov(*arguments, ratio=1.0, low=low, high=high) != 0).sum()) == left


def test_an_empty_mask_gives_nothing() -> None:
    nothing = torch.zeros(2, 3)
    for losses in (clip_cov(nothing, nothing, nothing, nothing), kl_cov(nothing, nothing, nothing, nothing)):
        assert torch.equal(losses, nothing)


@pytest.mark.parametrize("loss", [clipped, clip_cov, kl_cov])
def test_numbers_that_are_not_finite_are_refused(loss: Any) -> None:
    fine, mask = torch.zeros(1, 2), torch.ones(1, 2)
    for bad in (float("nan"), float("inf"), float("-inf")):
        broken = torch.tensor([[0.0, bad]])
        with pytest.raises(TrainingError, match="A log-probability is not finite: lower"):
            loss(broken, fine, fine, mask)
        with pytest.raises(TrainingError, match="A log-probability is not finite: lower"):
            loss(fine, broken, fine, mask)
        with pytest.raises(TrainingError, match="An advantage is not finite: look"):
            loss(fine, fine, broken, mask)
