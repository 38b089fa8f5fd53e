"""Verdicts: whether a program does what a task asks, found out in sandboxes that its author has never touched.

What holds, and why. The program runs in a fresh sandbox and is called there; what its function gives comes out as plain
data, and is compared here, with results that never went in. So it does not help a program to end early, to print
lines of its own, to patch `json` or `builtins`, to give objects that equal everything, or to look for the tests: the
only way to a right result is to give it. (It sees the arguments of all calls of a run before it gives the first
result, and it can keep state from call to call; neither tells it what is right.)

Where a task is judged by assertions instead (HumanEval, MBPP), the tests run in a sandbox of their own, without the
program: its part is played by what it gave. The calls to make are learnt from a run of the tests with the task's own
solution, and from what they ask for beyond that. The tests see copies, so one that looks at an argument that the
function has changed finds it unchanged.

Where arguments are not plain data, that cannot be done. Such a verdict must be allowed (`allow_weak`), because there
the program and the tests share a process, and a program written for that can report whatever it likes.
"""

import inspect
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agent_gym.envs.code.inside import calls, checks, plain
from agent_gym.envs.code.inside.plain import NotPlainError, dump, load
from agent_gym.envs.code.tasks import CodeTask
from agent_gym.errors import DataError
from agent_gym.sandbox.base import Result, Sandbox

_ROUNDS: Final = 100
"""How often tests may ask for calls that they did not make with the task's own solution."""
_OWN_MODULES: Final = "from agent_gym."

_Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a program did."""

    passed: int
    """Tests that it passed."""
    total: int
    strong: bool = True
    """Whether the program had no part in saying so."""
    problem: str = ""
    """What kept it from passing, where that is more than a wrong result."""

    @property
    def solved(self) -> bool:
        """Whether it passed all tests."""
        return self.passed == self.total


class Judge:
    """Judges programs; shared by environments, and safe to call from many threads.

    Args:
        sandbox: Returns where programs run; called when the first one is judged.
        timeout: Seconds that one run of a program may take, all its calls together.
        allow_weak: Whether a task may be judged in one process with the program where there is no other way.
    """

    def __init__(self, sandbox: Callable[[], Sandbox], *, timeout: float = 10.0, allow_weak: bool = False) -> None:
        self._sandbox = sandbox
        self._timeout = timeout
        self._allow_weak = allow_weak
        self._recorded: dict[tuple[Any, ...], list[str] | None] = {}

    def judge(self, task: CodeTask, program: str) -> Verdict:
        """Return the verdict on a program.

        Raises:
            SandboxError: The sandbox failed; that says nothing about the program.
            DataError: The task cannot be judged: its tests do not run, or only in one process with the program.
        """
        if not task.check:
            return self._judge_by_results(task, program)
        calls_to_make = self._recorded_calls(task)
        if calls_to_make is not None:
            return self._judge_by_tests(task, program, calls_to_make)
        if not self._allow_weak:
            raise DataError(
                "The tests of this task pass more than plain data to the function, so that they can only be run in one "
                "process with the program, which could then forge the verdict: leave the task out, or set "
                "allow_weak_verdicts."
            )
        lines = self._run_checks(task, program=program, actor="nobody")
        return _verdict_of_tests(task, lines, strong=False)

    def _judge_by_results(self, task: CodeTask, program: str) -> Verdict:
        made = [dump((test.arguments, {})) for test in task.tests]
        results, problem = self._run_calls(task, program, made)
        passed = sum(
            call in results and _gave(results[call], test.expected) for call, test in zip(made, task.tests, strict=True)
        )
        return Verdict(passed, len(task.tests), problem=problem)

    def _judge_by_tests(self, task: CodeTask, program: str, wanted: Sequence[str]) -> Verdict:
        table: dict[str, dict[str, str]] = {}
        problem = ""
        for _ in range(_ROUNDS):
            given, problem = self._run_calls(task, program, wanted)
            lost = {"error": "ProgramFailed", "message": problem or "it ended before this call"}
            table |= {call: given.get(call, lost) for call in wanted}
            lines = self._run_checks(task, program=_of_the_task(task), actor="table", table=table)
            wanted = [call for call in _calls_made(lines) if call not in table]
            if not wanted:
                break
        if wanted and not task.solution:
            raise DataError("The tests of this task ask for ever more calls, and it has no solution: leave it out.")
        return replace(_verdict_of_tests(task, lines, strong=True), problem=problem)

    def _recorded_calls(self, task: CodeTask) -> list[str] | None:
        """Return the calls that the tests make with the task's own solution; None if they are not plain data."""
        key = (task.function, task.solution, task.check)
        if key not in self._recorded:
            lines = self._run_checks(task, program=_of_the_task(task), actor="program")
            outcomes = {line["outcome"] for line in lines if "outcome" in line}
            if not outcomes:
                raise DataError("The tests of this task cannot be run in the sandbox: correct the data.")
            self._recorded[key] = None if "not plain" in outcomes else _calls_made(lines)
        return self._recorded[key]

    # -- the sandbox -----------------------------------------------------------------------------------------------

    def _run_calls(self, task: CodeTask, program: str, wanted: Sequence[str]) -> tuple[dict[str, dict[str, str]], str]:
        """Call the program; return what each call gave, and what went wrong as a whole."""
        request = {"program": program, "function": task.function, "calls": list(wanted)}
        lines, result = self._run(calls, request)
        given: dict[str, dict[str, str]] = {}
        problem = _ending(result)
        for line in lines:
            number = line.get("call")
            if isinstance(number, int) and 0 <= number < len(wanted):
                kept = {name: str(line[name]) for name in ("value", "error", "message") if name in line}
                given.setdefault(wanted[number], kept)
            elif isinstance(line.get("load"), str):
                problem = f"it cannot be loaded: {line['load']}"
            elif "done" in line:
                problem = ""
        return given, problem

    def _run_checks(
        self, task: CodeTask, *, program: str, actor: str, table: Mapping[str, Any] | None = None
    ) -> list[_Line]:
        request = {
            "program": program,
            "function": task.function,
            "tests": list(task.check),
            "actor": actor,
            "table": dict(table or {}),
        }
        return self._run(checks, request)[0]

    def _run(self, module: Any, request: dict[str, Any]) -> tuple[list[_Line], Result]:
        """Run one of the modules in `inside` in a fresh sandbox; return the lines that it printed."""
        word = secrets.token_hex(16)
        stdin = json.dumps({**request, "word": word}).encode()
        result = self._sandbox().run(_assembled(module), stdin=stdin, timeout=self._timeout)
        return list(_lines(result.stdout, word)), result


