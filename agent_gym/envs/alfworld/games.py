"""Generates household games with the statistics of the official ones, at four sizes and three splits.

Room by room, the tables say which receptacles occur and how many, which objects lie where, and what is asked for; they
were counted over the official training games. Knows nothing of text beyond names, commands and the task sentence, and
nothing of how a game is played.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

from agent_gym.envs.alfworld.figures import Room, Weighted, load_figures
from agent_gym.envs.alfworld.plans import APPLIANCES, TASK_COUNTS, Plan, draw_plan, is_unseen, tell
from agent_gym.envs.alfworld.scene import TASK_TYPES, Game, Goal, Item, Receptacle
from agent_gym.envs.alfworld.walkthrough import walk_through
from agent_gym.errors import UnknownIdError

SPLITS = ("train", "valid_seen", "valid_unseen")

TAGS = dict(zip(TASK_TYPES, ("place", "look", "clean", "heat", "cool", "two"), strict=True))
"""Short names of the task types, for the ids of restricted sources."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a household is; None leaves the numbers of the official games."""

    receptacles: tuple[int, int] | None
    """Fewest and most receptacles."""
    objects: tuple[int, int] | None
    """Fewest and most objects."""
    copies: int
    """Most copies of the object that the goal names."""


SIZES = {
    "tiny": Size(receptacles=(5, 5), objects=(6, 6), copies=2),
    "small": Size(receptacles=(9, 11), objects=(11, 13), copies=3),
    "medium": Size(receptacles=(12, 16), objects=(14, 20), copies=4),
    "official": Size(receptacles=None, objects=None, copies=4),
}

START = 0
"""The location in the middle of the room, where no receptacle is."""
COLD_SHARE = 0.05
"""Share of the coolable objects in a fridge that the official games mark as cool."""
COPY_WEIGHTS = (0.36, 0.29, 0.20, 0.15)
"""How often a goal object occurs once, twice, ... (or, for two, 0, 1, ... times more than needed)."""
SAME_KIND_PENALTY = 0.25
"""How strongly a smaller room prefers another kind of receptacle to a further one of a kind."""
ATTEMPTS = 2000
"""Plans tried before giving up; of 50,400 games of every size, split and type none needed more than 72."""


# -- the public face ---------------------------------------------------------------------------------------------------


def generate(
    seed: int, *, split: str = "train", size: str = "official", task_types: Sequence[str] = TASK_TYPES
) -> Game:
    """Make the game that these arguments name; the same arguments always give the same game.

    `valid_seen` is drawn as `train` is, with other seeds. `valid_unseen` has room layouts (a room's receptacle kinds
    with their numbers) and goal pairs (object kind and receptacle kind; for look_at_obj_in_light, object kind and lamp
    kind) that the other two never have: both are divided by a checksum of their names.

    Args:
        seed: Number of the game within its split, size and set of task types.
        split: One of `SPLITS`.
        size: One of `SIZES`.
        task_types: The types to draw from, in the proportions of the official training games.

    Raises:
        UnknownIdError: No such split, size or task type.
    """
    types = _checked(split, size, task_types)
    id_ = _game_id(seed, split, size, types)
    rng = random.Random(id_)
    task_type = rng.choices(types, [TASK_COUNTS[t] for t in types])[0]
    unseen = split == "valid_unseen"
    for _ in range(ATTEMPTS):
        plan = draw_plan(rng, task_type, unseen)
        layout = _draw_layout(rng, plan, SIZES[size], unseen)
        contents = _draw_contents(rng, plan, layout, SIZES[size]) if layout else None
        if layout and contents:
            return _build(rng, id_, split, plan, layout, contents)
    raise RuntimeError(f"No household fits {id_}: the tables and the sizes contradict each other.")


