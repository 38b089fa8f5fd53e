"""Rewards on another scale, within bounds."""

import pytest
from helpers import CountEnv

from agent_gym.envs.wrappers import InvalidActionPenalty, RewardScaling


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scale": 10.0}, [-1.0, 0.0, 0.0, 10.0]),
        ({"scale": 10.0, "high": 5.0}, [-1.0, 0.0, 0.0, 5.0]),
        ({"low": 0.0}, [0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_rewards_are_scaled_and_cut(options: dict[str, float], expected: list[float]) -> None:
    env = RewardScaling(InvalidActionPenalty(CountEnv()), **options)
    env.reset(seed=0)
    assert [env.step(action)[1] for action in ("nonsense", "up", "up", "up")] == expected


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be above"):
        RewardScaling(CountEnv(), low=1.0, high=0.0)
