"""How many episodes, rows and tokens a step of a configuration has: at most, and under assumptions that are told."""

from dataclasses import dataclass
from typing import Any

from agent_gym.config import TrainConfig
from agent_gym.registry import find_spec, options_of, resolve
from agent_gym.trainers.bases import player
from agent_gym.trainers.presets import make_algorithm


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a configuration does not say, and a plan needs."""

    observation_tokens: int = 256
    """Tokens that an environment says a turn, the list of admissible actions included."""
    turn_share: float = 0.5
    """Tokens that the model generates a turn, as a share of `rollout.max_tokens`."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One step of training."""

    episodes: int
    turns: int
    """Of an episode, at most."""
    rows: int
    """Of training, at most."""
    longest_row: int
    """In tokens, at most."""
    most_generated: int
    """Tokens that are generated, at most: every turn is as long as it may be."""
    expected_generated: int
    """Tokens that are generated where every episode has all of its turns, see `Assumptions`."""
    expected_trained: int
    """Tokens that go through the model in the update then, those of the environment included."""


def workload(config: TrainConfig, context: int, assumptions: Assumptions | None = None) -> Workload:
    """Return what a step of a configuration takes.

    Args:
        config: Of the run.
        context: Longest sequence of the model, in tokens.
        assumptions: What the configuration does not say.

    Raises:
        UnknownIdError: There is no such environment or algorithm.
        ConfigError: The algorithm does not take its options.
    """
    assumed = assumptions or Assumptions()
    rollout = config.rollout
    turns = _turns(config)
    episodes = rollout.tasks * group_size(config)
    limit = min(rollout.max_episode_tokens or context, context)
    turn = max(1, round(assumed.turn_share * rollout.max_tokens))
    if rollout.layout == "turn":
        rows = episodes * turns
        longest = min(limit, (rollout.window + 1) * (assumed.observation_tokens + rollout.max_tokens))
        expected_row = min(limit, (rollout.window + 1) * (assumed.observation_tokens + turn))
        return Workload(episodes, turns, rows, longest, rows * rollout.max_tokens, rows * turn, rows * expected_row)
    longest = min(limit, turns * (assumed.observation_tokens + rollout.max_tokens))
    expected_row = min(limit, turns * (assumed.observation_tokens + turn))
    generated = expected_row * turn // (assumed.observation_tokens + turn)
    most = min(turns * rollout.max_tokens, limit)
    return Workload(episodes, turns, episodes, longest, episodes * most, episodes * generated, episodes * expected_row)


def group_size(config: TrainConfig) -> int:
    """Return the episodes that a configuration plays of a task."""
    # DAPO's rollouts draw further groups, and leave playing to another strategy.
    rollout: Any = player(make_algorithm(config.algorithm.name, config.algorithm.options))
    return int(getattr(rollout, "group_size", 1))


def _turns(config: TrainConfig) -> int:
    given = config.env.options.get("max_turns")
    if given is None:
        given = options_of(resolve(find_spec(config.env.id).entry_point)).get("max_turns")
    return int(given) if isinstance(given, int) else 50