class GeneratedGames(Sequence[Game]):
    """The generated games of one split, made when asked for; nothing but a few recent games is kept.

    A game is addressed by its index or by its id ("tiny-train-000017"; "tiny-train-heat+cool-000017" where the task
    types are restricted), which alone is enough to make it again.

    Args:
        split: One of `SPLITS`.
        size: One of `SIZES`.
        task_types: The types to draw from.
        count: Number of games; by default 1,000,000 for train and 1,000 for each of the others.

    Raises:
        UnknownIdError: No such split, size or task type.
    """

    def __init__(
        self,
        split: str = "train",
        size: str = "small",
        task_types: Sequence[str] = TASK_TYPES,
        count: int | None = None,
    ) -> None:
        self.task_types = _checked(split, size, task_types)
        self.split = split
        self.size = size
        self._count = count if count is not None else (1_000_000 if split == "train" else 1_000)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Game: ...
    @overload
    def __getitem__(self, index: slice) -> list[Game]: ...
    def __getitem__(self, index: int | slice) -> Game | list[Game]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        return _recent(self._seed(index), self.split, self.size, self.task_types)

    def task_id(self, index: int) -> str:
        """Return the id of the game at `index`, without making it."""
        return _game_id(self._seed(index), self.split, self.size, self.task_types)

    def game(self, id_: str) -> Game:
        """Return the game with that id.

        Raises:
            UnknownIdError: The id is not one of this source's.
        """
        return self[self.index_of(id_)]

    def index_of(self, id_: str) -> int:
        """Return the index of the game with that id, without making it.

        Raises:
            UnknownIdError: The id is not one of this source's.
        """
        digits = re.search(r"[0-9]{6,12}$", id_)
        index = int(digits.group()) if digits else -1
        if not 0 <= index < self._count or self.task_id(index) != id_:
            span = f"go from {self.task_id(0)!r} to {self.task_id(-1)!r}" if self._count else "are none"
            raise UnknownIdError(f"Unknown game {id_!r}: the ids of this source {span}.")
        return index

    def _seed(self, index: int) -> int:
        return range(self._count)[index]


def layout_key(game: Game) -> str:
    """Return what the splits divide layouts by: the receptacle kinds of a game with their numbers."""
    return _layout_key(Counter(r.kind for r in game.receptacles))


@lru_cache(maxsize=64)
def _recent(seed: int, split: str, size: str, task_types: tuple[str, ...]) -> Game:
    return generate(seed, split=split, size=size, task_types=task_types)


def _checked(split: str, size: str, task_types: Sequence[str]) -> tuple[str, ...]:
    """Return the task types in their own order, after looking at every name."""
    named = [
        ("split", split, SPLITS),
        ("size", size, tuple(SIZES)),
        *(("task type", t, TASK_TYPES) for t in task_types),
    ]
    for what, name, known in named:
        if name not in known:
            raise UnknownIdError.of(what, name, known)
    if not task_types:
        raise UnknownIdError.of("task type", "", TASK_TYPES)
    return tuple(t for t in TASK_TYPES if t in task_types)


def _game_id(seed: int, split: str, size: str, types: tuple[str, ...]) -> str:
    tags = "" if types == TASK_TYPES else "+".join(TAGS[t] for t in types) + "-"
    return f"{size}-{split}-{tags}{seed:06d}"


# -- the room and what lies in it --------------------------------------------------------------------------------------


def _draw_layout(rng: random.Random, plan: Plan, size: Size, unseen: bool) -> dict[str, int] | None:
    """Draw how many receptacles there are of each kind; None if that does not suit the size or the split."""
    room = plan.room
    layout = {kind: number.draw(rng) for kind, number in room.receptacles.items()}
    needed = dict.fromkeys(_needed_receptacles(rng, plan), 1)
    layout = {kind: max(number, needed.get(kind, 0)) for kind, number in layout.items()}
    if size.receptacles:
        wanted = rng.randint(*size.receptacles)
        layout = _thin(rng, layout, wanted, needed, penalty=SAME_KIND_PENALTY)
        if sum(layout.values()) != wanted:
            return None
    layout = {kind: number for kind, number in layout.items() if number}
    return layout if is_unseen(_layout_key(layout)) == unseen else None


def _needed_receptacles(rng: random.Random, plan: Plan) -> set[str]:
    """Return the kinds without which the task cannot be done: where things are found, treated, lit and put."""
    goal = plan.goal
    needed = {plan.homes.draw(rng), goal.receptacle_kind, APPLIANCES.get(goal.task_type, ("", ""))[1]}
    if plan.lamp_homes:
        needed.add(plan.lamp_homes.draw(rng))
    return needed - {""}


