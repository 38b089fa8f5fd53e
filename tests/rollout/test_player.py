"""Episodes without a model: the same record as with one, and failures that stay data."""

from typing import Any

import pytest
from helpers import CountEnv, run

from agent_gym.engines.base import Sampling
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.env import Info, TextEnv
from agent_gym.errors import ConfigError
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.chat import ByteChat
from agent_gym.rollout.episode import Episode, EpisodeSettings
from agent_gym.rollout.player import Move, Moves, Policy, act_at_random, follow_demonstrator, play
from agent_gym.trajectory import Trajectory


def played(env: TextEnv, policy: Policy, *, way: str = "plain", seed: int = 0, **settings: Any) -> Trajectory:
    return play(env, policy, ByteChat(), syntax(way), EpisodeSettings(**settings), seed=seed, task_id="count 2")


def scripted(*moves: Move) -> Policy:
    def policy(env: TextEnv, observation: str, info: Info, rng: Any) -> Moves:
        for move in moves:  # noqa: UP028 - a tuple has no send()
            yield move

    return policy


@pytest.mark.parametrize("way", ["plain", "tagged"])
def test_the_record_is_that_of_an_episode_in_which_a_model_says_the_same(way: str) -> None:
    settings = EpisodeSettings(Sampling(max_tokens=64), parse=syntax(way).parse, restate_goal=True)
    engine = ScriptedEngine([syntax(way).write("up")])
    expected = run(Episode(CountEnv(), engine, ByteChat(), settings, "count 2", seed=5).run())
    trajectory = played(CountEnv(), follow_demonstrator, way=way, seed=5, restate_goal=True)
    for record in (expected, trajectory):
        for turn in record.turns:
            turn.engine_seconds = turn.env_seconds = 0.0
    assert trajectory == expected and trajectory.success and len(trajectory.turns) == 3


def test_what_is_not_exemplary_is_context() -> None:
    trajectory = played(CountEnv(), scripted(Move("up"), Move("nonsense", exemplary=False), Move("up"), Move("up")))
    masks = [set(trajectory.action_mask[turn.start : turn.end]) for turn in trajectory.turns]
    assert masks == [{1}, {0}, {1}, {1}] and trajectory.success
    assert [turn.invalid_action for turn in trajectory.turns] == [False, True, False, False]


def test_a_policy_that_stops_leaves_an_episode_that_has_not_ended() -> None:
    trajectory = played(CountEnv(), scripted(Move("up")))
    assert len(trajectory.turns) == 1 and not trajectory.ended and trajectory.error is None


def test_a_crash_of_the_environment_is_a_failed_episode() -> None:
    trajectory = played(CountEnv(), scripted(Move("up"), Move("crash"), Move("up")))
    assert trajectory.error == "RuntimeError: the environment broke" and len(trajectory.turns) == 2


def test_chance_draws_admissible_actions_by_seed() -> None:
    one, two, other = (played(CountEnv(max_turns=9), act_at_random, seed=seed) for seed in (1, 1, 2))
    assert one.token_ids == two.token_ids != other.token_ids
    assert not any(turn.invalid_action and not turn.action.startswith("stop") for turn in one.turns)


def test_a_policy_that_cannot_act_in_an_environment_says_so() -> None:
    class Clueless(CountEnv):
        def expert(self) -> None:
            return None

        def _state(self, **values: Any) -> Any:
            state = super()._state(**values)
            state.admissible = None
            return state

    with pytest.raises(ConfigError, match="Clueless has no demonstrator"):
        played(Clueless(), follow_demonstrator)
    with pytest.raises(ConfigError, match="Clueless does not list its admissible actions"):
        played(Clueless(), act_at_random)


def test_an_episode_that_takes_too_long_has_failed() -> None:
    settings = EpisodeSettings(seconds=1e-9)
    trajectory = play(CountEnv(), act_at_random, ByteChat(), syntax("plain"), settings, seed=1)
    assert trajectory.error == "TimeoutError: not done after 1e-09 s" and len(trajectory.turns) == 1
