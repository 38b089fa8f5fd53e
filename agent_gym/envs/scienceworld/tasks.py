"""Which tasks, variations, splits and simplifications there are, known without starting the simulator."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from agent_gym.env import LazyTasks, Task
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.task_ids import number_in

_NUMBERED = {
    "1-1": ("boil", 30),
    "1-2": ("melt", 30),
    "1-3": ("freeze", 30),
    "1-4": ("change-the-state-of-matter-of", 30),
    "2-1": ("use-thermometer", 540),
    "2-2": ("measure-melting-point-known-substance", 436),
    "2-3": ("measure-melting-point-unknown-substance", 300),
    "3-1": ("power-component", 20),
    "3-2": ("power-component-renewable-vs-nonrenewable-energy", 20),
    "3-3": ("test-conductivity", 900),
    "3-4": ("test-conductivity-of-unknown-substances", 600),
    "4-1": ("find-living-thing", 300),
    "4-2": ("find-non-living-thing", 300),
    "4-3": ("find-plant", 300),
    "4-4": ("find-animal", 300),
    "5-1": ("grow-plant", 126),
    "5-2": ("grow-fruit", 126),
    "6-1": ("chemistry-mix", 32),
    "6-2": ("chemistry-mix-paint-secondary-color", 36),
    "6-3": ("chemistry-mix-paint-tertiary-color", 36),
    "7-1": ("lifespan-longest-lived", 125),
    "7-2": ("lifespan-shortest-lived", 125),
    "7-3": ("lifespan-longest-lived-then-shortest-lived", 125),
    "8-1": ("identify-life-stages-1", 14),
    "8-2": ("identify-life-stages-2", 10),
    "9-1": ("inclined-plane-determine-angle", 168),
    "9-2": ("inclined-plane-friction-named-surfaces", 1386),
    "9-3": ("inclined-plane-friction-unnamed-surfaces", 162),
    "10-1": ("mendelian-genetics-known-plant", 120),
    "10-2": ("mendelian-genetics-unknown-plant", 480),
}
"""Name and number of variations by the number that the paper gives a task."""

TASKS: dict[str, int] = dict(_NUMBERED.values())
"""Number of variations by the name of the task."""
SPLITS = ("train", "dev", "test")
SIMPLIFICATIONS = ("teleportAction", "openDoors", "openContainers", "selfWateringFlowerPots", "noElectricalAction")
EASY = "easy"
"""Stands for the simplifications that the simulator deems right for the task."""
_NEEDS_ELECTRICITY = ("power-component", "conductivity")


def find_names(tasks: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of tasks that are given as "boil", "task-1-boil" or "1-1"; all of them for None.

    Raises:
        UnknownIdError: There is no such task; the message names the nearest.
    """
    if not tasks:
        return tuple(TASKS)
    given = [tasks] if isinstance(tasks, str) else tasks
    return tuple(dict.fromkeys(_find_name(name) for name in given))


def check_simplification(simplification: str, names: Sequence[str]) -> str:
    """Return the simplifications as the simulator wants them: separated by commas alone.

    Raises:
        UnknownIdError: There is no such simplification.
        ConfigError: They do not go together, or not with one of the tasks.
    """
    given = [part.strip() for part in simplification.split(",") if part.strip()]
    for part in given:
        if part not in (EASY, *SIMPLIFICATIONS):
            raise UnknownIdError.of("simplification", part, (EASY, *SIMPLIFICATIONS))
    if EASY in given and len(given) > 1:
        raise ConfigError(f"The simplification {EASY!r} stands alone: leave out {EASY!r} or the others.")
    electrical = [name for name in names if any(word in name for word in _NEEDS_ELECTRICITY)]
    if "noElectricalAction" in given and electrical:
        raise ConfigError(f"The task {electrical[0]!r} needs electrical actions: leave out noElectricalAction.")
    return ",".join(dict.fromkeys(given))


def split_range(name: str, split: str) -> range:
    """Return the variations of a task that belong to a split.

    The first half is for training and the third quarter for development; a quarter is rounded down, and what is left
    over goes to the test split, as in the simulator.
    """
    count = TASKS[name]
    quarter = count // 4
    bounds = {"train": (0, 2 * quarter), "dev": (2 * quarter, 3 * quarter), "test": (3 * quarter, count)}
    return range(*bounds[split])


def list_tasks(names: Sequence[str], split: str) -> LazyTasks:
    """Return the variations of the named tasks in a split, task after task."""
    ranges = [split_range(name, split) for name in names]
    ends = list(accumulate(map(len, ranges)))

    def task_at(index: int) -> Task:
        which = bisect_right(ends, index)
        start = ends[which - 1] if which else 0
        return _task(names[which], ranges[which][index - start], split)

    return LazyTasks(ends[-1], task_at)


def find_task(task_id: str, names: Sequence[str]) -> Task:
    """Return the task of an id such as "boil/3", which is variation 3 of the task "boil".

    Raises:
        UnknownIdError: It is none of the named tasks, or has no such variation.
    """
    name = task_id.partition("/")[0]
    if name not in names:
        raise UnknownIdError.of("task", task_id, [f"{name}/0" for name in names])
    variation = number_in(task_id, f"{name}/")
    if variation is None or variation >= TASKS[name]:
        raise UnknownIdError(f"Unknown task {task_id!r}: the ids go from '{name}/0' to '{name}/{TASKS[name] - 1}'.")
    return _task(name, variation, next(split for split in SPLITS if variation in split_range(name, split)))


def _task(name: str, variation: int, split: str) -> Task:
    return Task(f"{name}/{variation}", split, {"task": name, "variation": variation, "task_type": name})


def _find_name(given: str) -> str:
    name = _NUMBERED[given][0] if given in _NUMBERED else re.sub(r"^task-[0-9ab]+-", "", given)
    if name not in TASKS:
        raise UnknownIdError.of("ScienceWorld task", given, TASKS)
    return name
