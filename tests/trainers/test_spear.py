"""SPEAR: the official code's schedules and rewards, and what the pieces do to a run."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import golden, small_llama, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.trainers import policy_loss, spear
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.grpo import ClippedPolicyLoss, EntropyBonus, GroupAdvantage, grpo
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.self_imitation import SelfImitation
from agent_gym.trainers.spear import ClipCovLoss, ToolReward
from agent_gym.trainers.update import Updater, UpdateSettings
from agent_gym.trajectory import Group, Trajectory

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


# -- the reward for tool calls -------------------------------------------------------------------------------------


def played(*calls: int, reward: float = 0.0) -> Trajectory:
    """Return a trajectory whose turns made so many calls each."""
    made = trajectory(1, 1)
    made.turns = [replace(made.turns[0], tool_calls=count, reward=0.0) for count in calls]
    made.turns[-1].reward = reward
    return made


def paid(reward: ToolReward, *trajectories: Trajectory) -> list[float]:
    """Return what is added to the last turns; nothing else may change."""
    group = Group("g", "task", [*trajectories, Trajectory("task", error="lost")])
    before = [[turn.reward for turn in each.turns] for each in trajectories]
    after = reward(group, before)
    assert [row[:-1] for row in after] == [row[:-1] for row in before]
    return [new[-1] - old[-1] for new, old in zip(after, before, strict=True)]


def test_turns_with_tool_calls_are_paid_for_once_each_with_the_last_turn() -> None:
    constant = ToolReward(schedule="constant", form="calls")
    members = (played(1, 1, 1, 0), played(0, 3, 0), played(*[1] * 20), played(0))
    assert paid(constant, *members) == pytest.approx([0.3, 0.1, 1.0, 0.0])
    assert paid(ToolReward(schedule="constant", form="turns"), *members) == pytest.approx([0.4, 0.3, 1.0, 0.1])
    assert paid(ToolReward(schedule="constant", coefficient=0.5), members[0]) == pytest.approx([0.2])


def test_the_form_of_qwen3_pays_a_solved_task_for_any_call_alike() -> None:
    reward = ToolReward(schedule="constant", form="qwen3")
    members = (played(1, 1, 0, reward=1.0), played(0, reward=1.0), played(1, 1, 0))
    assert paid(reward, *members) == pytest.approx([1.0, 0.0, 0.2])


def test_a_trajectory_without_turns_is_paid_nothing() -> None:
    assert ToolReward()(Group("g", "task", [Trajectory("task")]), [[]]) == [[]]


def test_the_weight_follows_the_steps_and_survives_a_resume() -> None:
    reward, weights = ToolReward(decay=4), []
    batch = make_batch([trajectory(1, 1)], [0.0], [0])
    for step in range(5):
        before = paid(reward, played(*[1] * 10))[0]
        logged = reward.update(Progress(step, 5), batch, {})
        assert before == pytest.approx(logged["tool_reward_weight"])
        weights.append(before)
    assert weights == pytest.approx([spear.tool_reward_weight(t, 4) for t in (1, 2, 3, 4, 5)])
    early = ToolReward(decay=4)
    early.update(Progress(0, 5), batch, {})
    resumed = ToolReward(decay=4)
    resumed.load_state_dict(early.state_dict())
    assert paid(resumed, played(*[1] * 10)) == pytest.approx([weights[1]])


# -- covariance clipping -------------------------------------------------------------------------------------------


def inputs(seed: int, *, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    old, noise, advantages, mask = (torch.randn(3, 7, generator=chance) for _ in range(4))
    return (old - 2 + 0.2 * noise).requires_grad_(), old - 2, scale * advantages, (mask > -0.7).float()


@FEW
@given(seed=st.integers(0, 1000))
def test_bounds_at_infinity_leave_the_plain_surrogate_without_dual_clip(seed: int) -> None:
    arguments = inputs(seed)
    found = policy_loss.clip_cov(*arguments, ratio=1.0, low=torch.inf, high=torch.inf, clip_high=0.28)
    plain = policy_loss.clipped(*arguments, clip_high=0.28, dual_clip=torch.inf)
    assert torch.equal(found, plain)


@FEW
@given(seed=st.integers(0, 1000))
def test_a_ratio_of_one_takes_the_gradient_of_every_eligible_token(seed: int) -> None:
    logprobs, old, advantages, mask = inputs(seed, scale=3.0)
    policy_loss.clip_cov(logprobs, old, advantages, mask, ratio=1.0, low=0.5, high=4.0).sum().backward()
    products = policy_loss.covariance(logprobs, advantages, mask)
    assert logprobs.grad is not None
    assert (logprobs.grad[(products > 0.5) & (products < 4.0)] == 0).all()


def batch_of(arguments: tuple[torch.Tensor, ...]) -> tuple[Batch, torch.Tensor]:
    logprobs, old, advantages, mask = arguments
    batch = make_batch([trajectory(1, 1, seed=n) for n in range(len(mask))], [0.0] * len(mask), [0] * len(mask))
    batch.old_logprobs, batch.advantages, batch.mask = old, advantages, mask
    return batch, logprobs


def test_what_is_left_out_follows_from_seed_stream_and_step_and_not_from_other_draws() -> None:
    batch, logprobs = batch_of(inputs(3))

    def left_out(step: int, **values: Any) -> list[bool]:
        term = ClipCovLoss(0.1, -torch.inf, torch.inf, **values)
        torch.rand(2)
        losses = term(batch, logprobs, torch.zeros_like(logprobs), Progress(step, 9))
        return (losses == 0).flatten().tolist()

    assert left_out(1) == left_out(1)
    others = [left_out(2), left_out(1, stream="replay"), left_out(1, seed=5)]
    assert all(other != left_out(1) for other in others)
    metrics = ClipCovLoss(0.1, -torch.inf, torch.inf).metrics(batch, logprobs, torch.zeros_like(logprobs))
    tokens = batch.mask.sum()
    expected = (torch.tensor(left_out(1)).sum() - (batch.mask == 0).sum()) / tokens
    assert metrics["covariance_clip_fraction"] == pytest.approx(float(expected))


# -- the method ----------------------------------------------------------------------------------------------------

OFF: dict[str, Any] = {"coefficient": 0.0, "tool_reward": "none", "clip_cov_ratio": 0.0}


@pytest.mark.parametrize("base", [grpo(), grpo(normalize_std=False, entropy_coefficient=0.01, clip_high=0.28)])
def test_with_everything_off_it_trains_bit_for_bit_like_its_base(base: Any) -> None:
    found = []
    for algorithm in (base, spear.spear(base, **OFF)):
        model = small_llama()
        made = [trajectory(2 + number, 2, seed=number) for number in range(8)]
        batch = make_batch(made, [1.0, 0, 0, 1, 1, 0, 0, 0], [0] * 4 + [1] * 4)
        with torch.no_grad():
            batch.old_logprobs = TokenScorer(model)(batch.input_ids, batch.mask)[0] * batch.mask * 1.05
        algorithm.fill(batch)
        replayed = algorithm.replay.sample(Progress(0, 3)) if algorithm.replay else None
        metrics = Updater(model, UpdateSettings(learning_rate=1e-2, updates_per_step=2)).step(
            batch, algorithm, Progress(0, 3), seed=0, replay=replayed
        )
        found.append((model.state_dict(), metrics, algorithm.shape_rewards(Group("g", "task", made))))
    (weights, *rest), (same, *others) = found
    assert rest == others
    for name, value in weights.items():
        assert torch.equal(value, same[name]), name


def test_the_slots_of_the_full_method() -> None:
    base = grpo(entropy_coefficient=0.01, clip_low=0.1, clip_high=0.3)
    algorithm = spear.spear(base)
    assert algorithm.name == "grpo+spear"
    policy, bonus = algorithm.losses
    assert isinstance(policy, ClipCovLoss) and isinstance(bonus, EntropyBonus)
    assert (policy.ratio, policy.low, policy.high) == (2e-4, 1.0, 5.0)
    assert (policy.clip_low, policy.clip_high, policy.stream) == (0.1, 0.3, "policy")
    replayed, bonus = algorithm.replay_losses
    assert isinstance(replayed, ClipCovLoss) and bonus is base.losses[1]
    assert (replayed.ratio, replayed.low, replayed.high) == (0.02, 2.0, 60.0)
    assert (replayed.clip_low, replayed.clip_high, replayed.stream) == (0.1, 0.3, "replay")
    assert algorithm.controllers == algorithm.rewards and isinstance(algorithm.rewards[0], ToolReward)
    assert isinstance(algorithm.replay, SelfImitation)
    assert (algorithm.replay.buffer.size, algorithm.replay.buffer.max_age) == (2048, 5)


def test_without_covariance_clipping_the_bases_loss_is_used_in_both_streams() -> None:
    algorithm = spear.spear(grpo(dual_clip=10.0), clip_cov_ratio=0.0)
    assert algorithm.losses == algorithm.replay_losses == (ClippedPolicyLoss(dual_clip=10.0),)
    mixed = spear.spear(grpo(dual_clip=10.0), replay_clip_cov_ratio=0.0)
    assert isinstance(mixed.losses[0], ClipCovLoss) and mixed.replay_losses == (ClippedPolicyLoss(dual_clip=10.0),)


def test_a_base_with_a_loss_of_its_own_keeps_it_and_says_so() -> None:
    own = replace(grpo(), losses=(EntropyBonus(0.1),))
    algorithm = spear.spear(own)
    assert algorithm.losses == own.losses
    assert len(algorithm.notes) == 1 and "covariance clipping" in algorithm.notes[0]
    assert not spear.spear(grpo()).notes


def test_the_released_codes_way_of_keeping_rows() -> None:
    replay = spear.spear(grpo(), keeping="released", normalize_replay=True, buffer_size=4).replay
    assert isinstance(replay, SelfImitation)
    assert (replay.buffer.release, replay.buffer.age_from) == ("overfull", "newest")
    assert replay.buffer.normalize_std
    made = [trajectory(2, 2, seed=number) for number in range(8)]
    batch = make_batch(made, [1.0, 1, 1, 0] * 2, [0] * 4 + [1] * 4)
    grpo().fill(batch)
    sizes = []
    for step in range(4):
        sampled = replay.sample(Progress(step, 4))
        sizes.append(len(sampled) if sampled is not None else 0)
        replay.add(batch, Progress(step, 4))
    assert sizes == [0, 0, 4, 0]  # 6 rows are not more than 1.5 * 4, 12 are; then it is empty but for the last step's


def test_dr_bot_goes_under_it() -> None:
    algorithm = spear.spear(grpo(), dr_bot=True)
    assert algorithm.name == "grpo+dr-bot+spear"
    assert algorithm.advantages == (GroupAdvantage(normalize_std=False),)
    assert algorithm.aggregation == "seq-mean-token-sum-norm" and len(algorithm.filters) == 2
    policy = algorithm.losses[0]
    assert isinstance(policy, ClipCovLoss) and (policy.clip_low, policy.clip_high) == (0.2, 0.28)
    alone = spear.spear(grpo(), dr_bot=True, clip_cov_ratio=0.0)
    assert alone.losses == (ClippedPolicyLoss(0.2, 0.28, 10.0),)


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ({"coefficient": -1.0}, ConfigError, "'coefficient'"),
        ({"coefficient": float("nan")}, ConfigError, "'coefficient'"),
        ({"clip_cov_ratio": -0.1}, ConfigError, "'clip_cov_ratio'"),
        ({"replay_clip_cov_ratio": -0.1}, ConfigError, "'replay_clip_cov_ratio'"),
        ({"warmup": -1}, ConfigError, "'warmup'"),
        ({"tool_decay": -1}, ConfigError, "'tool_decay'"),
        ({"replay_rows": 0}, ConfigError, "at most 0 rows"),
        ({"buffer_size": 0}, ConfigError, "at least 1"),
        ({"stored_weight": 1.5}, ConfigError, "stored_weight is 1.5"),
        ({"mode": "sumed"}, UnknownIdError, "mode of spear 'sumed'.*'summed'"),
        ({"keeping": "forever"}, UnknownIdError, "keeping of spear"),
        ({"tool_reward": "linear"}, UnknownIdError, "tool_reward of spear"),
        ({"tool_form": "words"}, UnknownIdError, "tool_form of spear"),
    ],
)
def test_options_out_of_range_are_refused_before_any_step(values: dict[str, Any], error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        spear.spear(grpo(), **values)


def test_two_replays_are_refused() -> None:
    with pytest.raises(ConfigError, match="replays already"):
        spear.spear(spear.spear(grpo()))
