"""What a household game is made of; plain data, shared by the parser, the generator and the engine.

Knows nothing of text, of files or of how a game is played.
"""

from dataclasses import dataclass, field

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place that holds objects ("cabinet 4")."""

    name: str
    """Name in the text, numbered: "cabinet 4"."""
    kind: str
    """Type in the domain, without the suffix "Type": "Cabinet"."""
    location: int
    """Where the agent stands to reach it; receptacles may share a location."""
    openable: bool = False
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """An object ("apple 1")."""

    name: str
    kind: str
    """Type in the domain, without the suffix "Type": "Apple"."""
    receptacle: int | None
    """Index into `Game.receptacles` of the place where it lies at the start."""
    location: int | None = None
    """Location of the object by itself (objectAtLocation); usually that of its receptacle."""
    properties: frozenset[str] = frozenset()
    """Of pickupable, cleanable, heatable, coolable, sliceable, toggleable, isreceptacleobject."""
    states: frozenset[str] = frozenset()
    """True at the start, of isclean, ishot, iscool, issliced, ison, istoggled."""
    also_in: tuple[int, ...] = ()
    """Further receptacles that count it among their contents (a pan on two stove burners)."""
    inside: tuple[int, ...] = ()
    """Indices into `Game.items` of the receptacle objects that it lies in (a fork in a pot)."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What must hold for the game to be won."""

    task_type: str
    object_kind: str
    receptacle_kind: str = ""
    """Where the object must be in the end; empty for look_at_obj_in_light."""
    toggle_kind: str = ""
    """The lamp of look_at_obj_in_light."""
    sliced: bool = False


@dataclass(frozen=True, slots=True)
class Game:
    """One task: a scene, a goal and the way to reach it."""

    id: str
    split: str
    objective: str
    """The sentence after "Your task is to: ", without the full stop."""
    goal: Goal
    receptacles: tuple[Receptacle, ...]
    """In the order in which the official engine lists them."""
    items: tuple[Item, ...]
    """In the order in which the official engine lists them."""
    start_location: int
    can_contain: frozenset[tuple[str, str]] = field(repr=False)
    """Pairs (receptacle kind, object kind) that allow placing."""
    walkthrough: tuple[str, ...]
    dialect: str = "move"
    """Verb for placing: "move" ("move X to Y", release 2.1.3) or "put" ("put X in/on Y", older releases)."""

    @property
    def task_type(self) -> str:
        """One of `TASK_TYPES`."""
        return self.goal.task_type
