"""What a phase of a run has used up."""

import json
import sqlite3

from agent_gym.rollout.spending import COST_BEFORE, TOKENS_BEFORE


def spent(connection: sqlite3.Connection, phase: str) -> tuple[int, float]:
    """Return the tokens and the known dollars of a phase, with what was spent before its episodes were played again."""
    sums = "SELECT total(prompt_tokens + generated_tokens), total(cost) FROM episodes WHERE phase = ?"
    tokens, cost = connection.execute(sums, (phase,)).fetchone()
    again = "SELECT metadata FROM trajectories WHERE phase = ? AND (metadata LIKE ? OR metadata LIKE ?)"
    named = (f'%"{name}"%' for name in (TOKENS_BEFORE, COST_BEFORE))
    for (metadata,) in connection.execute(again, (phase, *named)):
        about = json.loads(metadata)
        tokens += int(about.get(TOKENS_BEFORE, 0))
        cost += float(about.get(COST_BEFORE, 0.0))
    return int(tokens), cost
