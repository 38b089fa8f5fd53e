"""Problems of GSM8K, MATH, AIME and others in their own forms."""

from collections.abc import Mapping
from typing import Final

from agent_gym.envs.math.problems import Problem
from agent_gym.envs.questions import HubData
from agent_gym.envs.questions.files import Row

KNOWN: Final = {
    "gsm8k": HubData("openai/gsm8k", {"train": "train", "test": "test"}, "main"),
    "math500": HubData("HuggingFaceH4/MATH-500", {"test": "test"}),
    "aime24": HubData("HuggingFaceH4/aime_2024", {"test": "train"}),
    "aime25": HubData("math-ai/aime25", {"test": "test"}),
}
"""Data sets of the hub by short name."""

_QUESTION_FIELDS: Final = ("problem", "question")
_ID_FIELDS: Final = ("unique_id", "id", "idx")
_FINAL: Final = "####"
"""What stands before the answer at the end of a solution of GSM8K."""


def read_problem(row: Row) -> tuple[str, Problem] | None:
    """Make a problem of a row in any of the known forms; return the row's own id, too.

    None for a row of ARPO's training data that is no mathematics.

    Raises:
        ValueError: There is no question, or no answer.
    """
    if row.get("ability", "math") != "math":
        return None
    text = next((row[name] for name in _QUESTION_FIELDS if isinstance(row.get(name), str)), None)
    answer = row.get("answer")
    if isinstance(row.get("reward_model"), Mapping):
        text, answer = row["extra_info"]["question"], row["reward_model"]["ground_truth"]
    if text is None:
        raise ValueError(f"it has none of {', '.join(_QUESTION_FIELDS)}")
    if not isinstance(answer, str | int | float) or not str(answer).strip():
        raise ValueError("it has no answer")
    own_id = next((str(row[name]) for name in _ID_FIELDS if row.get(name) not in (None, "")), "")
    return own_id, Problem(
        str(row.get("subject") or row.get("type") or ""), text, str(answer).rpartition(_FINAL)[2].strip()
    )
