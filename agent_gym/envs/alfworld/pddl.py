"""Reads the PDDL problem of an ALFWorld game.

Knows the one domain that all ALFWorld games share, and nothing of files.
"""

import re
from collections import defaultdict
from functools import lru_cache
from typing import Final

from agent_gym.envs.alfworld.scene import Game, Goal, Item, Receptacle

_FACT: Final = re.compile(r"\(\s*([\w-]+)\s+([\w-]+)(?:\s+([\w-]+))?\s*\)")
_NUMERIC_FACT: Final = re.compile(r"\(\s*=\s*\([^()]*\)\s*[\d.]+\s*\)")
_ATOM: Final = re.compile(r"\(\s*([\w=-]+)\s+(\??[\w-]+)(?:\s+(\??[\w-]+))?\s*\)")
_COMMENT: Final = re.compile(r";[^\n]*")

_PROPERTIES: Final = (
    "pickupable",
    "cleanable",
    "heatable",
    "coolable",
    "sliceable",
    "toggleable",
    "isreceptacleobject",
)
_STATES: Final = ("isclean", "ishot", "iscool", "issliced", "ison", "istoggled")
_PLACES: Final = (
    "atlocation",
    "receptacletype",
    "receptacleatlocation",
    "objecttype",
    "objectatlocation",
    "openable",
    "opened",
    "inreceptacle",
    "inreceptacleobject",
    "cancontain",
)
_WITHOUT_EFFECT: Final = ("moveable", "full", "isreceptacleobjectfull", "wasinreceptacle", "checked", "examined")
_KNOWN: Final = frozenset({*_PROPERTIES, *_STATES, *_PLACES, *_WITHOUT_EFFECT})
_KNOWN_IN_GOALS: Final = frozenset({*_PROPERTIES, *_STATES, *_PLACES, "holds", "="}) - {"inreceptacleobject"}

_Facts = dict[str, list[tuple[str, str]]]


def parse_problem(
    text: str, *, game_id: str, split: str, objective: str, walkthrough: tuple[str, ...], dialect: str
) -> Game:
    """Build the game of a PDDL problem.

    Args:
        text: The problem: `(define (problem ...) ... (:init ...) (:goal ...))`.
        game_id: Becomes `Game.id`.
        split: Becomes `Game.split`.
        objective: The task in words, without "Your task is to: " and without the full stop.
        walkthrough: Commands that win.
        dialect: "move" or "put".

    Raises:
        ValueError: The problem is malformed, or it asks for something that this simulator does not have. The message
            is a clause without a subject ("has no ... section").
    """
    init, goal = _sections(text)
    facts = _facts(init)
    receptacles = _receptacle_ids(facts)
    items = _item_ids(facts, receptacles)
    locations = _locations(facts)
    names = _names(facts)
    start = facts["atlocation"]
    if len(start) != 1:
        raise ValueError(f"places the agent {len(start)} times instead of once")
    return Game(
        id=game_id,
        split=split,
        objective=objective,
        goal=_goal(goal),
        receptacles=_receptacles(facts, receptacles, locations, names),
        items=_items(facts, items, receptacles, locations, names),
        start_location=locations[start[0][1]],
        can_contain=frozenset((_kind(r), _kind(o)) for r, o in facts["cancontain"]),
        walkthrough=walkthrough,
        dialect=dialect,
    )


# -- facts -------------------------------------------------------------------------------------------------------------


def _sections(text: str) -> tuple[str, str]:
    if ";" in text:
        text = _COMMENT.sub("", text)
    _, found_init, rest = text.partition("(:init")
    init, found_goal, goal = rest.partition("(:goal")
    if not found_init or not found_goal:
        raise ValueError("lacks its (:init ...) or (:goal ...) section")
    if text.count("(") != text.count(")"):
        raise ValueError("has unbalanced parentheses")
    return init, goal


def _facts(init: str) -> _Facts:
    if "=" in init:
        init = _NUMERIC_FACT.sub("", init)
    found = _FACT.findall(init)
    if len(found) != init.count("("):
        raise ValueError("has an initial fact that is not of the form (predicate object [object])")
    facts: _Facts = defaultdict(list)
    lowered: dict[str, str] = {}
    for predicate, first, second in found:
        if predicate not in lowered:
            lowered[predicate] = predicate.lower()
        facts[lowered[predicate]].append((first, second))
    unknown = sorted(set(facts) - _KNOWN)
    if unknown:
        raise ValueError(f"states the fact {unknown[0]!r}, which the ALFWorld domain does not use at the start")
    for predicate in facts:
        if predicate != "cancontain":
            _lower_ids(facts[predicate], keeps_kind=predicate.endswith("type"))
    return facts


def _lower_ids(arguments: list[tuple[str, str]], *, keeps_kind: bool) -> None:
    """Lower the case of ids, as the official planner does; the order of the ids depends on it."""
    arguments[:] = [(first.lower(), second if keeps_kind else second.lower()) for first, second in arguments]


@lru_cache(maxsize=1024)
def _kind(type_name: str) -> str:
    return type_name.removesuffix("Type")


def _locations(facts: _Facts) -> dict[str, int]:
    ids = {at for predicate in ("atlocation", "receptacleatlocation", "objectatlocation") for _, at in facts[predicate]}
    return {at: index for index, at in enumerate(sorted(ids))}


def _receptacle_ids(facts: _Facts) -> dict[str, int]:
    ids = sorted({receptacle for receptacle, _ in facts["receptacleatlocation"]})
    untyped = set(ids) ^ {receptacle for receptacle, _ in facts["receptacletype"]}
    if untyped:
        raise ValueError(f"gives the receptacle {min(untyped)!r} only one of type and location")
    return {receptacle: index for index, receptacle in enumerate(ids)}


