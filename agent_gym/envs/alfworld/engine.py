"""The household simulator: it answers commands word for word like the official ALFWorld engine.

Knows nothing of files, rewards or turn limits.
"""

from bisect import insort
from collections.abc import Callable
from typing import Final

from agent_gym.envs.alfworld.lookup import Lookup, Rows, enumerate_in_prose
from agent_gym.envs.alfworld.scene import Game

NOTHING_HAPPENS: Final = "Nothing happens."
_NOTHING_HERE: Final[tuple[int, ...]] = ()


class Simulator:
    """Plays one game.

    Everything that never changes lies in `Lookup`, which copies share. What changes is held in immutable values
    (ints, tuples, frozensets) that are replaced and never altered, so that a copy or a snapshot is a handful of
    references.

    Args:
        game: The game to play.
        put_alias: Understand "put X in/on Y" as well as "move X to Y", whatever the game's own dialect.

    Attributes:
        won: Whether the goal holds now.
        invalid: Whether the last command was not admissible.
    """

    __slots__ = (
        "_clean",
        "_contents",
        "_cool",
        "_held",
        "_hot",
        "_location",
        "_lookup",
        "_opened",
        "_put_alias",
        "_sliced",
        "_spots",
        "_toggled",
        "_vacated",
        "invalid",
        "won",
    )

    def __init__(self, game: Game, *, put_alias: bool = False) -> None:
        self._lookup = Lookup(game)
        self._put_alias = put_alias
        self._rewind()

    @property
    def game(self) -> Game:
        """The game that is played."""
        return self._lookup.game

    def start(self) -> str:
        """Begin the game anew and return the first observation."""
        self._rewind()
        lookup = self._lookup
        here = lookup.receptacles_at.get(self._location)
        opening = self._look("") if here else _middle_of_room(lookup.overview)
        return f"{opening}\n\nYour task is to: {lookup.game.objective}."

    def step(self, command: str) -> str:
        """Apply one command and return what the engine says; a command that is not admissible changes nothing."""
        verb, _, rest = command.strip().partition(" ")
        handler = _HANDLERS.get(verb)
        answer = handler(self, rest) if handler is not None else None
        self.invalid = answer is None
        return NOTHING_HAPPENS if answer is None else answer

    def admissible(self) -> list[str]:
        """Return the commands that would have an effect or an answer now, sorted."""
        return self.snapshot()()

    def snapshot(self) -> Callable[[], list[str]]:
        """Return a function that computes the admissible commands of this moment, however the game goes on."""
        lookup, location, held, opened = self._lookup, self._location, self._held, self._opened
        contents, spots = self._contents, self._spots
        return lambda: lookup.admissible(location, held, opened, contents, spots)

    def copy(self) -> "Simulator":
        """Return an independent simulator in the same state."""
        twin = Simulator.__new__(Simulator)
        twin._lookup = self._lookup
        twin._put_alias = self._put_alias
        twin._location, twin._held, twin._opened = self._location, self._held, self._opened
        twin._contents, twin._spots, twin._vacated = self._contents, self._spots, self._vacated
        twin._clean, twin._hot, twin._cool = self._clean, self._hot, self._cool
        twin._sliced, twin._toggled = self._sliced, self._toggled
        twin.won, twin.invalid = self.won, self.invalid
        return twin

    def _rewind(self) -> None:
        lookup = self._lookup
        self._location = lookup.game.start_location
        self._held = -1
        self._opened = lookup.opened
        self._contents = lookup.contents
        self._spots = lookup.spots
        self._vacated: frozenset[tuple[int, int]] = frozenset()
        self._clean, self._hot, self._cool = lookup.clean, lookup.hot, lookup.cool
        self._sliced, self._toggled = lookup.sliced, lookup.toggled
        self.invalid = False
        self.won = self._goal_holds()

    # -- commands: each returns the answer, or None where the command is not admissible -----------------------------

    def _look(self, rest: str) -> str | None:
        if rest:
            return None
        lookup = self._lookup
        here = lookup.receptacles_at.get(self._location)
        if not here:
            # The official grammar lists the receptacles of this very spot here, of which there are none.
            return _middle_of_room("nothing")
        facing = enumerate_in_prose([lookup.receptacle_names[r] for r in here])
        floor = self._floor()
        return f"You are facing the {facing}. Next to it, you see {floor}."

    def _inventory(self, rest: str) -> str | None:
        if rest:
            return None
        if self._held < 0:
            return "You are not carrying anything."
        return f"You are carrying: {self._lookup.a_item[self._held]}."

    def _help(self, rest: str) -> str | None:
        return None if rest else self._lookup.help_text

    def _go(self, rest: str) -> str | None:
        lookup = self._lookup
        receptacle = lookup.receptacle_index.get(rest[3:], -1) if rest.startswith("to ") else -1
        if receptacle < 0 or lookup.location_of[receptacle] == self._location:
            return None
        self._location = lookup.location_of[receptacle]
        self._goal_may_have_changed()
        return f"You arrive at {rest[3:]}. {self._describe(receptacle)}"

    def _open(self, rest: str) -> str | None:
        receptacle = self._here(rest)
        if receptacle < 0 or not self._lookup.openable >> receptacle & 1 or self._opened >> receptacle & 1:
            return None
        self._opened |= 1 << receptacle
        return f"You open the {rest}. {self._describe(receptacle)}"

    def _close(self, rest: str) -> str | None:
        receptacle = self._here(rest)
        if receptacle < 0 or not self._lookup.openable >> receptacle & self._opened >> receptacle & 1:
            return None
        self._opened ^= 1 << receptacle
        return f"You close the {rest}."

    def _take(self, rest: str) -> str | None:
        name, _, place = rest.partition(" from ")
        receptacle = self._here(place)
        if receptacle < 0 or self._held >= 0 or not self._reachable(receptacle):
            return None
        item = self._lookup.item_index.get(name, -1)
        inside = self._contents[receptacle]
        if item not in inside or not self._lookup.pickupable >> item & 1:
            return None
        self._held = item
        self._refill(receptacle, tuple(i for i in inside if i != item))
        self._respot(item, tuple(spot for spot in self._spots[item] if spot != self._location))
        self._vacated |= {(item, receptacle)}
        self._goal_may_have_changed()
        return f"You pick up the {name} from the {place}."

    def _move(self, rest: str) -> str | None:
        if self._lookup.game.dialect != "move" and not self._put_alias:
            return None
        name, _, place = rest.partition(" to ")
        return self._place(name, place)

    def _put(self, rest: str) -> str | None:
        if self._lookup.game.dialect != "put" and not self._put_alias:
            return None
        name, _, place = rest.partition(" in/on ")
        return self._place(name, place)

    def _place(self, name: str, place: str) -> str | None:
        lookup = self._lookup
        receptacle = self._here(place)
        item = self._holding(name)
        if receptacle < 0 or item < 0 or not self._reachable(receptacle) or not lookup.fits(item, receptacle):
            return None
        self._held = -1
        if item not in self._contents[receptacle]:
            inside = list(self._contents[receptacle])
            insort(inside, item)
            self._refill(receptacle, tuple(inside))
        if self._location not in self._spots[item]:
            self._respot(item, (*self._spots[item], self._location))
        self._vacated -= {(item, receptacle)}
        self._goal_may_have_changed()
        return lookup.place_answer.format(item=name, receptacle=place)

    def _examine(self, rest: str) -> str | None:
        receptacle = self._here(rest)
        if receptacle >= 0:
            return self._describe(receptacle)
        # The domain means to allow items in sight too, but a slip in its types leaves only the one in hand.
        item = self._holding(rest)
        return self._describe_item(item) if item >= 0 else None

    def _use(self, rest: str) -> str | None:
        item = self._lookup.item_index.get(rest, -1)
        if item < 0 or not self._lookup.toggleable >> item & 1 or not self._placed_here(item):
            return None
        # The official engine marks a lamp as toggled and never takes the mark back: it is turned on every time.
        self._toggled |= 1 << item
        self._goal_may_have_changed()
        return f"You turn on the {rest}."

    def _heat(self, rest: str) -> str | None:
        item = self._treated(rest, self._lookup.microwaves, self._lookup.heatable)
        if item < 0:
            return None
        self._hot |= 1 << item
        self._cool &= ~(1 << item)
        return self._treatment("heat", rest)

    def _clean_command(self, rest: str) -> str | None:
        item = self._treated(rest, self._lookup.sinks, self._lookup.cleanable)
        if item < 0:
            return None
        self._clean |= 1 << item
        return self._treatment("clean", rest)

    def _cool_command(self, rest: str) -> str | None:
        item = self._treated(rest, self._lookup.fridges, self._lookup.coolable)
        if item < 0:
            return None
        self._cool |= 1 << item
        self._hot &= ~(1 << item)
        return self._treatment("cool", rest)

    def _slice(self, rest: str) -> str | None:
        lookup = self._lookup
        name, _, knife_name = rest.partition(" with ")
        knife = self._holding(knife_name)
        item = lookup.item_index.get(name, -1)
        if knife < 0 or item < 0 or not lookup.knives >> knife & lookup.sliceable >> item & 1:
            return None
        if self._location not in self._spots[item]:
            return None
        self._sliced |= 1 << item
        self._goal_may_have_changed()
        return f"You sliced the {name} with the {knife_name}."

    # -- what the commands share -----------------------------------------------------------------------------------

    def _here(self, name: str) -> int:
        """Return the index of the receptacle of that name if the agent stands at it, else -1."""
        receptacle = self._lookup.receptacle_index.get(name, -1)
        return receptacle if receptacle >= 0 and self._lookup.location_of[receptacle] == self._location else -1

    def _holding(self, name: str) -> int:
        """Return the index of the item of that name if the agent holds it, else -1."""
        return self._held if self._held >= 0 and self._lookup.item_names[self._held] == name else -1

    def _reachable(self, receptacle: int) -> bool:
        return not self._lookup.openable >> receptacle & 1 or bool(self._opened >> receptacle & 1)

    def _placed_here(self, item: int) -> bool:
        here = self._lookup.receptacles_at.get(self._location, _NOTHING_HERE)
        return any(item in self._contents[r] for r in here)

    def _treated(self, rest: str, appliances: int, treatable: int) -> int:
        """Return the item of "X with Y" if it is held and can be treated by the appliance Y at hand, else -1."""
        name, _, appliance = rest.partition(" with ")
        item, receptacle = self._holding(name), self._here(appliance)
        possible = item >= 0 and receptacle >= 0 and appliances >> receptacle & treatable >> item & 1
        return item if possible else -1

    def _treatment(self, verb: str, rest: str) -> str:
        self._goal_may_have_changed()
        name, _, appliance = rest.partition(" with ")
        return f"You {verb} the {name} using the {appliance}."

    def _refill(self, receptacle: int, inside: tuple[int, ...]) -> None:
        self._contents = _replaced(self._contents, receptacle, inside)

    def _respot(self, item: int, spots: tuple[int, ...]) -> None:
        self._spots = _replaced(self._spots, item, spots)

    # -- descriptions ----------------------------------------------------------------------------------------------

    def _describe(self, receptacle: int) -> str:
        lookup = self._lookup
        name = lookup.receptacle_names[receptacle]
        if not lookup.openable >> receptacle & 1:
            return f"On the {name}, you see {lookup.list_items(self._contents[receptacle])}."
        if self._opened >> receptacle & 1:
            return f"The {name} is open. In it, you see {lookup.list_items(self._contents[receptacle])}."
        return f"The {name} is closed."

    def _describe_item(self, item: int) -> str:
        lookup = self._lookup
        name = lookup.item_names[item]
        if lookup.containers >> item & 1:
            return f"This is a normal {name}. In it, you see {lookup.list_items(lookup.nested[item])}."
        sliced = bool(self._sliced >> item & 1)
        condition = _condition(
            bool(self._clean >> item & 1), bool(self._hot >> item & 1), bool(self._cool >> item & 1), sliced
        )
        if condition:
            return f"This is a {condition} {name}."
        if lookup.toggleable >> item & self._toggled >> item & 1:
            return f"This {name} is on."
        if sliced:
            return f"This is a sliced {name}."
        return f"There's nothing special about {name}."

    def _floor(self) -> str:
        """List what the official engine takes to lie on the floor.

        Its rule asks for an object at this location which is known not to be in a receptacle of this location. That
        becomes known when the object is taken out, and so the list names things that moved between two receptacles
        that share a location, once for each receptacle they were taken out of.
        """
        location, lookup = self._location, self._lookup
        if not self._vacated:
            return "nothing"
        return lookup.list_items(
            [
                item
                for item, receptacle in sorted(self._vacated)
                if lookup.location_of[receptacle] == location and location in self._spots[item]
            ]
        )

    # -- the goal --------------------------------------------------------------------------------------------------

    def _goal_may_have_changed(self) -> None:
        self.won = self._goal_holds()

    def _goal_holds(self) -> bool:
        lookup = self._lookup
        if lookup.game.goal.task_type == "look_at_obj_in_light":
            return self._held >= 0 and bool(self._satisfying() >> self._held & 1) and self._lamp_is_on_here()
        satisfying = self._satisfying()
        return any(
            sum(satisfying >> item & 1 for item in self._contents[receptacle]) >= lookup.goal_count
            for receptacle in lookup.goal_receptacles
        )

    def _satisfying(self) -> int:
        """Return the set of items (a bit each) of the goal's kind that are in the condition which it asks for."""
        goal, satisfying = self._lookup.game.goal, self._lookup.goal_items
        if goal.sliced:
            satisfying &= self._sliced
        if goal.task_type == "pick_clean_then_place_in_recep":
            return satisfying & self._clean
        if goal.task_type == "pick_heat_then_place_in_recep":
            return satisfying & self._hot
        if goal.task_type == "pick_cool_then_place_in_recep":
            return satisfying & self._cool
        return satisfying

    def _lamp_is_on_here(self) -> bool:
        lit = self._lookup.goal_lamps & self._toggled
        here = self._lookup.receptacles_at.get(self._location, _NOTHING_HERE) if lit else _NOTHING_HERE
        return any(lit >> item & 1 for receptacle in here for item in self._contents[receptacle])


