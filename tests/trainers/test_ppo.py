"""PPO as an algorithm: estimates over whole trajectories, a critic that learns along, and what it is without one."""

import copy

import pytest
import torch
from base_rows import START, by_turn, filled, groups, learner, same, trained

from agent_gym.trainers import advantages
from agent_gym.trainers.algorithm import CriticSettings
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.ppo import GeneralizedAdvantage, ppo
from agent_gym.trainers.reinforce import reinforce_plus_plus


def valued(window: bool) -> Batch:
    """Return rows with values that follow from turn and place, not from the layout."""
    batch = filled(grpo(), groups(window=window))
    for row, column in batch.mask.nonzero().tolist():
        token, turn = int(batch.input_ids[row, column]), int(batch.turns[row, column])
        batch.values[row, column] = token / 64 - turn / 2
    return batch


@pytest.mark.parametrize("whitened", [True, False])
def test_estimates_and_returns_do_not_depend_on_the_row_layout(whitened: bool) -> None:
    stage = GeneralizedAdvantage(gamma=0.9, lam=0.8, whitened=whitened)
    found = []
    for window in (False, True):
        batch = valued(window)
        estimates = stage(batch, batch.advantages)
        assert (estimates[batch.mask == 0] == 0).all() and (batch.returns[batch.mask == 0] == 0).all()
        found.append((by_turn(batch, estimates), by_turn(batch, batch.returns)))
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key] == pytest.approx(other[key], abs=1e-5)


def test_where_a_row_is_a_trajectory_the_stage_is_gae() -> None:
    batch = valued(window=False)
    numbers = {"gamma": 0.9, "lam": 0.8}
    estimates = GeneralizedAdvantage(**numbers)(batch, batch.advantages)
    expected, returns = advantages.gae(batch.token_rewards, batch.values, batch.mask, **numbers)
    torch.testing.assert_close(estimates, advantages.whiten(expected, batch.mask))
    torch.testing.assert_close(batch.returns, returns)
    plain = GeneralizedAdvantage(**numbers, whitened=False)(batch, batch.advantages)
    torch.testing.assert_close(plain, expected)


def test_a_critic_that_expects_nothing_leaves_reinforce_plus_plus_bit_for_bit() -> None:
    for window in (False, True):
        made = groups(window=window)
        assert same(trained(ppo(), made), trained(reinforce_plus_plus(), made))


def test_the_critic_learns_along_and_its_metrics_are_logged() -> None:
    own = learner(ppo(critic_learning_rate=1e-2, value_clip=10.0, critic_updates_per_step=2))
    explained = []
    for _ in range(15):
        metrics = own.learn(groups(), START)
        explained.append(metrics["value_explained"])
    assert explained[0] == 0 and explained[-1] > 0.5
    assert {"value_loss", "value_error", "value_clip_fraction", "critic_grad_norm"} <= metrics.keys()
    assert (own.batch(groups(), START)[0].values != 0).any()


def test_the_preset_carries_its_settings() -> None:
    algorithm = ppo(gamma=0.9, lam=0.8, whitened=False, critic_learning_rate=1.0, value_clip=2.0, group_size=1)
    assert algorithm.advantages == (GeneralizedAdvantage(0.9, 0.8, whitened=False),)
    assert algorithm.critic == CriticSettings(learning_rate=1.0, clip=2.0) and algorithm.name == "ppo"
    assert algorithm.rollout == grpo(group_size=1).rollout and algorithm.losses == grpo().losses


def test_groups_are_not_compared() -> None:
    made = groups()
    for member in made[0].trajectories:
        for turn in member.turns:
            turn.reward = 1.0
    batch = filled(ppo(), made[:1])
    shorter, longer = batch.advantages[3][batch.mask[3] == 1], batch.advantages[2][batch.mask[2] == 1]
    assert float(longer[0]) > float(shorter[0])


def test_a_resumed_run_goes_on_with_policy_critic_and_optimisers_as_they_were() -> None:
    algorithm = ppo(critic_learning_rate=1e-2, kl_coefficient=0.1)
    straight, resumed = learner(algorithm), learner(algorithm)
    for _ in range(2):
        straight.learn(groups(), START)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    resumed.updater.scorer.load_state_dict(straight.updater.scorer.state_dict())
    assert straight.learn(groups(), START) == resumed.learn(groups(), START)
    assert same(straight.updater.scorer.state_dict(), resumed.updater.scorer.state_dict())
