"""Questions with answers: read from files or the hub, or generated; what search_qa, math and code share.

Knows nothing of tools or episodes.
"""

from agent_gym.envs.questions.answers import exact_match, f1_score, normalise
from agent_gym.envs.questions.files import read_rows
from agent_gym.envs.questions.hub import HubData
from agent_gym.envs.questions.sources import Generated, Loaded, Source

__all__ = [
    "Generated",
    "HubData",
    "Loaded",
    "Source",
    "exact_match",
    "f1_score",
    "normalise",
    "read_rows",
]
