"""What episodes have used up: tokens and dollars, those of tries that were given up included.

A trajectory tells of the last try alone. What was spent on those before stands in its metadata, `tokens_before` and
`cost_before`.
"""

from typing import Final

from agent_gym.trajectory import Trajectory

TOKENS_BEFORE: Final = "tokens_before"
COST_BEFORE: Final = "cost_before"


def spent_on(trajectory: Trajectory) -> tuple[int, float]:
    """Return the tokens that an episode's own turns have read and generated, and the dollars that are known of."""
    about = trajectory.metadata
    tokens = int(about.get(TOKENS_BEFORE, 0))
    for turn in trajectory.own_turns:
        tokens += turn.prompt_tokens or turn.start - turn.context_start
        tokens += turn.generated_tokens or turn.end - turn.start
    return tokens, float(about.get("cost", 0.0)) + float(about.get(COST_BEFORE, 0.0))


def carry_spending(earlier: Trajectory, later: Trajectory) -> None:
    """Add what an episode has used up to what is told of the one that replaces it."""
    tokens, cost = spent_on(earlier)
    about = later.metadata
    if tokens:
        about[TOKENS_BEFORE] = str(int(about.get(TOKENS_BEFORE, 0)) + tokens)
    if cost:
        about[COST_BEFORE] = repr(float(about.get(COST_BEFORE, 0.0)) + cost)
