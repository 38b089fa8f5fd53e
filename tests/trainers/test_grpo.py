"""The GRPO preset and its pieces."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from base_rows import episode, filled, groups
from helpers import small_llama, trajectory

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.trainers import advantages, policy_loss
from agent_gym.trainers.algorithm import IndependentRollouts, Progress
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.dapo import dapo
from agent_gym.trainers.dr_grpo import dr_grpo
from agent_gym.trainers.grpo import ClippedPolicyLoss, EntropyBonus, GroupAdvantage, grpo
from agent_gym.trainers.policy_loss import Aggregation
from agent_gym.trainers.update import Updater, UpdateSettings
from agent_gym.trajectory import Group

START = Progress(0, 10)


def batch() -> Batch:
    made = [trajectory(3 + number, 2, seed=number) for number in range(6)]
    return make_batch(made, [1, 0, 0, 0.5, 0.5, 2], [0, 0, 0, 1, 1, 1])


def test_every_token_that_was_generated_gets_its_rows_advantage() -> None:
    rows = batch()
    grpo().fill(rows)
    expected = advantages.grpo(rows.rewards, rows.groups)
    assert torch.equal(rows.advantages, expected.unsqueeze(1) * rows.mask)
    grpo(normalize_std=False).fill(rows)
    assert float(rows.advantages[0].max()) == pytest.approx(2 / 3)


def test_the_loss_is_policy_loss_clipped_with_the_presets_numbers() -> None:
    rows = batch()
    grpo().fill(rows)
    logprobs = rows.old_logprobs + 0.5 * torch.randn(rows.mask.shape, generator=torch.Generator().manual_seed(0))
    numbers = {"clip_low": 0.1, "clip_high": 0.28, "dual_clip": 2.0}
    [term] = grpo(**numbers).losses
    arguments = (logprobs, rows.old_logprobs, rows.advantages, rows.mask)
    assert torch.equal(term(rows, logprobs, logprobs, START), policy_loss.clipped(*arguments, **numbers))
    metrics, expected = term.metrics(rows, logprobs, logprobs), policy_loss.clip_metrics(*arguments, **numbers)
    assert metrics.keys() == expected.keys() and all(torch.equal(metrics[key], expected[key]) for key in metrics)


def test_the_entropy_bonus_is_minus_its_coefficient_times_the_entropy() -> None:
    entropy = torch.rand(2, 3)
    assert torch.equal(EntropyBonus(0.5)(batch(), entropy, entropy, START), -0.5 * entropy)
    assert grpo(entropy_coefficient=0.1).needs_entropy_gradient and not grpo().needs_entropy_gradient


def test_the_preset_carries_its_settings() -> None:
    algorithm = grpo(group_size=5, aggregation="seq-mean-token-sum-norm", loss_scale=64.0)
    assert algorithm.rollout == IndependentRollouts(5)
    assert (algorithm.name, algorithm.aggregation, algorithm.loss_scale) == ("grpo", "seq-mean-token-sum-norm", 64.0)
    assert algorithm.losses == (ClippedPolicyLoss(),) and algorithm.advantages == (GroupAdvantage(),)


def test_the_released_ways_of_counting_are_options() -> None:
    made = groups(window=True)
    made.append(Group("alone", "task", [episode(["x"], [3], seed=99, window=True)]))
    rows = filled(grpo(over="rows", singletons="reward"), made)
    expected = advantages.grpo(rows.rewards, rows.groups, singletons="reward").unsqueeze(1) * rows.mask
    assert torch.equal(rows.advantages, expected) and float(expected[-1].max()) == 3.0
    papers = filled(grpo(), made)
    once = advantages.grpo(rows.rewards, rows.groups, trajectories=rows.trajectories).unsqueeze(1) * rows.mask
    torch.testing.assert_close(papers.advantages, once)
    assert not torch.allclose(papers.advantages, rows.advantages) and not papers.advantages[-1].any()
    for base in (dapo, dr_grpo):
        [stage] = base(over="rows", singletons="reward").advantages
        assert (stage.over, stage.singletons) == ("rows", "reward")


@pytest.mark.parametrize("name", ["over", "singletons", "aggregation"])
def test_what_is_not_known_is_refused_before_anything_is_played(name: str) -> None:
    with pytest.raises(UnknownIdError, match="'nobody'"):
        grpo(**{name: "nobody"})  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [None, 0.0, -1.0, float("nan")])
def test_a_sum_that_is_divided_by_a_constant_needs_one(scale: float | None) -> None:
    with pytest.raises(ConfigError, match="set loss_scale"):
        grpo(aggregation="seq-mean-token-sum-norm", loss_scale=scale)


def after_one_step(algorithm: Any, rows: Batch) -> dict[str, torch.Tensor]:
    model = small_llama()
    algorithm.fill(rows)
    Updater(model, UpdateSettings(learning_rate=1e-3)).step(rows, algorithm, START, seed=0)
    return model.state_dict()


@pytest.mark.parametrize("mode", get_args(Aggregation))
def test_identity_settings_give_the_base_bit_for_bit(mode: Aggregation) -> None:
    base = grpo(aggregation=mode, loss_scale=64.0)
    identities = [
        grpo(aggregation=mode, loss_scale=64.0, entropy_coefficient=0.0),
        replace(base, weights=(lambda rows: torch.ones_like(rows.mask),)),
        replace(base, advantages=(*base.advantages, lambda rows, so_far: so_far)),
        replace(base, rewards=(lambda group, rewards: rewards,)),
    ]
    expected = after_one_step(base, batch())
    for algorithm in identities:
        weights = after_one_step(algorithm, batch())
        assert all(torch.equal(weights[key], value) for key, value in expected.items())
    other = after_one_step(replace(base, weights=(lambda rows: rows.mask * torch.rand_like(rows.mask),)), batch())
    assert any(not torch.equal(other[key], value) for key, value in expected.items())


def test_actions_that_did_nothing_cost_the_penalty_and_tell_failures_apart() -> None:
    members = [trajectory(2, 2, seed=seed) for seed in range(3)]
    members[1].turns[0].invalid_action = members[2].turns[0].invalid_action = members[2].turns[1].invalid_action = True
    members.append(trajectory(2, 2, seed=3))
    members[3].error = "broken"
    group = Group("g", "t", members)
    assert grpo(invalid_action_penalty=0.1).shape_rewards(group) == [[0.0, 0.0], [-0.1, 0.0], [-0.1, -0.1]]
    assert grpo().shape_rewards(group) == [[0.0, 0.0]] * 3
