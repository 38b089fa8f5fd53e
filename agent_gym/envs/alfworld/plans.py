"""Decides what a generated game asks for: task types, goal pairs, sentences, and which goals are kept for valid_unseen.

Knows nothing of the room beyond its tables; the game is built around the plan.
"""

import random
import zlib
from dataclasses import dataclass
from functools import lru_cache

from agent_gym.envs.alfworld.figures import Room, Weighted, load_figures
from agent_gym.envs.alfworld.scene import TASK_TYPES, Goal

TASK_COUNTS = {
    "pick_and_place_simple": 790,
    "look_at_obj_in_light": 308,
    "pick_clean_then_place_in_recep": 650,
    "pick_heat_then_place_in_recep": 459,
    "pick_cool_then_place_in_recep": 533,
    "pick_two_obj_and_place": 813,
}
"""Games of each type in the official training split: the mix in which types are drawn."""

TEMPLATES = {
    "pick_and_place_simple": ("put a {object} in {place}", "put some {object} on {place}"),
    "look_at_obj_in_light": ("look at {object} under the {lamp}", "examine the {object} with the {lamp}"),
    "pick_clean_then_place_in_recep": ("put a clean {object} in {place}", "clean some {object} and put it in {place}"),
    "pick_heat_then_place_in_recep": ("put a hot {object} in {place}", "heat some {object} and put it in {place}"),
    "pick_cool_then_place_in_recep": ("put a cool {object} in {place}", "cool some {object} and put it in {place}"),
    "pick_two_obj_and_place": ("put two {object} in {place}", "find two {object} and put them in {place}"),
}
"""The sentences in which a goal is told."""

APPLIANCES = {
    "pick_clean_then_place_in_recep": ("clean", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("heat", "Microwave"),
    "pick_cool_then_place_in_recep": ("cool", "Fridge"),
}
"""What must be done to the object on its way, and where."""

LAMP = "DeskLamp"
"""The lamp of every official look_at_obj_in_light game."""
UNSEEN_SHARE = 5
"""One layout in so many, and one goal pair in so many, is kept for valid_unseen."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A goal, the room it is set in, and where its object may lie at the start."""

    goal: Goal
    room: Room
    homes: Weighted[str]
    """Receptacle kinds on which the goal object may lie at the start."""
    lamp_homes: Weighted[str] | None
    """Receptacle kinds on which the lamp may stand; None where no lamp is needed."""


def draw_plan(rng: random.Random, task_type: str, unseen: bool) -> Plan:
    """Draw a goal of that type and its room, among those that the split may ask for."""
    return _possible_plans(task_type, unseen).draw(rng)


@lru_cache(maxsize=2 * len(TASK_TYPES))
def _possible_plans(task_type: str, unseen: bool) -> Weighted[Plan]:
    """Return every goal of a type that the split may ask for, weighted as the official games ask.

    Every object kind that any room asks for is possible wherever it occurs, so that small splits have a choice.
    """
    rooms = [room for room in load_figures().rooms.values() if task_type in room.goals]
    asked = sorted({kind for room in rooms for kind in room.goals[task_type]})
    weights: dict[Plan, float] = {}
    for room in rooms:
        for kind in asked:
            if kind in room.objects:
                frequency = room.goals[task_type].get(kind, 0) + 1
                targets = _targets(room, task_type, kind, unseen)
                for target in targets:
                    plan = _plan(room, task_type, kind, target)
                    if plan.homes.names:
                        weights[plan] = frequency * targets[target] / sum(targets.values())
    return Weighted(weights)


def _targets(room: Room, task_type: str, kind: str, unseen: bool) -> dict[str, float]:
    """Return where an object kind may be asked to go (or the lamp), with how often that is in such a room."""
    if task_type == "look_at_obj_in_light":
        options = {LAMP: 1.0}
    else:
        appliance = APPLIANCES.get(task_type, ("", ""))[1]
        contain = load_figures().can_contain
        options = {r: p for r, p in room.present.items() if (r, kind) in contain and r != appliance}
    return {target: p for target, p in options.items() if is_unseen(_pair_key(kind, target)) == unseen}


def _plan(room: Room, task_type: str, kind: str, target: str) -> Plan:
    if task_type == "look_at_obj_in_light":
        return Plan(Goal(task_type, kind, toggle_kind=target), room, room.homes[kind], room.homes[target])
    # An object that lies where it should go, or in the fridge that should cool it, would make the task too short.
    banned = {"Fridge" if task_type == "pick_cool_then_place_in_recep" else ""}
    if task_type not in APPLIANCES:
        banned.add(target)
    return Plan(Goal(task_type, kind, target), room, room.homes[kind].without(banned), None)


def is_unseen(key: str) -> bool:
    """Return whether a layout or a goal pair belongs to valid_unseen; the checksum is the same on every machine."""
    return zlib.crc32(key.encode()) % UNSEEN_SHARE == 0


def _pair_key(object_kind: str, target_kind: str) -> str:
    return f"{object_kind}|{target_kind}"


def tell(rng: random.Random, goal: Goal) -> str:
    """Tell a goal in one of its two sentences."""
    template = rng.choice(TEMPLATES[goal.task_type])
    return template.format(
        object=goal.object_kind.lower(), place=goal.receptacle_kind.lower(), lamp=goal.toggle_kind.lower()
    )


def pair_key(goal: Goal) -> str:
    """Return what the splits divide goals by: the object kind with the receptacle kind or the lamp kind."""
    return _pair_key(goal.object_kind, goal.receptacle_kind or goal.toggle_kind)
