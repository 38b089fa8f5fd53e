"""A calculator that no expression can break, or keep busy: every step is bounded before it is taken."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from agent_gym.errors import ToolError
from agent_gym.tools.base import tool

_MAX_LENGTH = 1_000
"""Characters of an expression; with it the depth of the tree is bounded as well."""
_MAX_BITS = 10_000
"""Of an integer: about 3,000 digits, which Python still writes out."""
_MAX_FACTORIAL = 1_000

Number = int | float


@tool
def calculator(expression: str) -> str:
    """Calculate an arithmetic expression, such as "(3 + 4) * sqrt(2) ** 3".

    It knows + - * / // % **, pi, e, tau and functions: abs, ceil, comb, cos, exp, factorial, floor, gcd, lcm, log,
    log2, log10, max, min, perm, round, sin, sqrt, tan and others of Python's math.

    Args:
        expression: The expression, as in Python.
    """
    return written(evaluate(expression))


def evaluate(expression: str) -> Number:
    """Return the value of an expression.

    Raises:
        ToolError: It is no expression, or its value is undefined or too large.
    """
    if len(expression) > _MAX_LENGTH:
        raise ToolError(f"The expression is longer than {_MAX_LENGTH:,} characters: calculate it in parts.")
    plain = expression.strip().translate(_SIGNS)
    try:
        tree = ast.parse(plain, mode="eval")
        return _value(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolError(f"This cannot be calculated: {_reason(error)}.") from error
    except ZeroDivisionError as error:
        raise ToolError("This cannot be calculated: it divides by zero.") from error
    except (OverflowError, TypeError) as error:
        raise ToolError(f"This cannot be calculated: {error}.") from error


def written(value: Number) -> str:
    """Return a number in digits: 15 that count, so that 0.1 + 0.2 is 0.3, and all of an integer."""
    return str(value) if isinstance(value, int) else f"{value:.15g}"


_SIGNS = str.maketrans(
    {"\N{MULTIPLICATION SIGN}": "*", "\N{MIDDLE DOT}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-"}
)


def _reason(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg}; write one expression of numbers, as in Python"
    return str(error) or "it is nested too deeply"


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="math"), attr=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _real(_OPERATORS[type(op)](_value(left), _value(right)))
        case ast.Call(func=function, args=arguments, keywords=[]):
            return _real(_function(function)(*[_value(each) for each in arguments]))
    raise ToolError(f"{_excerpt(node)} cannot be calculated: {_hint(node)}.")


def _function(node: ast.expr) -> Callable[..., Any]:
    match node:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="math"), attr=name) if name in _FUNCTIONS:
            return _FUNCTIONS[name]
    raise ToolError(f"There is no function {_excerpt(node)}. Known: {', '.join(sorted(_FUNCTIONS))}.")


def _excerpt(node: ast.expr) -> str:
    text = ast.unparse(node)
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _hint(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor):
        return "write ** for a power"
    if isinstance(node, ast.Tuple):
        return "write numbers without commas"
    return "only numbers, + - * / // % **, pi, e and functions of math are known"


def _real(value: Any) -> Number:
    if isinstance(value, complex):
        raise ToolError("This cannot be calculated: the result is not a real number.")
    return value  # type: ignore[no-any-return]


def _bounded(bits: float) -> None:
    """Refuse an integer that would be too large, before it is made."""
    if bits > _MAX_BITS:
        raise ToolError(f"This cannot be calculated: a result has more than {_MAX_BITS:,} bits.")


def _bits(value: Number) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _multiply(left: Number, right: Number) -> Number:
    _bounded(_bits(left) + _bits(right))
    return left * right


def _power(base: Number, exponent: Number) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        _bounded(_bits(abs(base) - 1) * exponent)
    return base**exponent


def _factorial(number: Number) -> int:
    if number > _MAX_FACTORIAL:
        raise ToolError(f"This cannot be calculated: factorials are known up to {_MAX_FACTORIAL:,}.")
    return math.factorial(_integer(number))


def _comb(number: Number, chosen: Number) -> int:
    number, chosen = _integer(number), _integer(chosen)
    _bounded(_bits(number) * min(chosen, max(number - chosen, 0)))
    return math.comb(number, chosen)


def _perm(number: Number, chosen: Number) -> int:
    number, chosen = _integer(number), _integer(chosen)
    _bounded(_bits(number) * min(chosen, number))
    return math.perm(number, chosen)


def _lcm(*numbers: Number) -> int:
    _bounded(sum(_bits(number) for number in numbers))
    return math.lcm(*(_integer(number) for number in numbers))


def _round(number: Number, digits: Number = 0) -> Number:
    if abs(digits) > 100:
        raise ToolError("This cannot be calculated: round takes up to 100 digits.")
    return round(number, _integer(digits)) if digits else round(number)


def _integer(number: Number) -> int:
    """Take 3.0 for 3, as a result of a division often is."""
    if isinstance(number, float) and not number.is_integer():
        raise ToolError(f"This cannot be calculated: {number:.15g} is not an integer.")
    return int(number)


_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _multiply,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(math, name)
        for name in (
            *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "cos", "cosh", "degrees"),
            *("erf", "exp", "expm1", "fabs", "floor", "fmod", "gamma", "hypot", "lgamma", "log", "log10", "log1p"),
            *("log2", "radians", "sin", "sinh", "sqrt", "tan", "tanh", "trunc"),
        )
    },
    "abs": abs,
    "comb": _comb,
    "factorial": _factorial,
    "gcd": lambda *numbers: math.gcd(*(_integer(number) for number in numbers)),
    "isqrt": lambda number: math.isqrt(_integer(number)),
    "lcm": _lcm,
    "max": max,
    "min": min,
    "perm": _perm,
    "pow": _power,
    "round": _round,
}
