"""A policy for questions about a generated world: it understands the words of a question, searches, reads and answers.

It knows how such questions and pages are worded, and no fact but those that it has read.
"""

import re
from collections.abc import Generator
from typing import Final

from agent_gym.envs.search_qa.asking import Chain, Understood
from agent_gym.envs.search_qa.relations import RELATIONS, Relation
from agent_gym.envs.tool_env import ToolEnv
from agent_gym.tools.calls import ToolCall

_HIT: Final = re.compile(r"^(?:Observation: )?\d+\. (.+)\n +(.+)$", re.MULTILINE)
_UNKNOWN: Final = "unknown"
"""What is answered where the pages do not tell."""


def find_out(asked: Understood, env: ToolEnv) -> Generator[str, str, object]:
    """Yield actions, and be sent what they are answered."""
    ends = []
    for chain in asked.chains:
        ends.append((yield from _follow(chain, env)))
    answer = _UNKNOWN if None in ends else asked.answer([str(end) for end in ends])
    yield env.write_answer(answer, f"The answer is {answer}.")
    return None


def _follow(chain: Chain, env: ToolEnv) -> Generator[str, str, str | None]:
    """Look up one thing after the other; return where the chain ends, None where nothing was found."""
    subject: str | None = chain.start
    for name in chain.relations:
        if subject is None:
            return None
        subject = yield from _look_up(RELATIONS[name], subject, env)
    return subject


def _look_up(relation: Relation, subject: str, env: ToolEnv) -> Generator[str, str, str | None]:
    """Search for a subject; read its page where what is shown of it does not tell."""
    thought = f"I need to know {relation.phrase.format(s=subject)}."
    shown = yield env.write(ToolCall("search", {"query": subject}), thought)
    for title, text in _HIT.findall(shown):
        found = relation.read(text, subject) if title == subject else None
        if found is not None:
            return found
    thought = f"I do not see {relation.phrase.format(s=subject)}: I will open the page."
    page = yield env.write(ToolCall("browse", {"url": subject}), thought)
    return relation.read(page, subject)