def _item_ids(facts: _Facts, receptacles: dict[str, int]) -> dict[str, int]:
    ids = {item for item, _ in (*facts["objecttype"], *facts["inreceptacle"], *facts["inreceptacleobject"])}
    return {item: index for index, item in enumerate(sorted(ids - receptacles.keys()))}


def _names(facts: _Facts) -> dict[str, str]:
    """Name the ids as the official engine does: "Cabinet_bar_..." is "cabinet 4".

    The ids are sorted, and of each kind the first has the highest number. Every id that occurs in a fact is counted.
    """
    by_word: dict[str, list[str]] = defaultdict(list)
    ids = {argument for predicate, pairs in facts.items() if predicate != "cancontain" for p in pairs for argument in p}
    for id_ in sorted(ids):
        word, bar, _ = id_.partition("_bar_")
        if bar:
            by_word[word + "basin" if "basin" in id_ else word].append(id_)
    return {id_: f"{word} {len(same) - index}" for word, same in by_word.items() for index, id_ in enumerate(same)}


def _receptacles(
    facts: _Facts, ids: dict[str, int], locations: dict[str, int], names: dict[str, str]
) -> tuple[Receptacle, ...]:
    kinds, places = dict(facts["receptacletype"]), dict(facts["receptacleatlocation"])
    openable, opened = dict(facts["openable"]), dict(facts["opened"])
    return tuple(
        Receptacle(
            name=_name(names, id_),
            kind=_kind(kinds[id_]),
            location=locations[places[id_]],
            openable=id_ in openable,
            opened=id_ in opened,
        )
        for id_ in ids
    )


def _items(
    facts: _Facts,
    ids: dict[str, int],
    receptacles: dict[str, int],
    locations: dict[str, int],
    names: dict[str, str],
) -> tuple[Item, ...]:
    kinds, places = dict(facts["objecttype"]), dict(facts["objectatlocation"])
    holders = _group(facts["inreceptacle"], receptacles)
    outer = _group(facts["inreceptacleobject"], ids)
    properties = _flags(facts, _PROPERTIES)
    states = _flags(facts, _STATES)
    return tuple(
        Item(
            name=_name(names, id_),
            kind=_kind(kinds.get(id_, "")),
            receptacle=holders[id_][0] if id_ in holders else None,
            location=locations[places[id_]] if id_ in places else None,
            properties=properties.get(id_, frozenset()),
            states=states.get(id_, frozenset()),
            also_in=holders[id_][1:] if id_ in holders else (),
            inside=outer.get(id_, ()),
        )
        for id_ in ids
    )


def _name(names: dict[str, str], id_: str) -> str:
    if id_ not in names:
        raise ValueError(f"has the object {id_!r}, whose id is not of the form Kind_bar_...")
    return names[id_]


def _group(pairs: list[tuple[str, str]], indices: dict[str, int]) -> dict[str, tuple[int, ...]]:
    grouped: dict[str, set[int]] = defaultdict(set)
    for item, holder in pairs:
        if holder not in indices:
            raise ValueError(f"puts {item!r} into {holder!r}, which it does not describe")
        grouped[item].add(indices[holder])
    return {item: tuple(sorted(holders)) for item, holders in grouped.items()}


def _flags(facts: _Facts, predicates: tuple[str, ...]) -> dict[str, frozenset[str]]:
    flags: dict[str, set[str]] = defaultdict(set)
    for predicate in predicates:
        for id_, _ in facts[predicate]:
            flags[id_].add(predicate)
    return {id_: frozenset(words) for id_, words in flags.items()}


# -- the goal ----------------------------------------------------------------------------------------------------------


def _goal(text: str) -> Goal:
    atoms: _Facts = defaultdict(list)
    for predicate, first, second in _ATOM.findall(text):
        # The quantifiers look like atoms, "(?r - receptacle)", but for the question mark in front.
        atoms[predicate.lower()].append((first, second))
    if set(atoms) - _KNOWN_IN_GOALS or len(atoms["="]) > 1 or "(forall" in text or "(or" in text:
        raise ValueError("has a goal of a kind that this simulator does not support")
    lamps = {variable for variable, _ in (*atoms["istoggled"], *atoms["toggleable"])}
    toggles = {_kind(kind) for variable, kind in atoms["objecttype"] if variable in lamps}
    objects = {_kind(kind) for variable, kind in atoms["objecttype"] if variable not in lamps}
    places = {_kind(kind) for _, kind in atoms["receptacletype"]}
    task_type = _task_type(atoms)
    expected = (1, 0, 1) if task_type == "look_at_obj_in_light" else (1, 1, 0)
    if (len(objects), len(places), len(toggles)) != expected:
        raise ValueError("has a goal that does not name one kind of object and one kind of place or lamp")
    return Goal(
        task_type=task_type,
        object_kind=objects.pop(),
        receptacle_kind=places.pop() if places else "",
        toggle_kind=toggles.pop() if toggles else "",
        sliced=bool(atoms["issliced"]),
    )


def _task_type(atoms: _Facts) -> str:
    by_mark = {
        "istoggled": "look_at_obj_in_light",
        "isclean": "pick_clean_then_place_in_recep",
        "ishot": "pick_heat_then_place_in_recep",
        "iscool": "pick_cool_then_place_in_recep",
        "=": "pick_two_obj_and_place",
    }
    marks = [mark for mark in by_mark if atoms[mark]]
    if len(marks) > 1:
        raise ValueError("has a goal that combines several tasks, which this simulator does not support")
    return by_mark[marks[0]] if marks else "pick_and_place_simple"
