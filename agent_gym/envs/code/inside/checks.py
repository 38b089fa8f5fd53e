"""Inside: runs tests that call a function, in a process in which no untrusted program runs.

The function is played by a table of what the program under test gave when it was called, in another sandbox. A call
that the table lacks is reported, so that it can be made there.
"""

import builtins
import json
import os
import random
import sys
from typing import Any

from agent_gym.envs.code.inside.plain import NotPlainError, dump, load


class UnknownCall(BaseException):
    """The table lacks a call."""


class ProgramFailed(Exception):  # noqa: N818 - what the program raised
    """The program raised an error that has no name of its own here."""


def run_checks(request: dict[str, Any]) -> None:
    """Run tests and print what became of each.

    Args:
        request: "program", which defines whatever the tests use; "function", its name; "tests", pieces of Python;
            "table", a line of `dump` for the arguments of each known call and what it gave: {"value"} or {"error"};
            "actor", who plays the function: "table", or "program", and then its calls are reported; or "nobody",
            and then the program is left as it is; "word", see `run_calls`.
    """
    channel = os.dup(1)

    def say(**line: Any) -> None:
        sys.stdout.flush()
        os.write(channel, f"\n{request['word']}{json.dumps(line)}\n".encode())

    for number, test in enumerate(request["tests"]):
        # Each test begins alike, so that what it draws at random is the same in every run.
        random.seed(0)
        try:
            namespace: dict[str, Any] = {"__name__": "tests"}
            exec(compile(request["program"], "program.py", "exec"), namespace)
            if request["actor"] != "nobody":
                namespace[request["function"]] = _Actor(request, namespace.get(request["function"]), say)
            exec(compile(test, "test.py", "exec"), namespace)
        except UnknownCall:
            say(test=number, outcome="unknown")
        except NotPlainError as error:
            say(test=number, outcome="not plain", message=str(error)[:200])
        except BaseException as error:  # noqa: BLE001 - a test fails by whatever it raises
            say(test=number, outcome="failed", message=f"{type(error).__name__}: {str(error)[:200]}")
        else:
            say(test=number, outcome="passed")


class _Actor:
    """Plays the function."""

    def __init__(self, request: dict[str, Any], function: Any, say: Any) -> None:
        self._table: dict[str, dict[str, str]] = request["table"]
        self._function = function
        self._by_table = request["actor"] == "table"
        self._say = say

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        call = dump((arguments, keywords))
        if not self._by_table:
            self._say(made=call)
            return self._function(*arguments, **keywords)
        if call not in self._table:
            self._say(made=call)
            raise UnknownCall
        given = self._table[call]
        if "value" in given:
            return load(given["value"])
        kind = getattr(builtins, given["error"], None)
        raise kind(given["message"]) if kind in _SIMPLE_ERRORS else ProgramFailed(given["error"])


_SIMPLE_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, LookupError, NameError, OverflowError),
    *(RuntimeError, TypeError, ValueError, ZeroDivisionError),
)
"""Errors that a test may expect."""


def main() -> None:
    """Take the request from standard input."""
    run_checks(json.loads(sys.stdin.buffer.read()))
    sys.stdout.flush()
    os._exit(0)
