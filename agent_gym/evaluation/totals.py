"""Sums over stored episodes, one row at a time."""

from collections.abc import Iterable

from agent_gym.rollout.score import Score
from agent_gym.store.episodes import EpisodeRow


def total(rows: Iterable[EpisodeRow]) -> Score:
    """Return the score of episodes; see `agent_gym.rollout.score.score`, which does the same for whole ones."""
    episodes = failed = successes = retried = tokens = turns = env_turns = invalid = calls = 0
    reward = entropy = 0.0
    for row in rows:
        own = row.turns - (row.branch_turn or 0)
        episodes, env_turns, calls = episodes + 1, env_turns + own, calls + row.tool_calls
        retried += row.retried is not None
        if row.error is not None:
            failed += 1
            continue
        successes += row.success
        reward += row.reward
        turns += row.turns
        invalid += row.invalid_actions
        tokens += row.generated_tokens
        entropy += row.entropy * row.generated_tokens if row.generated_tokens else 0.0
    valid = episodes - failed
    nan = float("nan")
    return Score(
        episodes=episodes,
        successes=successes,
        failed=failed,
        retried=retried,
        success_rate=successes / valid if valid else nan,
        reward=reward / valid if valid else nan,
        turns=turns / valid if valid else nan,
        invalid_actions=invalid / turns if turns else nan,
        entropy=entropy / tokens if tokens else nan,
        generated_tokens=tokens,
        env_turns=env_turns,
        tool_calls=calls,
    )
