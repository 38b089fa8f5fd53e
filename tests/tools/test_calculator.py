"""The calculator: what it knows, and that nothing breaks it or keeps it busy."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import ToolError
from agent_gym.tools.calculator import calculator, evaluate
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.toolbox import Toolbox


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("0.1 + 0.2", "0.3"),
        ("7 / 2", "3.5"),
        ("6 / 2", "3"),
        ("-7 // 2", "-4"),
        ("7 % 4 - +1", "2"),
        ("2 ** 100", "1267650600228229401496703205376"),
        ("2 ** -1", "0.5"),
        ("(-8) ** 2", "64"),
        ("math.sqrt(2) * sqrt(2)", "2"),
        ("sin(pi / 6)", "0.5"),
        ("2 * math.pi", "6.28318530717959"),
        ("log(100, 10)", "2"),
        ("factorial(20) / factorial(18)", "380"),
        ("comb(52, 5)", "2598960"),
        ("perm(5, 2) + gcd(12, 18) + lcm(4, 6)", "38"),
        ("factorial(6 / 2)", "6"),
        ("isqrt(17) + round(2.5) + round(2.345, 1)", "8.3"),
        ("max(1, 2, 3) - min(4, 5)", "-1"),
        ("3 × 4 ÷ 2 − 1", "5"),  # noqa: RUF001 - as models write it
        ("1e400", "inf"),
        (" 1 ", "1"),
    ],
)
def test_expressions_are_calculated(expression: str, value: str) -> None:
    assert calculator(expression) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("1 / 0", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("(-8) ** 0.5", "not a real number"),
        ("sqrt(-1)", "math domain error|nonnegative"),
        ("2 ^ 3", r"write \*\* for a power"),
        ("1,234 + 1", "write numbers without commas"),
        ("x + 1", "'x' cannot be calculated: only numbers"),
        ("1 +", "invalid syntax; write one expression of numbers"),
        ("", "write one expression"),
        ("a = 1", "write one expression"),
        ("factorial(2.5)", "2.5 is not an integer"),
        ("factorial(-1)", "not defined for negative values"),
        ("sqroot(4)", "There is no function 'sqroot'. Known: abs, "),
        ("sqrt()", "takes exactly one argument"),
        ("max(1)", "not iterable"),
        ("sqrt(x=4)", "cannot be calculated"),
        ("10.0 ** 400", "out of range"),
        ("floor(1e400)", "infinity"),
        ("'a' * 3", "cannot be calculated"),
        ("True + 1", "cannot be calculated"),
        ("1j", "cannot be calculated"),
        ("9 " * 600, "longer than 1,000 characters"),
        ("(" * 400 + "1" + ")" * 400, "cannot be calculated"),
        ("1\x00", "null bytes"),
    ],
)
def test_what_cannot_be_calculated_is_explained(expression: str, reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        evaluate(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "9 ** 9 ** 9",
        "9 ** 9 ** 9 ** 9",
        "(-9) ** 99999999",
        "pow(10, 10 ** 9)",
        "factorial(10 ** 9)",
        "factorial(1e300)",
        "comb(10 ** 9, 10 ** 8)",
        "perm(10 ** 9, 10 ** 8)",
        "perm(10 ** 9, -5) * comb(10 ** 9, -10 ** 9)",
        "2 ** 9000 * 2 ** 9000",
        "lcm(2 ** 9000, 3 ** 5000)",
        "round(1, -10 ** 9)",
        "round(1, 1e300)",
        "*".join(["factorial(999)"] * 50),
        "**".join("9" * 300),
    ],
)
def test_what_would_take_for_ever_is_refused_at_once(expression: str) -> None:
    started = time.process_time()
    with pytest.raises(ToolError):
        evaluate(expression)
    # Each would take minutes, or all the memory.
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('id')",
        "().__class__.__bases__",
        "open('/etc/passwd')",
        "math.__loader__",
        "os.pi",
        "[1 for x in (1,)]",
        "lambda: 1",
        "f'{1}'",
        "(x := 1)",
        "1 if 1 else 2",
    ],
)
def test_nothing_but_arithmetic_is_run(expression: str) -> None:
    with pytest.raises(ToolError, match=r"cannot be calculated|There is no function"):
        evaluate(expression)


PARTS = [
    "9",
    "0",
    "1.5",
    "+",
    "-",
    "*",
    "**",
    "/",
    "//",
    "%",
    "(",
    ")",
    ",",
    "factorial",
    "comb",
    "round",
    "lcm",
    "pi",
    "e9",
]


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from(PARTS), max_size=25).map("".join) | st.text(st.characters(codec=None), max_size=40))
def test_no_expression_raises_anything_else(expression: str) -> None:
    result = Toolbox([calculator]).call(ToolCall("calculator", {"expression": expression}))
    assert result.ok or "calculator failed" not in result.text
