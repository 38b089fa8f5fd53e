"""SPEAR: the official code's schedules and rewards, and what the pieces do to a run."""

from typing import Any

import pytest
import torch
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import ConfigError
from agent_gym.trainers import policy_loss, spear

SCHEDULES = golden("spear_schedules")
CLIP_COV = golden("spear_clip_cov")
FEW = settings(max_examples=50, deadline=None)


# -- the official code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SCHEDULES["sil_weight"])
def test_official_imitation_weight(case: dict[str, Any]) -> None:
    found = spear.imitation_weight(
        case["global_steps"], case["max_replay_loss_steps"], coefficient=case["replay_loss_coef"]
    )
    assert found == pytest.approx(case["weight"], abs=1e-9)


def official_weight(case: dict[str, Any]) -> float:
    fixed = {"none": 0.0, "constant": 1.0}
    return fixed.get(case["mode"], spear.tool_reward_weight(case["global_steps"], case["max_toolcall_steps"]))


@pytest.mark.parametrize("form", ["base", "qwen3"])
def test_official_rewards_for_tool_calls_in_mathematics(form: str) -> None:
    for case in SCHEDULES["math_tool_reward"]:
        worth = spear.tool_call_reward(
            case["tool_call_turns"], solved=case["outcome"] > 0, form="calls" if form == "base" else "qwen3"
        )
        found = case["outcome"] + official_weight(case) * worth
        assert found == pytest.approx(case["score"][form], abs=1e-9), case


def test_official_rewards_for_turns_in_agent_environments() -> None:
    for case in SCHEDULES["agent_env_tool_reward"]:
        worth = spear.tool_call_reward(case["episode_length"], solved=True, form="turns")
        assert case["base_score"] + official_weight(case) * worth == pytest.approx(case["score"], abs=1e-9), case


@pytest.mark.parametrize(
    "case", CLIP_COV["cases"], ids=lambda c: f"{c['fn'][20:]}-{c.get('is_replay')}-{c['loss_agg_mode']}"
)
def test_official_covariance_clipping_of_both_streams(case: dict[str, Any]) -> None:
    inputs = {name: torch.tensor(value) for name, value in CLIP_COV["inputs"].items()}
    config, mask = CLIP_COV["config"], inputs["response_mask"]
    clip = {"clip_low": config["clip_ratio_low"], "clip_high": config["clip_ratio_high"]}
    logprobs = inputs["log_prob"].requires_grad_()
    arguments = (logprobs, inputs["old_log_prob"], inputs["advantages"], mask)
    if case["fn"] == "compute_policy_loss_vanilla":
        losses = policy_loss.clipped(*arguments, **clip, dual_clip=config["clip_ratio_c"])
        metrics = policy_loss.clip_metrics(*arguments, **clip, dual_clip=config["clip_ratio_c"])
        assert metrics["clip_fraction"].item() == pytest.approx(case["pg_clipfrac"], abs=1e-6)
        assert metrics["dual_clip_fraction"].item() == pytest.approx(case["pg_clipfrac_lower"], abs=1e-6)
    else:
        values, stream = case["policy_loss"], "_replay" if case["is_replay"] else ""
        bounds = {
            name: values[f"clip_cov_{key}{stream}"] for name, key in (("ratio", "ratio"), ("low", "lb"), ("high", "ub"))
        }
        seed = case["torch_manual_seed"]
        losses = policy_loss.clip_cov(*arguments, **clip, **bounds, generator=torch.Generator().manual_seed(seed))
        metrics = policy_loss.clip_cov_metrics(*arguments, **clip, **bounds)
        assert metrics["covariance_clip_fraction"].item() == pytest.approx(case["pg_clipfrac"], abs=1e-6)
    assert metrics["kl"].item() == pytest.approx(case["ppo_kl"], abs=1e-6)
    loss = policy_loss.aggregate(losses, mask, case["loss_agg_mode"])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=2e-5, rel=1e-4)
    torch.testing.assert_close(logprobs.grad, torch.tensor(case["grad_log_prob"]), atol=2e-5, rtol=1e-4)


# -- schedules -----------------------------------------------------------------------------------------------------


@FEW
@given(horizon=st.integers(1, 500), coefficient=st.floats(0, 3))
def test_imitation_rises_from_nothing_to_its_coefficient(horizon: int, coefficient: float) -> None:
    weights = [spear.imitation_weight(step, 2 * horizon, coefficient=coefficient) for step in range(2 * horizon + 2)]
    assert weights[0] == 0 and weights == sorted(weights)
    assert weights[horizon] == pytest.approx(coefficient / 2)
    assert weights[-2:] == [coefficient] * 2


@FEW
@given(horizon=st.integers(1, 500), step=st.integers(0, 600))
def test_the_two_weights_add_up_to_one_for_equal_horizons(horizon: int, step: int) -> None:
    assert spear.imitation_weight(step, horizon) + spear.tool_reward_weight(step, horizon) == pytest.approx(1)


def test_without_a_horizon_the_schedule_is_over_at_once_and_a_negative_one_is_refused() -> None:
    assert spear.imitation_weight(1, 0) == 1 and spear.tool_reward_weight(1, 0) == 0
    with pytest.raises(ConfigError, match=r"'warmup'.*-1"):
        spear.imitation_weight(1, -1)
    with pytest.raises(ConfigError, match=r"'tool_decay'.*-1"):
        spear.tool_reward_weight(1, -1)
