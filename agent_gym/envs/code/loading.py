"""Programming tasks in the forms of HumanEval and MBPP."""

import ast
import re
from typing import Any, Final

from agent_gym.envs.code.tasks import CodeTask
from agent_gym.envs.questions import HubData
from agent_gym.envs.questions.files import Row

KNOWN: Final = {
    "humaneval": HubData("openai/openai_humaneval", {"test": "test"}),
    "mbpp": HubData("google-research-datasets/mbpp", {"train": "train", "valid": "validation", "test": "test"}, "full"),
    "mbpp-sanitized": HubData(
        "google-research-datasets/mbpp", {"train": "train", "valid": "validation", "test": "test"}, "sanitized"
    ),
}
"""Data sets of the hub by short name."""

_CALLED: Final = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


def read_task(row: Row, *, shown_tests: int = 1) -> tuple[str, CodeTask]:
    """Make a task of a row of HumanEval ("prompt", "test", "entry_point") or MBPP ("text" or "prompt", "test_list").

    Args:
        row: The row.
        shown_tests: How many of the assertions of an MBPP task its statement shows; without any, the name of the
            function and its arguments would be left to guessing.

    Raises:
        ValueError: It has neither form.
    """
    own_id = str(row.get("task_id", ""))
    if {"prompt", "test", "entry_point"} <= row.keys():
        return own_id, _humaneval(row)
    if row.get("test_list") and (row.get("text") or row.get("prompt")):
        return own_id, _mbpp(row, shown_tests)
    raise ValueError("it has neither prompt, test and entry_point nor text and test_list")


def _humaneval(row: Row) -> CodeTask:
    prompt, function = str(row["prompt"]), str(row["entry_point"])
    canonical = str(row.get("canonical_solution") or "")
    before, _, _ = prompt.partition(f"def {function}")
    return CodeTask(
        statement=f"Complete this Python function, and answer with the whole function:\n{prompt.strip()}",
        function=function,
        solution=prompt + canonical if canonical else "",
        check=(f"{row['test']}\n\ncheck({function})\n",),
        preamble=before,
        prompt=prompt,
    )


def _mbpp(row: Row, shown_tests: int) -> CodeTask:
    tests = [str(test).strip() for test in row["test_list"]]
    imports = "\n".join(row.get("test_imports") or [])
    setup = "\n".join(part for part in (imports, str(row.get("test_setup_code") or "")) if part)
    solution = str(row.get("code") or "").replace("\r\n", "\n")
    text = str(row.get("text") or row["prompt"]).strip()
    shown = "\n".join(tests[:shown_tests])
    return CodeTask(
        statement=f"{text}\nIt must pass tests such as:\n{shown}" if shown else text,
        function=_function_under_test(tests, solution),
        solution=f"{setup}\n{solution}" if solution else "",
        check=tuple(f"{setup}\n{test}\n" for test in tests),
    )


def _function_under_test(tests: list[str], solution: str) -> str:
    """Return the function that all tests call and the solution defines."""
    called = [set(_CALLED.findall(test)) for test in tests]
    defined = _defined_functions(solution)
    common = [name for name in defined if all(name in names for names in called)]
    if common:
        # Helpers come first, what is asked for last.
        return common[-1]
    in_order: list[Any] = _CALLED.findall(tests[0])
    if not in_order:
        raise ValueError("its tests call no function")
    return str(next((name for name in in_order if name in defined), in_order[0]))


def _defined_functions(solution: str) -> list[str]:
    try:
        tree = ast.parse(solution)
    except SyntaxError:
        return []
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
