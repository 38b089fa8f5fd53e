"""Bases name the options that they hand on; what goes on around their rollouts stays under other ones."""

import inspect
from collections.abc import Callable

import pytest

from agent_gym.errors import ConfigError
from agent_gym.trainers.algorithm import Algorithm, IndependentRollouts
from agent_gym.trainers.bases import played_by, player
from agent_gym.trainers.dapo import DynamicSampling, dapo
from agent_gym.trainers.dr_grpo import dr_grpo
from agent_gym.trainers.gigpo import gigpo
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.ppo import ppo
from agent_gym.trainers.reinforce import reinforce_plus_plus
from agent_gym.trainers.rloo import rloo


def test_bases_name_the_options_that_they_hand_on() -> None:
    names = list(inspect.signature(ppo).parameters)
    assert names[:2] == ["gamma", "lam"] and {"group_size", "clip_high", "kl_coefficient"} <= set(names)
    assert "normalize_std" not in names and "options" not in names
    assert inspect.signature(dr_grpo).parameters["loss_scale"].default == 1024.0
    assert rloo(group_size=3).rollout == grpo(group_size=3).rollout
    assert rloo(clip_high=0.3).losses == grpo(clip_high=0.3).losses
    with pytest.raises(TypeError, match="group_sizes"):
        rloo(group_sizes=3)


@pytest.mark.parametrize("base", [dapo, dr_grpo, ppo, rloo])
def test_every_option_of_a_base_is_explained_once(base: Callable[..., Algorithm]) -> None:
    text = inspect.getdoc(base) or ""
    for name in inspect.signature(base).parameters:
        assert text.count(f"\n    {name}: ") == 1
    assert "**options" not in text


def test_dynamic_sampling_stays_around_another_strategy() -> None:
    other = IndependentRollouts(3)
    assert player(dapo(group_size=5)) == IndependentRollouts(5) == player(grpo(group_size=5))
    assert played_by(dapo(max_rounds=4), other).rollout == DynamicSampling(other, 4)
    assert played_by(grpo(), other).rollout is other


@pytest.mark.parametrize("base", [gigpo, ppo, reinforce_plus_plus])
@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_a_discount_out_of_range_is_refused(base: Callable[..., Algorithm], gamma: float) -> None:
    with pytest.raises(ConfigError, match="'gamma' is a number from 0 to 1, not"):
        base(gamma=gamma)


def test_a_critic_that_is_not_trained_is_refused() -> None:
    for options in ({"critic_updates_per_step": 0}, {"critic_learning_rate": 0.0}):
        with pytest.raises(ConfigError, match="critic has to be trained"):
            ppo(**options)
    with pytest.raises(ConfigError, match="'lam' is a number"):
        ppo(lam=2.0)
