"""Values as JSON and back: numbers, texts, lists, tuples, sets, dictionaries, bytes and None, and nothing else.

What comes back is plain data, whatever it was made of: an object that claims to equal everything does not get through.
"""

import json
import math
from typing import Any


class NotPlainError(ValueError):
    """A value is not made of plain data alone."""


def dump(value: Any) -> str:
    """Return a value as one line of JSON.

    Raises:
        NotPlainError: It is not plain data, or too deep or long.
    """
    try:
        return json.dumps(_encoded(value))
    except NotPlainError:
        raise
    except Exception as error:  # noqa: BLE001 - a subclass of a plain type may raise whatever it likes
        raise NotPlainError(f"{type(value).__name__}: {type(error).__name__}") from None


def load(line: str) -> Any:
    """Return the value of one line of JSON.

    Raises:
        NotPlainError: It is not what `dump` writes.
    """
    try:
        return _decoded(json.loads(line))
    except NotPlainError:
        raise
    except (ValueError, TypeError, LookupError, RecursionError, MemoryError) as error:
        raise NotPlainError(type(error).__name__) from None


def _encoded(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else {"float": repr(number)}
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encoded(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {"set": [_encoded(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_encoded(key), _encoded(item)] for key, item in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    raise NotPlainError(type(value).__name__)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise NotPlainError("an object")
    ((kind, content),) = value.items()
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(_decoded(item) for item in content)
    if kind == "set":
        return frozenset(_decoded(item) for item in content)
    if kind == "dict":
        return {_decoded(key): _decoded(item) for key, item in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*content)
    raise NotPlainError(str(kind))
