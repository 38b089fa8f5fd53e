"""What the official training games look like: which receptacles, which objects, where they lie, what is asked for.

The numbers in tables.json were counted over the 3,553 official training games; a number beside a count ("2": 14) is
the number of games that have so many. Knows nothing of generating or playing.
"""

import json
import random
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import accumulate
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Weighted(Generic[T]):
    """Things with weights, prepared for drawing."""

    __slots__ = ("names", "sums")

    def __init__(self, weights: Mapping[T, float]) -> None:
        self.names = tuple(weights)
        self.sums = tuple(accumulate(weights.values()))

    def draw(self, rng: random.Random) -> T:
        """Return one of the things."""
        return rng.choices(self.names, cum_weights=self.sums)[0] if len(self.names) > 1 else self.names[0]

    def without(self, banned: Container[T]) -> "Weighted[T]":
        """Return the same weights with some things left out."""
        return Weighted({name: weight for name, weight in self.items() if name not in banned})

    def within(self, allowed: Container[T]) -> "Weighted[T]":
        """Return the same weights for the allowed things alone."""
        return Weighted({name: weight for name, weight in self.items() if name in allowed})

    def items(self) -> Iterator[tuple[T, float]]:
        """Yield the things with their weights."""
        before = 0.0
        for name, until in zip(self.names, self.sums, strict=True):
            yield name, until - before
            before = until


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """What the official games say about one kind of room."""

    name: str
    receptacles: dict[str, Weighted[int]]
    """How many there are of a kind."""
    present: dict[str, float]
    """How often there is any of a receptacle kind."""
    openable: dict[str, float]
    """Share of a receptacle kind that can be opened and closed."""
    objects: dict[str, Weighted[int]]
    """How many there are of a kind."""
    homes: dict[str, Weighted[str]]
    """On which kinds of receptacle an object kind lies."""
    goals: dict[str, dict[str, int]]
    """For each task type, how often each object kind is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """All that is known of the official games."""

    rooms: dict[str, Room]
    properties: dict[str, frozenset[str]]
    """Properties of each object kind."""
    can_contain: frozenset[tuple[str, str]]
    """Pairs (receptacle kind, object kind) that allow placing."""


@lru_cache(maxsize=1)
def load_figures() -> Figures:
    """Read the figures that come with the package."""
    raw = json.loads(resources.files("agent_gym.envs.alfworld").joinpath("tables.json").read_text(encoding="utf-8"))
    properties: dict[str, set[str]] = {}
    for name, kinds in raw["properties"].items():
        for kind in kinds:
            properties.setdefault(kind, set()).add(name)
    return Figures(
        rooms={name: _read_room(name, room) for name, room in raw["rooms"].items()},
        properties={kind: frozenset(names) for kind, names in properties.items()},
        can_contain=frozenset((r, o) for r, objects in raw["can_contain"].items() for o in objects),
    )


def _read_room(name: str, raw: dict[str, Any]) -> Room:
    receptacles = {kind: _histogram(entry) for kind, entry in raw["receptacles"].items()}
    return Room(
        name=name,
        receptacles={kind: Weighted(games) for kind, games in receptacles.items()},
        present={kind: 1 - games.get(0, 0) / sum(games.values()) for kind, games in receptacles.items()},
        openable={kind: entry.get("openable", 0.0) for kind, entry in raw["receptacles"].items()},
        objects={kind: Weighted(_histogram(entry)) for kind, entry in raw["objects"].items()},
        homes={kind: Weighted(entry["where"]) for kind, entry in raw["objects"].items()},
        goals=raw["goals"],
    )


def _histogram(entry: dict[str, Any]) -> dict[int, int]:
    return {int(number): games for number, games in entry["counts"].items()}
