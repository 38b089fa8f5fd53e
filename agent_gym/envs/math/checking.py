r"""Is an answer right? Plain numbers are compared here; everything else by math-verify, in a process of its own.

An answer is what a model wrote, and sympy takes it at its word: `9^{9^{9^9}}` is a number to be worked out. So answers
have a longest length, and they are looked at in a process with little memory that is ended when its time is over;
such an answer is wrong.

math-verify is Hynek Kydlíček's (Hugging Face), "Math-Verify", 2025 (version 0.9).
"""

import importlib.util
import re
import threading
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from agent_gym.envs.host import Host
from agent_gym.errors import MissingExtraError, WorkerError
from agent_gym.tools.syntax.arpo import boxed

LONGEST_ANSWER: Final = 400
"""Characters; a longer answer is wrong."""
_NUMBER: Final = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_FRACTION: Final = re.compile(r"([-+]?)\\[dt]?frac\{?(\d+)\}?\{(\d+)\}|([-+]?)(\d+) ?/ ?(\d+)")
_AROUND: Final = re.compile(r"^(?:\\?\$|\\\(|\\\[|\s)+|(?:\\?\$|\\\)|\\\]|[.\s])+$")
_COMPARISON: Final = "agent_gym.envs.math.comparing:Comparison"
_MINUS: Final = "\N{MINUS SIGN}"


def stated_answer(text: str) -> str:
    r"""Return the answer in a text: what stands in its last `\boxed{}`, else all of it."""
    inside = boxed(text)
    return (text if inside is None else inside).strip()


def as_number(answer: str) -> Fraction | None:
    r"""Return the number that an answer is, if it is a plain one: 1,234 or -0.5 or 7/2 or $\frac{7}{2}$."""
    if len(answer) > LONGEST_ANSWER:
        return None
    plain = _AROUND.sub("", answer.replace("\\!", "").replace(_MINUS, "-"))
    fraction = _FRACTION.fullmatch(plain)
    if fraction:
        sign, over, under = fraction.groups()[:3] if fraction[2] else fraction.groups()[3:]
        return Fraction(int(sign + over), int(under)) if int(under) else None
    if not any(character.isdigit() for character in plain) or not _NUMBER.fullmatch(plain):
        return None
    return Fraction(plain.replace(",", ""))


def same_number(answer: str, gold: str) -> bool:
    """Return whether an answer is the right number, however it is written; anything but a plain number is wrong."""
    found, right = as_number(answer), as_number(gold)
    return found is not None and found == right


class Checker:
    """Compares answers with math-verify; one for the process, and safe to call from many threads.

    Args:
        timeout: Seconds that one comparison may take, the start of the process not included.

    Raises:
        MissingExtraError: math-verify is not installed.
    """

    def __init__(self, timeout: float = 10.0) -> None:
        _require()
        self._timeout = timeout
        self._lock = threading.Lock()
        self._pattern: Host | None = None
        """Does nothing but fork."""
        self._host: Host | None = None

    def same(self, answer: str, gold: str) -> bool:
        """Return whether an answer says the same as the right one.

        Raises:
            WorkerError: The process that checks cannot be started; that says nothing about the answer.
        """
        if not answer or len(answer) > LONGEST_ANSWER or not answer.isprintable():
            return False
        if "".join(answer.split()) == "".join(gold.split()):
            return True
        numbers = as_number(answer), as_number(gold)
        if None not in numbers:
            return numbers[0] == numbers[1]
        with self._lock:
            try:
                return bool(self._started().call("same", answer, gold))
            except WorkerError:
                # It took too long, or too much memory: the answer is to blame, if another process does what it should.
                self._host = None
                self._started().call("same", "1", "1")
                return False

    def close(self) -> None:
        """End the processes; the next comparison starts others."""
        with self._lock:
            for host in (self._host, self._pattern):
                if host is not None:
                    host.close()
            self._host = self._pattern = None

    def _started(self) -> Host:
        """Return the process that compares: a fork, so that the next one is there at once when it must be ended."""
        if self._pattern is None or not self._pattern.alive:
            self._pattern = Host(_COMPARISON, timeout=self._timeout, name="math-verify")
        if self._host is None or not self._host.alive:
            self._host = self._pattern.fork()
        return self._host

    def __deepcopy__(self, memo: dict[int, Any]) -> "Checker":
        return self


@lru_cache(maxsize=1)
def shared_checker() -> Checker:
    """Return the checker that all environments of the process share.

    Raises:
        MissingExtraError: math-verify is not installed.
    """
    return Checker()


def _require() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise MissingExtraError.of("math", "Checking answers that are formulas")
