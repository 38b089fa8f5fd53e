"""What goes on around the rollouts of a base stays when a method brings rollouts of its own."""

from agent_gym.trainers.algorithm import IndependentRollouts
from agent_gym.trainers.bases import played_by, player
from agent_gym.trainers.dapo import DynamicSampling, dapo
from agent_gym.trainers.grpo import grpo


def test_dynamic_sampling_stays_around_another_strategy() -> None:
    other = IndependentRollouts(3)
    assert player(dapo(group_size=5)) == IndependentRollouts(5) == player(grpo(group_size=5))
    assert played_by(dapo(max_rounds=4), other).rollout == DynamicSampling(other, 4)
    assert played_by(grpo(), other).rollout is other
