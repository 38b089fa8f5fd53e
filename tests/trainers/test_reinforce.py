"""REINFORCE++ as an algorithm."""

import pytest
import torch
from base_rows import by_turn, filled, groups, same, trained

from agent_gym.trainers import advantages
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.reinforce import reinforce_plus_plus


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_returns_are_those_of_the_trajectory_however_many_rows_it_has(gamma: float) -> None:
    one, other = (filled(reinforce_plus_plus(gamma=gamma), groups(window=window)) for window in (False, True))
    ours, theirs = by_turn(one, one.advantages), by_turn(other, other.advantages)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-5)
    expected = advantages.reinforce_plus_plus(one.token_rewards, one.mask, gamma=gamma)
    torch.testing.assert_close(one.advantages, expected)


def test_rewards_that_are_reset_at_holes_reach_the_last_turn_alone() -> None:
    batch = filled(reinforce_plus_plus(reset_at_holes=True), groups())
    expected = advantages.reinforce_plus_plus(batch.token_rewards, batch.mask, gamma=1.0, reset_at_holes=True)
    assert torch.equal(batch.advantages, expected)
    turns = by_turn(batch, batch.advantages)
    assert turns[0, 0][0] == turns[1, 0][0] == turns[1, 1][0] < turns[0, 2][0]


def test_the_variant_with_a_baseline_compares_within_the_group_first() -> None:
    for window in (False, True):
        batch = filled(reinforce_plus_plus(baseline=True), groups(window=window))
        centred = filled(grpo(normalize_std=False), groups(window=window)).advantages
        torch.testing.assert_close(batch.advantages, advantages.whiten(centred, batch.mask))


def test_tokens_and_not_groups_are_balanced() -> None:
    batch = filled(reinforce_plus_plus(), groups())
    own = batch.advantages[batch.mask.bool()]
    assert abs(float(own.mean())) < 1e-6 and float(own.std()) == pytest.approx(1, abs=1e-5)
    assert not same(trained(reinforce_plus_plus(), groups()), trained(reinforce_plus_plus(baseline=True), groups()))
