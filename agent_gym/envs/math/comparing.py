"""What compares answers in a process of its own; importing it takes a second, and gets everything ready."""

import logging
import resource
from typing import Final

from math_verify import parse, verify

_MEMORY: Final = 2 * 1024**3
"""Bytes of address space of the process."""


class Comparison:
    """Compares two answers with math-verify, whatever they are; whoever calls keeps the time."""

    def __init__(self) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))

    def same(self, answer: str, gold: str) -> bool:
        """Return whether two answers say the same; False where one of them is no mathematics."""
        # Its own time-outs are alarms, which only a main thread may set, and which big numbers do not hear. Boxed, an
        # answer is taken as a whole: of "17 or 18" the parser would take the last number otherwise.
        right, found = (parse(f"\\boxed{{{text}}}", parsing_timeout=0) for text in (gold, answer))
        return bool(verify(right, found, timeout_seconds=0))


# It warns of having no time-out.
logging.getLogger("math_verify").setLevel(logging.ERROR)
# The first formula makes the tables of the parser, which all forks of this process then share.
_READY: Final = verify(
    parse("\\boxed{x + \\frac{1}{2}}", parsing_timeout=0), parse("\\boxed{x}", parsing_timeout=0), timeout_seconds=0
)