def _draw_contents(
    rng: random.Random, plan: Plan, layout: Mapping[str, int], size: Size
) -> dict[str, list[tuple[str, int]]] | None:
    """Draw for each object kind where its copies lie (receptacle kind and which of them); None if it does not fit."""
    goal, room = plan.goal, plan.room
    homes = {kind: home.within(layout) for kind, home in room.homes.items()}
    homes[goal.object_kind] = plan.homes.within(layout)
    numbers = {kind: number.draw(rng) for kind, number in room.objects.items() if homes[kind].names}
    needed = {goal.object_kind: _draw_copies(rng, goal.task_type, size)}
    if goal.toggle_kind:
        needed[goal.toggle_kind] = 1
    numbers |= needed
    if size.objects:
        wanted = rng.randint(*size.objects)
        numbers = _thin(rng, numbers, wanted, needed, penalty=1.0)
        if sum(numbers.values()) != wanted:
            return None
    return {kind: [_draw_place(rng, homes[kind], layout) for _ in range(n)] for kind, n in numbers.items() if n}


def _draw_place(rng: random.Random, home: Weighted[str], layout: Mapping[str, int]) -> tuple[str, int]:
    kind = home.draw(rng)
    return kind, rng.randrange(layout[kind])


def _draw_copies(rng: random.Random, task_type: str, size: Size) -> int:
    """Draw how many copies of the goal object there are."""
    fewest = 2 if task_type == "pick_two_obj_and_place" else 1
    return min(fewest + rng.choices(range(len(COPY_WEIGHTS)), COPY_WEIGHTS)[0], size.copies)


def _thin(
    rng: random.Random, numbers: Mapping[str, int], wanted: int, needed: Mapping[str, int], *, penalty: float
) -> dict[str, int]:
    """Keep `wanted` of the things in `numbers` (fewer if there are no more), among them all that are needed.

    The others are kept by lot; each further copy of a kind stands `penalty` (of 1) behind the one before.
    """
    lots = sorted(
        (-1.0 if copy < needed.get(kind, 0) else rng.random() + penalty * copy, kind)
        for kind, number in numbers.items()
        for copy in range(number)
    )
    kept = Counter(kind for _, kind in lots[:wanted])
    return {kind: kept[kind] for kind in numbers}


def _layout_key(layout: Mapping[str, int]) -> str:
    return ",".join(f"{kind}={number}" for kind, number in sorted(layout.items()))


# -- the game itself ---------------------------------------------------------------------------------------------------


def _build(
    rng: random.Random,
    id_: str,
    split: str,
    plan: Plan,
    layout: Mapping[str, int],
    contents: Mapping[str, Sequence[tuple[str, int]]],
) -> Game:
    receptacles = _build_receptacles(rng, plan.room, layout)
    items = _build_items(rng, plan.goal, receptacles, contents)
    return Game(
        id=id_,
        split=split,
        objective=tell(rng, plan.goal),
        goal=plan.goal,
        receptacles=receptacles,
        items=items,
        start_location=START,
        can_contain=load_figures().can_contain,
        walkthrough=walk_through(plan.goal, receptacles, items),
    )


def _build_receptacles(rng: random.Random, room: Room, layout: Mapping[str, int]) -> tuple[Receptacle, ...]:
    """Name the receptacles and give each a location of its own, in the order of the official listings.

    Kinds are sorted by name and numbers count down within a kind; as in the official games,
    a few drawers and cabinets cannot be opened and show what is in them.
    """
    named = [(kind, number) for kind in _listed(layout) for number in range(layout[kind], 0, -1)]
    return tuple(
        Receptacle(f"{kind.lower()} {number}", kind, location, openable=rng.random() < room.openable[kind])
        for location, (kind, number) in enumerate(named, start=START + 1)
    )


def _build_items(
    rng: random.Random,
    goal: Goal,
    receptacles: Sequence[Receptacle],
    contents: Mapping[str, Sequence[tuple[str, int]]],
) -> tuple[Item, ...]:
    properties = load_figures().properties
    first: dict[str, int] = {}
    for index, receptacle in enumerate(receptacles):
        first.setdefault(receptacle.kind, index)
    items = []
    for kind in _listed(contents):
        places = contents[kind]
        for number, (place_kind, which) in zip(range(len(places), 0, -1), places, strict=True):
            index = first[place_kind] + which
            cold = place_kind == "Fridge" and kind != goal.object_kind and rng.random() < COLD_SHARE
            able = properties.get(kind, frozenset())
            states = frozenset({"iscool"}) if cold and "coolable" in able else frozenset()
            items.append(Item(f"{kind.lower()} {number}", kind, index, receptacles[index].location, able, states))
    return tuple(items)


def _listed(kinds: Mapping[str, object]) -> list[str]:
    """Sort kinds as the official engine does, which compares ids such as "pen_bar_" and "pencil_bar_"."""
    return sorted(kinds, key=lambda kind: kind.lower() + "_")
