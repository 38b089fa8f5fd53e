"""Programming tasks: what is asked, and the calls with which a program is judged; generated ones besides."""

import inspect
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, get_type_hints

from agent_gym.envs.code import operations

FUNCTION: Final = "solve"
"""What a generated task wants its function to be called."""
LENGTHS: Final = (1, 2, 3)
_TESTS: Final = 12
_EXAMPLES: Final = 2
_DISTINCT: Final = 4
"""Different results that the tests of a task have at least; a task with fewer could be guessed."""
_LARGEST_RESULT: Final = 300
"""Characters of a result as it is written; longer ones tell nothing more."""


@dataclass(frozen=True, slots=True)
class CallTest:
    """A call of the function, and what it must give."""

    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True, slots=True)
class CodeTask:
    """A function to write.

    It is judged by calls with known results, or else by `check`: Python that calls the function and asserts.
    """

    statement: str
    function: str
    """What the function is called."""
    solution: str
    """A program that does it, or an empty text."""
    tests: tuple[CallTest, ...] = ()
    check: tuple[str, ...] = ()
    """Pieces of Python, each of which is one test."""
    preamble: str = ""
    """What stands before the function: imports, and functions that it may use."""
    example: str = ""
    """A call to try it with."""
    prompt: str = ""
    """The beginning of the program, which an answer may go on with; empty where it may not."""


@dataclass(frozen=True)
class Operation:
    """A step of a generated task."""

    function: Callable[..., Any]
    takes: Any
    gives: Any
    has_k: bool

    @property
    def name(self) -> str:
        """The name of its function."""
        return str(self.function.__name__)

    def told(self, k: int) -> str:
        """Return the instruction."""
        text = (inspect.getdoc(self.function) or "").format(k=k)
        # 2th, 3th
        return re.sub(r"\b([23])th\b", lambda found: {"2": "2nd", "3": "3rd"}[found[1]], text)

    def source(self, k: int) -> str:
        """Return its function as text."""
        return inspect.getsource(self.function).replace("{k}", str(k)).strip()


@lru_cache(maxsize=1)
def all_operations() -> tuple[Operation, ...]:
    """Return the steps that there are."""
    found = []
    for _, function in inspect.getmembers(operations, inspect.isfunction):
        hints = get_type_hints(function)
        gives = hints.pop("return")
        has_k = hints.pop("k", None) is not None
        found.append(Operation(function, next(iter(hints.values())), gives, has_k))
    return tuple(found)


def generate(seed: str, lengths: Sequence[int] = LENGTHS) -> CodeTask:
    """Return the task of a seed: one to three steps, one after the other.

    Args:
        seed: Decides everything.
        lengths: How many steps there may be.
    """
    rng = random.Random(f"code/{seed}")
    while True:
        steps = _draw_steps(rng, rng.choice(list(lengths)))
        inputs = _inputs(steps[0][0].takes, rng, _TESTS + _EXAMPLES)
        tests = [CallTest((value,), _apply(steps, value)) for value in inputs]
        results = {repr(test.expected) for test in tests[_EXAMPLES:]}
        if len(results) >= _DISTINCT and max(map(len, results)) <= _LARGEST_RESULT:
            return _task(steps, tests)


_Steps = list[tuple[Operation, int]]


def _draw_steps(rng: random.Random, length: int) -> _Steps:
    """Draw steps of which each takes what the one before gives."""
    operation = rng.choice(all_operations())
    steps = [(operation, rng.randint(2, 5))]
    while len(steps) < length:
        used = {step.name for step, _ in steps}
        fitting = [next_ for next_ in all_operations() if next_.takes == steps[-1][0].gives and next_.name not in used]
        steps.append((rng.choice(fitting), rng.randint(2, 5)))
    return steps


def _apply(steps: _Steps, value: Any) -> Any:
    for operation, k in steps:
        value = operation.function(value, k) if operation.has_k else operation.function(value)
    return value


def _task(steps: _Steps, tests: list[CallTest]) -> CodeTask:
    kind = _KINDS[repr(steps[0][0].takes)]
    told = [operation.told(k) for operation, k in steps]
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(told, 1))
    examples, hidden = tests[:_EXAMPLES], tests[_EXAMPLES:]
    shown = [f"{FUNCTION}({test.arguments[0]!r})" for test in examples]
    results = "\n".join(f"{call} == {test.expected!r}" for call, test in zip(shown, examples, strict=True))
    statement = (
        f"Write a Python function {FUNCTION}(value) that takes {kind} and returns the result of this:\n"
        f"{numbered if len(told) > 1 else told[0]}\nExamples:\n{results}"
    )
    return CodeTask(statement, FUNCTION, _solution(steps), tuple(hidden), example=shown[0])


_KINDS: Final = {
    repr(list[int]): "a list of integers",
    repr(str): "a text",
    repr(int): "an integer",
}


def _solution(steps: _Steps) -> str:
    sources = [operation.source(k) for operation, k in steps]
    call = "value"
    for operation, k in steps:
        call = f"{operation.name}({call}, {k})" if operation.has_k else f"{operation.name}({call})"
    return "\n\n\n".join([*sources, f"def {FUNCTION}(value):\n    return {call}\n"])


def _inputs(kind: Any, rng: random.Random, count: int) -> list[Any]:
    """Draw different inputs; after the examples come those that programs are apt to forget."""
    draw, edges = _DRAWN[repr(kind)]
    inputs = [draw(rng) for _ in range(_EXAMPLES)]
    inputs += [edge for edge in edges if edge not in inputs]
    while len(inputs) < count:
        value = draw(rng)
        if value not in inputs:
            inputs.append(value)
    return inputs


def _draw_numbers(rng: random.Random) -> list[int]:
    largest = rng.choice((5, 20, 100))
    return [rng.randint(-largest // 2, largest) for _ in range(rng.randint(4, 9))]


def _draw_text(rng: random.Random) -> str:
    words = []
    for _ in range(rng.randint(2, 4)):
        word = "".join(rng.choice("abcdeeioouklmnrst") for _ in range(rng.randint(2, 6)))
        words.append(word.capitalize() if rng.random() < 1 / 4 else word + word[-1] * rng.randint(0, 1))
    return " ".join(words)


_DRAWN: Final[dict[str, tuple[Callable[[random.Random], Any], list[Any]]]] = {
    repr(list[int]): (_draw_numbers, [[], [7], [4, 4, 4], [-3, 0, 3, -6]]),
    repr(str): (_draw_text, ["", "a", "Zz zZ aa"]),
    repr(int): (lambda rng: rng.randint(2, 200), [0, 1, 13]),
}
"""How an input of a kind is drawn, and which are tried in any case."""
