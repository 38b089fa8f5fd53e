"""Which parameters a server understands: asked for all, and without those that it refuses from then on."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from agent_gym.engines.server import Problem

logger = logging.getLogger(__name__)

_UNSUPPORTED = re.compile(
    r"unsupported|not support|n't support|unrecognized|unknown|extra (inputs|fields)|not permitted|not allowed"
    r"|unexpected|unavailable|not available|extra_forbidden|deprecated",
    re.IGNORECASE,
)
_REPLACED = {"max_tokens": "max_completion_tokens"}
"""Parameters that some models know by another name."""
_TOGETHER = {"logprobs": ("logprobs", "top_logprobs"), "top_logprobs": ("logprobs", "top_logprobs")}
"""Parameters that mean nothing without each other."""
_NEEDED = frozenset({"model", "messages", "prompt"})


class Dialect:
    """What a server has refused so far; shared by all requests to it."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        """Parameters that are no longer sent."""

    def spoken(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that the server understands, under the names that it knows."""
        spoken = {}
        for name, value in fields.items():
            known = _REPLACED.get(name, "") if name in self.refused else name
            if known and known not in self.refused:
                spoken[known] = value
        return spoken

    def learn(self, problem: Problem, sent: Mapping[str, Any]) -> bool:
        """Learn from an error which parameters to leave out; return whether to ask again.

        Args:
            problem: What the server said.
            sent: The parameters that it was sent. One that another request has learnt of meanwhile counts, too.
        """
        if problem.status not in (400, 403, 422) or not _UNSUPPORTED.search(f"{problem.message} {problem.code}"):
            return False
        blamed = {name for name in sent if name not in _NEEDED and _blames(problem, name)}
        blamed = {each for name in blamed for each in _TOGETHER.get(name, (name,))}
        for name in sorted(blamed - self.refused):
            logger.warning("The server does not take %s: it is left out from now on (%s).", name, problem.message)
        self.refused |= blamed
        return bool(blamed)

    def note(self) -> dict[str, str]:
        """Return what an episode should say of it: the sampling was not what was asked for."""
        changed = sorted(self.refused & {"temperature", "top_p", "top_k", "seed", "stop"})
        return {"not_sent": ", ".join(changed)} if changed else {}


def _blames(problem: Problem, name: str) -> bool:
    if problem.parameter:
        return problem.parameter == name
    return re.search(rf"\b{name}\b", problem.message) is not None
