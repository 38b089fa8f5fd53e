"""What requests may ask: parameters with their types and bounds, and JSON that every browser can read."""

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

Word = TypeVar("Word", bound=str)


class ApiError(Exception):
    """A request that cannot be answered: a status of HTTP and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Asked:
    """The parameters of a request. An empty value counts as none; one that nobody asks for is an error at the end."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = {name: value for name, value in parameters.items() if value != ""}
        self._known: set[str] = set()

    def text(self, name: str) -> str | None:
        """Return a text; None where it was not given."""
        self._known.add(name)
        return self._parameters.get(name)

    def needed(self, name: str) -> str:
        """Return a text that must be given."""
        value = self.text(name)
        if value is None:
            raise ApiError(400, f"The parameter {name!r} is missing.")
        return value

    def choice(self, name: str, known: tuple[Word, ...]) -> Word:
        """Return one of the known words; the first where none was given."""
        value = self.text(name)
        for word in known:
            if value in (None, word):
                return word
        raise ApiError(400, f"The parameter {name!r} is one of {', '.join(known)}, not {value!r}.")

    def integer(self, name: str, default: int | None = None, *, low: int = 0, high: int = 2**53) -> int | None:
        """Return a whole number between two bounds."""
        value = self.text(name)
        if value is None:
            return default
        try:
            number = int(value)
        except ValueError:
            raise ApiError(400, f"The parameter {name!r} is a whole number, not {value!r}.") from None
        if not low <= number <= high:
            raise ApiError(400, f"The parameter {name!r} lies between {low} and {high}.")
        return number

    def count(self, name: str, default: int, *, low: int = 0, high: int = 2**53) -> int:
        """Return a whole number that has a default."""
        number = self.integer(name, default, low=low, high=high)
        return default if number is None else number

    def number(self, name: str) -> float | None:
        """Return a finite number."""
        value = self.text(name)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ApiError(400, f"The parameter {name!r} is a number, not {value!r}.")
        return number

    def flag(self, name: str) -> bool | None:
        """Return 1 as True and 0 as False."""
        value = self.text(name)
        if value not in (None, "0", "1"):
            raise ApiError(400, f"The parameter {name!r} is 0 or 1, not {value!r}.")
        return None if value is None else value == "1"

    def done(self) -> None:
        """Refuse what was given and not asked for."""
        for name in self._parameters.keys() - self._known:
            raise ApiError(400, f"There is no parameter {name!r} here; known: {', '.join(sorted(self._known))}.")


def as_json(value: Any) -> str:
    """Return JSON in ASCII; what is not finite, which JSON does not know, becomes null."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
