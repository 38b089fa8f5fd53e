"""Verdicts: right programs pass, wrong ones do not, and no cheat turns one into the other."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.code.answers import complete
from agent_gym.envs.code.loading import read_task
from agent_gym.envs.code.tasks import CallTest, CodeTask, generate
from agent_gym.envs.code.verdict import Judge, Verdict
from agent_gym.envs.questions import read_rows
from agent_gym.errors import DataError, SandboxError

GOLDEN = Path(__file__).parents[2] / "golden/code"
HUMANEVAL = dict(read_task(row) for row in read_rows(GOLDEN / "humaneval.jsonl"))
MBPP = dict(read_task(row) for row in read_rows(GOLDEN / "mbpp.jsonl"))
DOUBLE = CodeTask(
    "Double it.", "solve", "def solve(x):\n    return 2 * x\n", tuple(CallTest((n,), 2 * n) for n in (1, 5, 70))
)
DOUBLE_BY_TESTS = CodeTask(
    "Double it.", "solve", DOUBLE.solution, check=tuple(f"assert solve({n}) == {2 * n}" for n in (1, 5, 70))
)

CHEATS = {
    "an object that equals everything": """
class Liar:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def solve(x): return Liar()
""",
    "a number that equals everything": """
class Liar(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def solve(x): return Liar(0)
""",
    "ending at once with success": """
import os
os._exit(0)
""",
    "ending in the call with success": """
import os
def solve(x): os._exit(0)
""",
    "sys.exit": """
import sys
def solve(x): sys.exit(0)
""",
    "printing results and ending": """
import os
def solve(x):
    print("passed\\nOK\\n3 passed")
    os._exit(0)
""",
    "forging lines under the word of the run": """
import os, sys, json
def word():
    frame = sys._getframe()
    while frame:
        request = frame.f_locals.get("request")
        if isinstance(request, dict) and "word" in request: return request["word"]
        frame = frame.f_back
for number in range(3):
    lines = {"test": number, "outcome": "passed"}, {"call": number, "value": "true"}, {"call": number, "passed": True}
    for line in lines:
        os.write(1, f"\\n{word()}{json.dumps(line)}\\n".encode())
def solve(x): return None
""",
    "patching json": """
import json
json.dumps = lambda value, **options: '{"call": 0, "value": true, "outcome": "passed", "test": 0}'
def solve(x): return None
""",
    "patching builtins": """
import builtins
builtins.isinstance = lambda *given: True
builtins.bool = lambda *given: True
builtins.type = lambda *given: int
def solve(x): return None
""",
    "patching what runs it": """
import __main__
for name in list(vars(__main__)):
    if callable(getattr(__main__, name)) and name not in ("main",):
        try: setattr(__main__, name, lambda *given, **more: "true")
        except Exception: pass
def solve(x): return None
""",
    "looking for the tests": """
import gc, os, sys
def solve(x):
    for found in gc.get_objects():
        if isinstance(found, dict) and "expected" in found: return found["expected"]
    for folder, _, files in os.walk("."):
        for file in files:
            if "test" in file: return open(os.path.join(folder, file)).read()
    return sys.stdin.read()
""",
    "reading what comes on standard input": """
import sys, os
taken = sys.stdin.read() + os.read(0, 10000).decode()
def solve(x): return taken
""",
    "an error that tests might expect": """
def solve(x): raise AssertionError
""",
    "closing the channels": """
import os
os.closerange(0, 20)
def solve(x): return None
""",
    "no function at all": "solve = None",
    "broken code": "def solve(x: return",
    "nothing": "",
}


@pytest.mark.parametrize("program", CHEATS.values(), ids=CHEATS)
@pytest.mark.parametrize("task", [DOUBLE, DOUBLE_BY_TESTS], ids=["results", "tests"])
def test_no_cheat_passes_a_single_test(judge: Judge, task: CodeTask, program: str) -> None:
    assert judge.judge(task, program).passed == 0


@pytest.mark.parametrize("task", [DOUBLE, DOUBLE_BY_TESTS], ids=["results", "tests"])
def test_a_right_program_passes_whatever_else_it_does(judge: Judge, task: CodeTask) -> None:
    noisy = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nprint('no newline', end='')\n"
    )
    program = noisy + "def solve(x):\n    print(x, end='')\n    return x + x\n"
    assert judge.judge(task, program) == Verdict(3, 3)


@pytest.mark.parametrize("task", [DOUBLE, DOUBLE_BY_TESTS], ids=["results", "tests"])
def test_tests_count_one_by_one(judge: Judge, task: CodeTask) -> None:
    verdict = judge.judge(task, "def solve(x):\n    return 2 * x if x < 50 else x\n")
    assert (verdict.passed, verdict.total, verdict.solved) == (2, 3, False)
    assert judge.judge(task, "def solve(x):\n    return {1: 2}[x]\n").passed == 1


def test_what_was_given_before_time_ran_out_counts(any_sandbox: Any) -> None:
    program = "def solve(x):\n    while x > 50: pass\n    return 2 * x\n"
    verdict = Judge(lambda: any_sandbox, timeout=2.0).judge(DOUBLE, program)
    assert verdict.passed == 2 and verdict.problem == "it took too long"


def test_why_a_program_cannot_be_loaded_is_told(judge: Judge) -> None:
    assert "it cannot be loaded: SyntaxError" in judge.judge(DOUBLE, "def solve(x: return").problem
    assert "it cannot be loaded: KeyError: 'solve'" in judge.judge(DOUBLE, "x = 1").problem


@pytest.mark.parametrize(
    ("returned", "expected", "right"),
    [
        ("(1, 2)", (1, 2), True),
        ("[1, 2]", (1, 2), False),
        ("2.0", 2, True),
        ("True", 1, True),
        ("'1'", 1, False),
        ("{1, 2}", {2, 1}, True),
        ("__import__('collections').Counter('aab')", {"a": 2, "b": 1}, True),
        ("float('nan')", float("nan"), False),
        ("iter([1])", [1], False),
    ],
)
def test_results_are_compared_as_python_compares_them(
    process_sandbox: Any, returned: str, expected: Any, right: bool
) -> None:
    task = CodeTask("", "solve", "", (CallTest((), expected),))
    verdict = Judge(lambda: process_sandbox).judge(task, f"def solve():\n    return {returned}\n")
    assert verdict.solved is right


def test_expected_results_never_go_in(process_sandbox: Any) -> None:
    task = CodeTask("", "solve", "# the solution", (CallTest((12345,), "a secret result"),))
    Judge(lambda: process_sandbox).judge(task, "def solve(x): return x")
    (sent,) = process_sandbox.sent
    assert "12345" in sent and "secret" not in sent and "solution" not in sent
    assert set(json.loads(sent)) == {"program", "function", "calls", "word"}


def test_the_program_and_the_tests_never_meet(process_sandbox: Any) -> None:
    judge = Judge(lambda: process_sandbox)
    judge.judge(DOUBLE_BY_TESTS, "def solve(x): return 'the program under test'")
    with_program = [sent for sent in process_sandbox.sent if "the program under test" in json.loads(sent)["program"]]
    assert len(with_program) == 1 and "assert" not in with_program[0] and len(process_sandbox.sent) == 3
    words = {json.loads(sent)["word"] for sent in process_sandbox.sent}
    assert len(words) == 3


def test_the_calls_of_the_tests_are_learnt_once(process_sandbox: Any) -> None:
    judge = Judge(lambda: process_sandbox)
    for _ in range(3):
        assert judge.judge(DOUBLE_BY_TESTS, DOUBLE.solution).solved
    assert len(process_sandbox.sent) == 1 + 3 * 2


@pytest.mark.parametrize("task", HUMANEVAL.values(), ids=HUMANEVAL)
def test_humaneval_is_judged_without_the_program_having_a_say(judge: Judge, task: CodeTask) -> None:
    solved = judge.judge(task, complete(task.solution, task))
    assert solved.solved and solved.strong
    body = task.solution[len(task.prompt) :]
    assert judge.judge(task, complete(body, task)).solved
    assert not judge.judge(task, complete("    return None\n", task)).solved


@pytest.mark.parametrize("task", MBPP.values(), ids=MBPP)
def test_mbpp_is_judged_without_the_program_having_a_say(judge: Judge, task: CodeTask) -> None:
    solved = judge.judge(task, task.solution)
    assert solved.solved and solved.strong and solved.total == 3
    assert judge.judge(task, f"def {task.function}(*given):\n    return None\n").passed == 0


def test_calls_that_depend_on_what_the_program_gives_are_made_as_well(judge: Judge) -> None:
    task = CodeTask("", "solve", "def solve(x):\n    return x + 1\n", check=("assert solve(solve(solve(1))) > 3",))
    assert judge.judge(task, "def solve(x):\n    return 10 * x\n").solved
    assert not judge.judge(task, "def solve(x):\n    return x\n").solved


def test_a_task_without_a_solution_is_judged_by_what_its_tests_ask_for(process_sandbox: Any) -> None:
    judge = Judge(lambda: process_sandbox)
    task = CodeTask("", "solve", "", check=("assert solve(1) == 2", "assert solve(2) == 4"))
    assert judge.judge(task, DOUBLE.solution) == Verdict(2, 2)
    row = {**read_rows(GOLDEN / "humaneval.jsonl")[1], "canonical_solution": None}
    _, task = read_task(row)
    assert task.solution == "" and task.check[0].count("assert") == 5
    assert judge.judge(task, HUMANEVAL["HumanEval/8"].solution).solved
    assert not judge.judge(task, "def sum_product(numbers):\n    return sum(numbers), 1\n").solved


def test_tests_that_ask_for_ever_more_calls_are_no_verdict(
    process_sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_gym.envs.code.verdict._ROUNDS", 3)
    judge = Judge(lambda: process_sandbox)
    check = ("x = 0\nwhile solve(x) < 100:\n    x += 1",)
    slow = "def solve(x):\n    return x\n"
    with pytest.raises(DataError, match="ask for ever more calls"):
        judge.judge(CodeTask("", "solve", "", check=check), slow)
    assert judge.judge(CodeTask("", "solve", "def solve(x):\n    return 100\n", check=check), slow) == Verdict(0, 1)


def test_tests_may_expect_errors(judge: Judge) -> None:
    check = "try:\n    solve(-1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError"
    task = CodeTask("", "solve", "def solve(x):\n    raise ValueError\n", check=(check,))
    assert judge.judge(task, "def solve(x):\n    raise ValueError('negative')\n").solved
    assert not judge.judge(task, "def solve(x):\n    return 0\n").solved
    assert not judge.judge(task, "class ValueErrors(Exception): pass\ndef solve(x):\n    raise ValueErrors\n").solved


OBJECTS = CodeTask(
    "",
    "solve",
    "class Node:\n    value = 3\ndef solve(node):\n    return node.value\n",
    check=("assert solve(Node()) == 3",),
)


def test_arguments_that_are_no_plain_data_need_to_be_allowed(judge: Judge, any_sandbox: Any) -> None:
    with pytest.raises(DataError, match="set allow_weak_verdicts"):
        judge.judge(OBJECTS, OBJECTS.solution)
    weak = Judge(lambda: any_sandbox, allow_weak=True)
    assert weak.judge(OBJECTS, OBJECTS.solution) == Verdict(1, 1, strong=False)
    assert not weak.judge(OBJECTS, OBJECTS.solution.replace("3", "4")).solved


def test_a_weak_verdict_can_be_forged_and_says_that_it_is_weak(process_sandbox: Any) -> None:
    weak = Judge(lambda: process_sandbox, allow_weak=True)
    verdict = weak.judge(OBJECTS, CHEATS["forging lines under the word of the run"])
    assert verdict == Verdict(1, 1, strong=False)


def test_tests_that_cannot_be_run_are_no_verdict(judge: Judge) -> None:
    task = CodeTask("", "solve", "import os\nos._exit(1)", check=("assert solve(1)",))
    with pytest.raises(DataError, match="cannot be run in the sandbox"):
        judge.judge(task, DOUBLE.solution)


def test_a_sandbox_that_fails_is_no_verdict(process_sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise SandboxError("The sandbox failed.")

    monkeypatch.setattr(process_sandbox, "run", fail)
    for task in (DOUBLE, DOUBLE_BY_TESTS):
        with pytest.raises(SandboxError):
            Judge(lambda: process_sandbox).judge(task, DOUBLE.solution)


def test_generated_tasks_are_passed_by_their_solutions(judge: Judge) -> None:
    for number in range(5):
        task = generate(f"test/{number}")
        assert judge.judge(task, task.solution) == Verdict(12, 12)
