"""Tasks in the forms of HumanEval and MBPP."""

from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.code.loading import read_task
from agent_gym.envs.questions import read_rows

GOLDEN = Path(__file__).parents[2] / "golden/code"


def test_humaneval_is_read() -> None:
    own_id, task = read_task(read_rows(GOLDEN / "humaneval.jsonl")[3])
    assert own_id == "HumanEval/38" and task.function == "decode_cyclic"
    assert "def encode_cyclic" in task.preamble and "def decode_cyclic" not in task.preamble
    assert task.statement.startswith("Complete this Python function") and "def decode_cyclic" in task.statement
    assert len(task.check) == 1 and task.check[0].endswith("check(decode_cyclic)\n")
    compile(task.solution, "", "exec")


def test_mbpp_is_read() -> None:
    own_id, task = read_task(read_rows(GOLDEN / "mbpp.jsonl")[1])
    assert own_id == "6" and task.function == "differ_At_One_Bit_Pos"
    assert "is_Power_Of_Two" in task.solution and "\r" not in task.solution
    assert [check.strip() for check in task.check] == [
        "assert differ_At_One_Bit_Pos(13,9) == True",
        "assert differ_At_One_Bit_Pos(15,8) == False",
        "assert differ_At_One_Bit_Pos(2,4) == False",
    ]
    assert task.statement.endswith("such as:\nassert differ_At_One_Bit_Pos(13,9) == True")


def test_the_sanitized_form_of_mbpp_is_read() -> None:
    row = {
        "source_file": "x",
        "task_id": 2,
        "prompt": "Write a function to find the root.",
        "code": "def root(x):\n    return math.sqrt(x)",
        "test_imports": ["import math"],
        "test_list": ["assert root(4) == math.sqrt(4)"],
    }
    _, task = read_task(row, shown_tests=0)
    assert task.statement == "Write a function to find the root."
    assert task.check == ("import math\nassert root(4) == math.sqrt(4)\n",)
    assert task.solution.startswith("import math\n")


@pytest.mark.parametrize(
    ("tests", "code", "function"),
    [
        (["assert set(f(1)) == {1}", "assert set(f(2)) == {2}"], "def g(): pass\ndef f(x): return [x]", "f"),
        (["assert f(1) == 1"], "", "f"),
        (["assert math.isclose(f(1), 1)"], "def f(x): return x", "f"),
        (["assert f(g(1)) == 1", "assert f(2) == 2"], "def g(x): return x\ndef f(x): return x", "f"),
        (["assert f(1) == 1"], "def broken(", "f"),
    ],
)
def test_the_function_under_test_is_found(tests: list[str], code: str, function: str) -> None:
    assert read_task({"text": "t", "code": code, "test_list": tests})[1].function == function


@pytest.mark.parametrize("row", [{}, {"text": "t", "test_list": []}, {"prompt": "p", "test": "t"}, {"text": "t"}])
def test_other_rows_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it has neither"):
        read_task(row)


def test_tests_that_call_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="call no function"):
        read_task({"text": "t", "code": "x = 1", "test_list": ["assert x == 1"]})