def _replaced(rows: Rows, index: int, row: tuple[int, ...]) -> Rows:
    changed = list(rows)
    changed[index] = row
    return tuple(changed)


def _middle_of_room(seen: str) -> str:
    return f"You are in the middle of a room. Looking quickly around you, you see {seen}."


def _condition(clean: bool, hot: bool, cool: bool, sliced: bool) -> str:
    """Return the adjectives of an item; the official grammar says "cool" in company and "cold" alone."""
    words = ["hot"] if hot else ["cool"] if cool else []
    if clean:
        words.append("clean")
    if not words:
        return ""
    if words == ["cool"] and not sliced:
        return "cold"
    return " and ".join(words) + (" sliced" if sliced else "")


_HANDLERS: Final[dict[str, Callable[[Simulator, str], str | None]]] = {
    "look": Simulator._look,
    "inventory": Simulator._inventory,
    "help": Simulator._help,
    "go": Simulator._go,
    "open": Simulator._open,
    "close": Simulator._close,
    "take": Simulator._take,
    "move": Simulator._move,
    "put": Simulator._put,
    "examine": Simulator._examine,
    "use": Simulator._use,
    "heat": Simulator._heat,
    "clean": Simulator._clean_command,
    "cool": Simulator._cool_command,
    "slice": Simulator._slice,
}
