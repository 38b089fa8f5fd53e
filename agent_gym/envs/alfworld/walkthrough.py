"""Writes down the commands that solve a game, for someone who knows where everything is.

Knows nothing of how games are drawn or played.
"""

from collections.abc import Sequence

from agent_gym.envs.alfworld.plans import APPLIANCES
from agent_gym.envs.alfworld.scene import Goal, Item, Receptacle


def walk_through(goal: Goal, receptacles: Sequence[Receptacle], items: Sequence[Item]) -> tuple[str, ...]:
    """Return commands that reach the goal from the start, by someone who knows where everything is."""
    walk = _Walk(receptacles)
    for item, place in _lying(items, goal.object_kind)[: 2 if goal.task_type == "pick_two_obj_and_place" else 1]:
        walk.enter(place)
        walk.commands.append(f"take {item.name} from {receptacles[place].name}")
        if goal.task_type in APPLIANCES:
            verb, kind = APPLIANCES[goal.task_type]
            appliance = walk.nearest(kind)
            walk.go(appliance)
            walk.commands.append(f"{verb} {item.name} with {receptacles[appliance].name}")
        if goal.toggle_kind:
            lamp, place = _lying(items, goal.toggle_kind)[0]
            walk.go(place)
            walk.commands.append(f"use {lamp.name}")
        else:
            target = walk.nearest(goal.receptacle_kind)
            walk.enter(target)
            walk.commands.append(f"move {item.name} to {receptacles[target].name}")
    return tuple(walk.commands)


def _lying(items: Sequence[Item], kind: str) -> list[tuple[Item, int]]:
    """Return the objects of a kind that lie in a receptacle, with its index."""
    return [(item, item.receptacle) for item in items if item.kind == kind and item.receptacle is not None]


class _Walk:
    """Where one stands and what one has opened while the commands are written down."""

    def __init__(self, receptacles: Sequence[Receptacle]) -> None:
        self.commands: list[str] = []
        self._receptacles = receptacles
        self._here: int | None = None
        self._opened: set[int] = set()

    def go(self, index: int) -> None:
        """Go to a receptacle, unless one is there."""
        if index != self._here:
            self.commands.append(f"go to {self._receptacles[index].name}")
            self._here = index

    def enter(self, index: int) -> None:
        """Go to a receptacle and see to it that things can be taken from it and put into it."""
        self.go(index)
        if self._closed(index):
            self.commands.append(f"open {self._receptacles[index].name}")
            self._opened.add(index)

    def nearest(self, kind: str) -> int:
        """Return the receptacle of a kind that takes the fewest commands to put something into; always the same."""
        candidates = [index for index, receptacle in enumerate(self._receptacles) if receptacle.kind == kind]
        return min(candidates, key=lambda index: (self._receptacles[index].openable, index))

    def _closed(self, index: int) -> bool:
        receptacle = self._receptacles[index]
        return receptacle.openable and not receptacle.opened and index not in self._opened
