"""Actions that do nothing cost something; others do not."""

from helpers import CountEnv

from agent_gym.envs.wrappers import InvalidActionPenalty


def test_only_actions_that_do_nothing_are_penalised() -> None:
    env = InvalidActionPenalty(CountEnv(), penalty=0.25)
    env.reset(seed=0)
    assert [env.step(action)[1] for action in ("up", "nonsense", "up", "up")] == [0.0, -0.25, 0.0, 1.0]
