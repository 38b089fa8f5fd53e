"""Writes a game as the PDDL problem that the official ALFWorld engine loads.

The problem belongs to the domain that ALFWorld ships; the names that the engine hands out are those of the game.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from agent_gym.envs.alfworld.scene import Game, Goal, Item, Receptacle

AGENT = "agent1"
DOMAIN_OBJECT_KINDS = ("Knife", "ButterKnife")
"""Object kinds that the domain mentions, so that every problem must declare them."""
DOMAIN_RECEPTACLE_KINDS = ("SinkBasin", "Microwave", "Fridge")
"""Receptacle kinds that the domain mentions."""
PREDICATES = {"isreceptacleobject": "isReceptacleObject"} | {
    f"is{state.lower()}": f"is{state}" for state in ("Clean", "Hot", "Cool", "Sliced", "On", "Toggled")
}
"""Spelling in the domain of the properties and states that are not lower case there."""
STATES = {
    "pick_clean_then_place_in_recep": ("cleanable", "isClean"),
    "pick_heat_then_place_in_recep": ("heatable", "isHot"),
    "pick_cool_then_place_in_recep": ("coolable", "isCool"),
}
"""What must hold of the object that is put away."""


def to_pddl(game: Game) -> str:
    """Return the PDDL problem of a game.

    Ids have the form of AI2-THOR's ("Cabinet_bar__plus_00_..."), from which the official engine makes the numbers: it
    sorts them and gives the first of a kind the highest number.
    """
    receptacles, items = _ids(game.receptacles), _ids(game.items)
    lines = [
        f"(define (problem {_name(game.id)})",
        "(:domain alfred)",
        "(:objects",
        *_declarations(game, receptacles, items),
        ")",
        "(:init",
        f"(atLocation {AGENT} {_location(game.start_location)})",
        *_receptacle_facts(game, receptacles),
        *_item_facts(game, receptacles, items),
        ")",
        f"(:goal {_goal(game.goal)})",
        ")",
    ]
    return "\n".join(lines) + "\n"


# -- ids ---------------------------------------------------------------------------------------------------------------


def _ids(things: Sequence[Receptacle] | Sequence[Item]) -> list[str]:
    """Return an id for each thing; within a kind the ids sort in the order in which the game lists its things."""
    before: Counter[str] = Counter()
    ids = []
    for thing in things:
        ids.append(_id(thing.kind, before[thing.kind]))
        before[thing.kind] += 1
    return ids


def _id(kind: str, rank: int) -> str:
    # The engine knows a basin by the end of its id: "Sink_bar_..._bar_SinkBasin" is a "sinkbasin".
    end = f"_bar_{kind}" if kind.endswith("Basin") else ""
    zeros = "_bar__plus_00_dot_00" * 2
    return f"{kind.removesuffix('Basin')}_bar__plus_{rank:02d}_dot_00{zeros}{end}"


def _location(number: int) -> str:
    return f"loc_bar_{number:03d}_bar_0_bar_0_bar_0"


def _name(id_: str) -> str:
    return "plan_" + "".join(letter if letter.isalnum() else "_" for letter in id_)


# -- objects and facts -------------------------------------------------------------------------------------------------


def _declarations(game: Game, receptacles: Sequence[str], items: Sequence[str]) -> Iterator[str]:
    locations = {game.start_location} | {receptacle.location for receptacle in game.receptacles}
    locations |= {item.location for item in game.items if item.location is not None}
    yield f"{AGENT} - agent"
    yield from _typed((f"{kind}Type" for kind in _object_kinds(game)), "otype")
    yield from _typed((f"{kind}Type" for kind in _receptacle_kinds(game)), "rtype")
    yield from _typed(items, "object")
    yield from _typed(receptacles, "receptacle")
    yield from _typed(map(_location, sorted(locations)), "location")


def _typed(names: Iterable[str], type_: str) -> Iterator[str]:
    return (f"{name} - {type_}" for name in names)


def _object_kinds(game: Game) -> list[str]:
    mentioned = {game.goal.object_kind, game.goal.toggle_kind, *DOMAIN_OBJECT_KINDS} - {""}
    return sorted(mentioned | {item.kind for item in game.items})


def _receptacle_kinds(game: Game) -> list[str]:
    mentioned = {game.goal.receptacle_kind, *DOMAIN_RECEPTACLE_KINDS} - {""}
    return sorted(mentioned | {receptacle.kind for receptacle in game.receptacles})


def _receptacle_facts(game: Game, ids: Sequence[str]) -> Iterator[str]:
    kinds = {receptacle.kind for receptacle in game.receptacles}, {item.kind for item in game.items}
    for id_, receptacle in zip(ids, game.receptacles, strict=True):
        yield f"(receptacleType {id_} {receptacle.kind}Type)"
        yield f"(receptacleAtLocation {id_} {_location(receptacle.location)})"
        if receptacle.openable:
            yield f"(openable {id_})"
        if receptacle.opened:
            yield f"(opened {id_})"
    for receptacle_kind, object_kind in sorted(game.can_contain):
        if receptacle_kind in kinds[0] and object_kind in kinds[1]:
            yield f"(canContain {receptacle_kind}Type {object_kind}Type)"


def _item_facts(game: Game, receptacles: Sequence[str], ids: Sequence[str]) -> Iterator[str]:
    for id_, item in zip(ids, game.items, strict=True):
        yield f"(objectType {id_} {item.kind}Type)"
        for word in sorted(item.properties | item.states):
            yield f"({PREDICATES.get(word, word)} {id_})"
        if item.location is not None:
            yield f"(objectAtLocation {id_} {_location(item.location)})"
        for holder in () if item.receptacle is None else (item.receptacle, *item.also_in):
            yield f"(inReceptacle {id_} {receptacles[holder]})"
        for outer in item.inside:
            yield f"(inReceptacleObject {id_} {ids[outer]})"


# -- the goal ----------------------------------------------------------------------------------------------------------


def _goal(goal: Goal) -> str:
    if goal.task_type == "look_at_obj_in_light":
        return f"(and {_lit(goal.toggle_kind)} {_held(goal)})"
    first = _placed(goal, "?o")
    if goal.task_type != "pick_two_obj_and_place":
        return _exists("?r - receptacle ?o - object", *first)
    return _exists("?r - receptacle ?o - object ?p - object", "(not (= ?o ?p))", *first, *_placed(goal, "?p"))


def _lit(lamp: str) -> str:
    here = ("(receptacleAtLocation ?r ?l)", "(atLocation ?a ?l)", "(inReceptacle ?t ?r)")
    on = (f"(objectType ?t {lamp}Type)", "(toggleable ?t)", "(isToggled ?t)")
    return _exists("?t - object ?r - receptacle ?a - agent ?l - location", *on, *here)


def _held(goal: Goal) -> str:
    return _exists("?o - object ?a - agent", *_described(goal, "?o"), "(holds ?a ?o)")


def _placed(goal: Goal, variable: str) -> list[str]:
    states = [f"({state} {variable})" for state in STATES.get(goal.task_type, ())]
    place = [f"(receptacleType ?r {goal.receptacle_kind}Type)", f"(inReceptacle {variable} ?r)"]
    return [*_described(goal, variable), *states, *place]


def _described(goal: Goal, variable: str) -> list[str]:
    sliced = [f"(sliceable {variable})", f"(isSliced {variable})"] if goal.sliced else []
    return [f"(objectType {variable} {goal.object_kind}Type)", *sliced]


def _exists(variables: str, *conditions: str) -> str:
    return f"(exists ({variables}) (and {' '.join(conditions)}))"