def _assembled(module: Any) -> str:
    """Return a module of `inside` as a program that stands alone."""
    sources = [inspect.getsource(each) for each in (plain, module)]
    kept = [line for source in sources for line in source.splitlines() if not line.startswith(_OWN_MODULES)]
    return "\n".join([*kept, "main()", ""])


def _of_the_task(task: CodeTask) -> str:
    """Return the program that tests find around them: the task's own, whose helpers they may use."""
    return task.solution or task.preamble


def _lines(stdout: bytes, word: str) -> list[_Line]:
    """Return what was printed under a word."""
    found: list[_Line] = []
    for line in stdout.split(b"\n"):
        if line.startswith(word.encode()):
            try:
                content = json.loads(line[len(word) :])
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                found.append(content)
    return found


def _calls_made(lines: Sequence[_Line]) -> list[str]:
    return list(dict.fromkeys(line["made"] for line in lines if isinstance(line.get("made"), str)))


def _gave(given: Mapping[str, str], expected: Any) -> bool:
    """Return whether a call gave what it must; both sides are plain data."""
    try:
        return "value" in given and bool(load(given["value"]) == load(dump(expected)))
    except (NotPlainError, RecursionError):
        return False


def _verdict_of_tests(task: CodeTask, lines: Sequence[_Line], *, strong: bool) -> Verdict:
    outcomes: dict[int, _Line] = {}
    for line in lines:
        if isinstance(line.get("test"), int):
            outcomes.setdefault(line["test"], line)
    passed = sum(outcomes.get(number, {}).get("outcome") == "passed" for number in range(len(task.check)))
    return Verdict(passed, len(task.check), strong)


def _ending(result: Result) -> str:
    """Return how a run ended that did not come to its end."""
    if result.timed_out:
        return "it took too long"
    if result.killed_by is not None:
        return f"it was ended by the limit {result.killed_by}"
    return "" if result.ok else "it ended before its time"
