"""What the simulator looks up about one game and never changes: names, sets of things as bits, lists of commands.

Knows nothing of what has happened in an episode but what it is given.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from agent_gym.envs.alfworld.scene import Game

_HELP: Final = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  {place}  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""
_PLACE_HELP: Final = {"move": "move (object) to (receptacle):", "put": "put (object) in/on (receptacle):"}
_PLACE_COMMAND: Final = {"move": "move {item} to {receptacle}", "put": "put {item} in/on {receptacle}"}
_PLACE_ANSWER: Final = {
    "move": "You move the {item} to the {receptacle}.",
    "put": "You put the {item} in/on the {receptacle}.",
}
_ALWAYS: Final = ("help", "inventory", "look")

Rows = tuple[tuple[int, ...], ...]
"""One tuple of indices for each receptacle (its contents) or each item (its locations)."""


class Lookup:
    """The look-up tables of one game.

    Receptacles and items are known by their index in the game; a set of them is an int with a bit for each.
    """

    def __init__(self, game: Game) -> None:
        receptacles, items = game.receptacles, game.items
        self.game = game
        self.receptacle_names = tuple(r.name for r in receptacles)
        self.receptacle_index = {name: index for index, name in enumerate(self.receptacle_names)}
        self.item_names = tuple(item.name for item in items)
        self.item_index = {name: index for index, name in enumerate(self.item_names)}
        self.a_item = tuple(f"a {name}" for name in self.item_names)
        self.overview = enumerate_in_prose([f"a {name}" for name in self.receptacle_names])

        self.location_of = tuple(r.location for r in receptacles)
        self.receptacles_at: dict[int, tuple[int, ...]] = {}
        for index, location in enumerate(self.location_of):
            self.receptacles_at[location] = (*self.receptacles_at.get(location, ()), index)
        self._go_commands: dict[int, list[str]] = {}

        self.openable = _bits(r.openable for r in receptacles)
        self.opened = _bits(r.openable and r.opened for r in receptacles)
        self.sinks = _bits(r.kind == "SinkBasin" for r in receptacles)
        self.microwaves = _bits(r.kind == "Microwave" for r in receptacles)
        self.fridges = _bits(r.kind == "Fridge" for r in receptacles)

        self.pickupable = _bits("pickupable" in item.properties for item in items)
        self.cleanable = _bits("cleanable" in item.properties for item in items)
        self.heatable = _bits("heatable" in item.properties for item in items)
        self.coolable = _bits("coolable" in item.properties for item in items)
        self.sliceable = _bits("sliceable" in item.properties for item in items)
        self.toggleable = _bits("toggleable" in item.properties for item in items)
        self.containers = _bits("isreceptacleobject" in item.properties for item in items)
        self.knives = _bits(item.kind in ("Knife", "ButterKnife") for item in items)

        self.clean = _bits("isclean" in item.states for item in items)
        self.hot = _bits("ishot" in item.states for item in items)
        self.cool = _bits("iscool" in item.states for item in items)
        self.sliced = _bits("issliced" in item.states for item in items)
        self.toggled = _bits("istoggled" in item.states for item in items)

        self._set_places()
        self._set_goal()
        self.help_text = _HELP.format(place=_PLACE_HELP[game.dialect])
        self.place_answer = _PLACE_ANSWER[game.dialect]
        self._place_command = _PLACE_COMMAND[game.dialect]

    def fits(self, item: int, receptacle: int) -> bool:
        """Return whether the kind of the receptacle takes the kind of the item."""
        game = self.game
        return (game.receptacles[receptacle].kind, game.items[item].kind) in game.can_contain

    def list_items(self, items: Sequence[int]) -> str:
        """Return "a fork 1, and a mug 2", or "nothing"."""
        return enumerate_in_prose([self.a_item[item] for item in items])

    def admissible(
        self,
        location: int,
        held: int,
        opened: int,
        contents: Rows,
        spots: Rows,
    ) -> list[str]:
        """Return the sorted commands that are admissible in a state (see `Simulator` for its parts)."""
        commands = [*_ALWAYS, *self._go_from(location)]
        names = self.item_names
        for receptacle in self.receptacles_at.get(location, ()):
            place = self.receptacle_names[receptacle]
            inside = contents[receptacle]
            closed = self.openable & ~opened
            commands.append(f"examine {place}")
            if self.openable >> receptacle & 1:
                commands.append(f"open {place}" if closed >> receptacle & 1 else f"close {place}")
            if not closed >> receptacle & 1:
                if held < 0:
                    commands += [f"take {names[item]} from {place}" for item in inside if self.pickupable >> item & 1]
                elif self.fits(held, receptacle):
                    commands.append(self._place_command.format(item=names[held], receptacle=place))
            commands += [f"use {names[item]}" for item in inside if self.toggleable >> item & 1]
            if held >= 0:
                commands += self._treatments(held, receptacle)
        if held >= 0:
            commands.append(f"examine {names[held]}")
            commands += self._slicings(held, location, spots)
        # Things can be in two receptacles at once; a command is listed once.
        return sorted(set(commands))

    def _treatments(self, item: int, receptacle: int) -> list[str]:
        kinds = (
            ("clean", self.sinks, self.cleanable),
            ("cool", self.fridges, self.coolable),
            ("heat", self.microwaves, self.heatable),
        )
        return [
            f"{verb} {self.item_names[item]} with {self.receptacle_names[receptacle]}"
            for verb, appliances, treatable in kinds
            if appliances >> receptacle & treatable >> item & 1
        ]

    def _slicings(self, knife: int, location: int, spots: Rows) -> list[str]:
        if not self.knives >> knife & 1:
            return []
        names = self.item_names
        return [
            f"slice {names[item]} with {names[knife]}"
            for item, at in enumerate(spots)
            if self.sliceable >> item & 1 and location in at
        ]

    def _go_from(self, location: int) -> list[str]:
        commands = self._go_commands.get(location)
        if commands is None:
            elsewhere = (
                name for name, at in zip(self.receptacle_names, self.location_of, strict=True) if at != location
            )
            commands = self._go_commands[location] = sorted(f"go to {name}" for name in elsewhere)
        return commands

    def _set_places(self) -> None:
        """Set where each item lies at the start, by receptacle (`contents`) and by location (`spots`)."""
        contents: list[list[int]] = [[] for _ in self.game.receptacles]
        nested: list[list[int]] = [[] for _ in self.game.items]
        for index, item in enumerate(self.game.items):
            first = () if item.receptacle is None else (item.receptacle,)
            for receptacle in {*first, *item.also_in}:
                contents[receptacle].append(index)
            for outer in item.inside:
                nested[outer].append(index)
        self.contents: Rows = tuple(map(tuple, contents))
        self.nested: Rows = tuple(map(tuple, nested))
        self.spots: Rows = tuple(() if item.location is None else (item.location,) for item in self.game.items)

    def _set_goal(self) -> None:
        game, goal = self.game, self.game.goal
        required = {
            "pick_clean_then_place_in_recep": self.cleanable,
            "pick_heat_then_place_in_recep": self.heatable,
            "pick_cool_then_place_in_recep": self.coolable,
        }.get(goal.task_type, -1)
        if goal.sliced:
            required &= self.sliceable
        self.goal_items = _bits(item.kind == goal.object_kind for item in game.items) & required
        self.goal_lamps = _bits(item.kind == goal.toggle_kind for item in game.items) & self.toggleable
        self.goal_receptacles = tuple(i for i, r in enumerate(game.receptacles) if r.kind == goal.receptacle_kind)
        self.goal_count = 2 if goal.task_type == "pick_two_obj_and_place" else 1


def enumerate_in_prose(names: Sequence[str]) -> str:
    """Return "a, b, and c" the way the official engine does it: with the comma even between two."""
    if not names:
        return "nothing"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, and {names[-1]}"


def _bits(flags: Iterable[bool]) -> int:
    return sum(1 << index for index, flag in enumerate(flags) if flag)
