"""Info: what an environment says about a turn besides the observation; a dict whose values may be lazy."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

INFO_KEYS = ("task_id", "goal", "success", "score", "admissible_actions", "invalid_action", "turn")
"""The keys of `info` at every reset and step of every environment."""


@dataclass(slots=True)
class _Lazy:
    """Stands in an `Info` for a value that nobody has read yet."""

    compute: Callable[[], Any]


class Info(dict[str, Any]):
    """The info of one turn: a dict whose expensive values are computed when they are first read.

    `info["admissible_actions"]` runs the function that was given for it and keeps the result, so that an agent which
    never looks does not pay. The function must capture the state of this turn (not of the environment as it moves on).
    """

    __slots__ = ()

    def __init__(self, values: Mapping[str, Any], lazy: Mapping[str, Callable[[], Any]] | None = None) -> None:
        super().__init__(values)
        if lazy:
            for key, compute in lazy.items():
                self[key] = _Lazy(compute)

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if type(value) is _Lazy:
            value = value.compute()
            self[key] = value
        return value

    def __iter__(self) -> Iterator[str]:
        # Having this of its own makes dict(info) and {**info} read through __getitem__.
        return dict.__iter__(self)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return self.copy() | dict(other)

    def unread(self) -> tuple[str, ...]:
        """Return the keys whose values nobody has read, so that they are not computed yet."""
        return tuple(key for key, value in dict.items(self) if type(value) is _Lazy)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, computing it if it is lazy, after setting it to `default` if it is missing."""
        super().setdefault(key, default)
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        """Remove a key and return its value, computing it if it is lazy."""
        if key in self:
            self[key]
        return super().pop(key, *default)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, computing it if it is lazy, or `default`."""
        return self[key] if key in self else default  # noqa: SIM401 - dict.get would not compute it

    def items(self) -> Any:
        """Return the items, all computed."""
        self._compute_all()
        return super().items()

    def values(self) -> Any:
        """Return the values, all computed."""
        self._compute_all()
        return super().values()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict, all computed."""
        return dict(self.items())

    def __eq__(self, other: object) -> bool:
        self._compute_all()
        if isinstance(other, Info):
            other._compute_all()
        return dict.__eq__(self, other)

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (Info, (self.copy(),))

    def _compute_all(self) -> None:
        for key in tuple(self):
            self[key]
