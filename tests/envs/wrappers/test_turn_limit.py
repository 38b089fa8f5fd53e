"""A limit of turns around an environment."""

import pytest
from helpers import CountEnv

from agent_gym.envs.wrappers import TurnLimit
from agent_gym.errors import EpisodeEnded


def test_the_last_turn_is_truncated_and_nothing_follows_but_a_reset() -> None:
    env = TurnLimit(CountEnv(), turns=2)
    for _ in range(2):
        env.reset(seed=0)
        assert env.step("up")[2:4] == (False, False)
        assert env.step("up")[2:4] == (False, True)
        with pytest.raises(EpisodeEnded, match="after 2 turns"):
            env.step("up")


def test_an_episode_that_ends_in_time_is_terminated_and_not_truncated() -> None:
    env = TurnLimit(CountEnv(), turns=3)
    env.reset(seed=0)
    assert [env.step("up")[2:4] for _ in range(3)] == [(False, False), (False, False), (True, False)]


def test_a_fork_has_the_same_turns_left() -> None:
    env = TurnLimit(CountEnv(), turns=2)
    env.reset(seed=0)
    env.step("up")
    assert env.fork().step("up")[3] and env.step("up")[3]


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TurnLimit(CountEnv(), turns=0)
