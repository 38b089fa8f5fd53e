"""A player that solves household games from what it is told alone, as an agent has to.

It knows the words of a goal and of the observations, and nothing of where things are until it has seen them. Its games
serve as demonstrations.
"""

import random
import re
from collections.abc import Generator
from dataclasses import dataclass, field

Commands = Generator[str, str, bool]
"""Yields commands, is sent what the game answers; returns whether the intention was carried out."""

_GOALS = tuple(
    re.compile(pattern)
    for pattern in (
        r"look at (?P<object>\w+) under the (?P<lamp>\w+)",
        r"examine the (?P<object>\w+) with the (?P<lamp>\w+)",
        r"put a (?P<state>clean|hot|cool) (?P<object>\w+) in (?P<place>\w+)",
        r"(?P<state>clean|heat|cool) some (?P<object>\w+) and put it in (?P<place>\w+)",
        r"(?P<two>put two) (?P<object>\w+) in (?P<place>\w+)",
        r"(?P<two>find two) (?P<object>\w+) and put them in (?P<place>\w+)",
        r"put a (?P<object>\w+) in (?P<place>\w+)",
        r"put some (?P<object>\w+) on (?P<place>\w+)",
    )
)
_TREATMENTS = {
    "clean": ("clean", "sinkbasin"),
    "hot": ("heat", "microwave"),
    "heat": ("heat", "microwave"),
    "cool": ("cool", "fridge"),
}
"""Word of the goal -> what to do, and with which appliance."""

_REFUSAL = "Nothing happens."
"""The answer to a command that is not admissible."""


def explore(objective: str, observation: str, rng: random.Random) -> Commands:
    """Play a game: a generator that yields commands and is sent the observations.

    It looks into one place after the other, in random order, until it has found what it needs, and remembers all that
    it has seen on the way. It ends when it believes that the goal is reached (returning True) or has looked everywhere
    in vain (False); the caller ends it as soon as the game is won.

    Args:
        objective: The task sentence, without "Your task is to: " and without the full stop.
        observation: The first observation, which names the places of the room.
        rng: Decides the order in which places are visited.

    Example:
        >>> player = explore(game.objective, simulator.start(), random.Random(0))
        >>> command = next(player)
        >>> command = player.send(simulator.step(command))
    """
    task = understand(objective)
    memory = _Memory.of_room(observation, rng)
    if task is None:
        return False
    for _ in range(task.copies):
        item = yield from _pick_up(task, memory)
        if item is None or not (yield from _finish(task, memory, item)):
            return False
    return True


@dataclass(frozen=True, slots=True)
class Task:
    """What a task sentence asks for, in the words of the game ("apple", "countertop")."""

    object: str
    place: str = ""
    lamp: str = ""
    verb: str = ""
    """What to do to the object before it is put away: clean, heat or cool."""
    appliance: str = ""
    copies: int = 1


def understand(objective: str) -> Task | None:
    """Return what a task sentence asks for, or None for a sentence of another form."""
    for pattern in _GOALS:
        match = pattern.fullmatch(objective)
        if match:
            words = {name: word or "" for name, word in match.groupdict().items()}
            verb, appliance = _TREATMENTS.get(words.get("state", ""), ("", ""))
            copies = 2 if words.get("two") else 1
            return Task(words["object"], words.get("place", ""), words.get("lamp", ""), verb, appliance, copies)
    return None


@dataclass(slots=True)
class _Memory:
    """What the player has seen so far."""

    unvisited: list[str]
    """Places not yet looked into; the next one last."""
    places: tuple[str, ...]
    contents: dict[str, list[str]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    """Places that were seen closed and have not been opened."""
    delivered: set[str] = field(default_factory=set)
    """Objects that lie where the task wants them."""
    here: str = ""

    @classmethod
    def of_room(cls, observation: str, rng: random.Random) -> "_Memory":
        """Read the places from the first observation and decide in which order to look into them."""
        places = _things(observation.partition("you see ")[2].partition("\n")[0])
        return cls(unvisited=rng.sample(places, len(places)), places=tuple(places))

    def find(self, kind: str) -> tuple[str, str] | None:
        """Return where a thing of that kind was seen, and its name; the place where the player stands comes first."""
        for place in sorted(self.contents, key=lambda place: place != self.here):
            for thing in self.contents[place]:
                if _kind(thing) == kind and thing not in self.delivered:
                    return place, thing
        return None

    def place_of_kind(self, kind: str) -> str | None:
        """Return a place of that kind: where the player stands, or one known to stand open, or any."""
        candidates = [place for place in self.places if _kind(place) == kind]
        used = {place for place in candidates if self.delivered & set(self.contents.get(place, ()))}
        order = {place: (place not in used, place != self.here, place not in self.contents) for place in candidates}
        return min(candidates, key=order.__getitem__, default=None)

    def saw(self, place: str, answer: str) -> None:
        """Note what an answer tells of a place."""
        if answer.endswith("is closed."):
            self.closed.add(place)
        else:
            self.closed.discard(place)
            self.contents[place] = _things(answer.partition("you see ")[2])
            if place in self.unvisited:
                self.unvisited.remove(place)


def _pick_up(task: Task, memory: _Memory) -> Generator[str, str, str | None]:
    """Find an object of the kind and take it; return its name, or None if there is none."""
    found = yield from _search(task.object, memory)
    if found is None:
        return None
    place, item = found
    yield from _enter(place, memory)
    yield f"take {item} from {place}"
    memory.contents[place].remove(item)
    return item


def _finish(task: Task, memory: _Memory, item: str) -> Commands:
    """Do with the object in hand what the task asks."""
    if task.lamp:
        return (yield from _look_at(item, task, memory))
    if task.verb:
        appliance = memory.place_of_kind(task.appliance)
        if appliance is None:
            return False
        yield from _go(appliance, memory)
        yield f"{task.verb} {item} with {appliance}"
    target = memory.place_of_kind(task.place)
    if target is None:
        return False
    yield from _enter(target, memory)
    yield f"move {item} to {target}"
    memory.contents[target].append(item)
    memory.delivered.add(item)
    return True


def _look_at(item: str, task: Task, memory: _Memory) -> Commands:
    """Find the lamp and switch it on with the object in hand."""
    found = yield from _search(task.lamp, memory)
    if found is None:
        return False
    place, lamp = found
    yield from _go(place, memory)
    yield f"use {lamp}"
    return True


def _search(kind: str, memory: _Memory) -> Generator[str, str, tuple[str, str] | None]:
    """Look into places until a thing of that kind has been seen; return where it is, and its name."""
    while (found := memory.find(kind)) is None and memory.unvisited:
        yield from _enter(memory.unvisited[-1], memory)
    return found


def _enter(place: str, memory: _Memory) -> Generator[str, str, None]:
    """Go to a place and open it if it is closed."""
    yield from _go(place, memory)
    if place in memory.closed:
        memory.saw(place, (yield f"open {place}"))


def _go(place: str, memory: _Memory) -> Generator[str, str, None]:
    """Go to a place, unless the player is there."""
    if place != memory.here:
        memory.here = place
        answer = yield f"go to {place}"
        if answer == _REFUSAL:
            # In the official games some places are reached from the same spot, and one cannot go where one stands.
            answer = yield f"examine {place}"
        memory.saw(place, answer)


def _things(listing: str) -> list[str]:
    """Return the numbered things in a listing such as "a apple 1, and a mug 2"."""
    return re.findall(r"\ba (\w+ \d+)", listing)


def _kind(thing: str) -> str:
    return thing.partition(" ")[0]
