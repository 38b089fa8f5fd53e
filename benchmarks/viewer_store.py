"""Measures what the viewer asks of a run with very many episodes, and what storing an episode costs.

The database is made once (minutes for a million episodes, 1.5 GB) and found again in the same --folder. Its
episodes are short, as for what is large about them the questions never read it.
"""

import argparse
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent_gym.store.episodes import EpisodeFilter
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trajectory import Trajectory, Turn

LIMIT = 300
"""Milliseconds that a page may take."""
GROUP = 8
GENERATED = 200 * 1024
"""Episodes that differ in more than their ids."""
BATCH = 1024
"""Episodes a training step."""
TASKS = 10_000
TYPES = ("pick_and_place", "look_at_obj_in_light", "pick_clean", "pick_heat", "pick_cool", "pick_two")
THINGS = ("mug", "apple", "lettuce", "book", "pan", "vase", "pillow", "statue", "potato", "candle")
PLACES = ("desk", "shelf", "fridge", "sidetable", "cabinet", "countertop", "drawer", "bed")
REPEATS = 9


def main() -> None:
    """Make the database where it is not there, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "agent_gym_viewer_store")
    arguments = parser.parse_args()
    writing()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / f"{arguments.episodes}.sqlite"
    fill(path, arguments.episodes)
    print(f"\n{path.name}: {path.stat().st_size / 1e9:.2f} GB; {REPEATS} times each, milliseconds")
    asking(path)


# -- reading -----------------------------------------------------------------------------------------------------------


def asking(path: Path) -> None:
    """Ask every question some times and print the median and the worst of its times."""
    slow = []
    with TrajectoryStore.reading(path) as store:
        print(f"{'question':40} {'median':>8} {'worst':>8} {'of it CPU':>10}  answer")
        for name, question in questions(store):
            times, busy, answer = [], [], 0
            for _ in range(REPEATS):
                started, cpu = time.perf_counter(), time.process_time()
                answer = question()
                busy.append(1e3 * (time.process_time() - cpu))
                times.append(1e3 * (time.perf_counter() - started))
            found = f"{statistics.median(times):8.1f} {max(times):8.1f} {statistics.median(busy):10.1f}"
            print(f"{name:40} {found}  {answer:,}", flush=True)
            # On a machine that is busy with other things the clock on the wall speaks of those.
            if statistics.median(busy) > LIMIT:
                slow.append(name)
    print(f"more than {LIMIT} ms of work: {', '.join(slow) or 'none'}")


def questions(store: TrajectoryStore) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield what is asked, and something that asks it and returns how much came back."""
    total = store.count()
    middle = store.episodes(order="newest", limit=1)[0]
    _, last = store.steps()

    def page(**wanted: object) -> Callable[[], int]:
        return lambda: len(store.episodes(EpisodeFilter(**wanted), limit=50))  # type: ignore[arg-type]

    def count(at_most: int | None = None, **wanted: object) -> Callable[[], int]:
        return lambda: store.count_matching(EpisodeFilter(**wanted), at_most=at_most)  # type: ignore[arg-type]

    yield "newest page", page()
    yield "deep page, by its cursor", lambda: len(store.episodes(after=str(total // 2)))
    for order in ("oldest", "reward", "-reward", "turns", "-turns"):
        yield f"order {order}", lambda order=order: len(store.episodes(order=order))  # type: ignore[misc]
    cursor = store.episodes(order="-reward", limit=50)[-1].cursor("-reward")
    yield "order -reward, the page after", lambda: len(store.episodes(order="-reward", after=cursor))
    yield "phase", page(phase="after")
    yield "suite that does not occur", page(suite="none")
    yield "step in the middle", page(step=last // 2)
    yield "success", page(success=True)
    yield "failed", page(failed=True)
    yield "failed and successful (none)", page(failed=True, success=True)
    yield "kind of task", page(task_type=TYPES[2])
    yield "one task", page(task_id="task/4242")
    yield "one group", page(group_id=middle.group_id)
    yield "reward over 0.9", page(min_reward=0.9)
    yield "reward over 99 (none)", page(min_reward=99.0)
    yield "turns from 3 to 3", page(min_turns=3, max_turns=3)
    combined = {"phase": "train", "task_type": TYPES[1], "success": False, "failed": False, "min_turns": 2}
    yield "five filters", page(**combined)
    yield "five filters and a word", page(**combined, text="fridge")
    yield "search, many: mug", page(text="mug")
    yield "search, two words: apple shelf", page(text="apple shelf")
    yield "search, few: one answer", page(text="answer-31337")
    yield "search, none: zzzzzz", page(text="zzzzzz")
    yield "search, two letters: ap", page(text="ap")
    yield "search, many, filtered to none", page(text="mug", min_reward=99.0)
    yield "count of all", count()
    yield "count, five filters", count(**combined)
    yield "count, search: mug, at most 20,000", count(20_000, text="mug")
    yield "groups", lambda: len(store.groups())
    yield "groups, deep page", lambda: len(store.groups(after=str(total // 2)))
    yield "groups, searched and filtered", lambda: len(store.groups(EpisodeFilter(text="mug", success=True)))
    yield "groups, none", lambda: len(store.groups(EpisodeFilter(min_reward=99.0)))
    yield "count of groups", store.count_groups
    yield "count of groups, at most 10,000", lambda: store.count_groups(at_most=10_000)
    yield "phases, suites and kinds", lambda: len(store.kinds())
    yield "one episode, whole", lambda: len(store.get(middle.id).turns)
    yield "one that does not exist", lambda: _unknown(store)


def _unknown(store: TrajectoryStore) -> int:
    from agent_gym.errors import UnknownIdError

    try:
        store.get("train/17/g9e99")
    except UnknownIdError:
        return 0
    raise AssertionError


# -- writing -----------------------------------------------------------------------------------------------------------


def fill(path: Path, count: int) -> None:
    """Make the database, a training step at a time; beyond `GENERATED` episodes the same ones come again as others."""
    with TrajectoryStore(path) as store:
        done, generated = store.count(), min(count, GENERATED)
        started = time.perf_counter()
        for step in range(done // BATCH, -(-generated // BATCH)):
            first = step * BATCH
            numbers = range(first, min(first + BATCH, generated))
            store.add([short_episode(number, step) for number in numbers], step=step, phase="train")
            if step % 50 == 0 and step:
                left = (time.perf_counter() - started) / (first - done + BATCH) * (generated - first)
                print(f"\r{first:,} episodes stored, {left:.0f} s left ", end="", flush=True)
    copy(path, count)


def copy(path: Path, count: int) -> None:
    """Repeat the episodes until there are enough, in groups and steps of their own; the last are a measurement."""
    connection = sqlite3.connect(path)
    columns = {
        table: [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})") if name != "number"]
        for table in ("trajectories", "episodes")
    }
    while (done := connection.execute("SELECT max(number) FROM episodes").fetchone()[0]) < count:
        mark, some = f"again/{done}/", min(GENERATED, count - done)
        phase = "'after'" if done + some == count else "phase"
        changed = {"id": f"'{mark}' || id", "group_id": f"'{mark}' || group_id"}
        changed |= {"step": f"step + {done // BATCH}", "phase": phase}
        with connection:
            for table, names in columns.items():
                order = "number" if table == "episodes" else "rowid"
                chosen = ", ".join(changed.get(name, name) for name in names)
                connection.execute(
                    f"INSERT INTO {table} ({', '.join(names)}) SELECT {chosen} FROM {table} ORDER BY {order} LIMIT ?",
                    (some,),
                )
        print(f"\r{done + some:,} episodes stored ", end="", flush=True)
    connection.close()


def short_episode(number: int, step: int) -> Trajectory:
    """Return an episode of a few turns; its task, answer, error and reward follow from its number."""
    rng = random.Random(number)
    group = number // GROUP
    task = random.Random(group).randrange(TASKS)
    goal = f"Put a {THINGS[task % 10]} in/on the {PLACES[task // 10 % 8]}; this is household {task}."
    group_id = f"train/{step}/g{group % (BATCH // GROUP)}"
    made = Trajectory(f"task/{task}", "alfworld", f"{group_id}e{number % GROUP}", group_id, seed=number, goal=goal)
    made.metadata = {"split": "train", "task_type": TYPES[task % 6], "answer": f"answer-{rng.randrange(200_000)}"}
    for turn in range(rng.randrange(1, 5)):
        made.append_context([turn] * 6)
        made.append_action([7, 8], [-0.5, -0.25], [rng.random(), 0.5])
        made.turns.append(Turn("You see a mug 2.", "look", "look", 8 * turn + 6, 8 * turn + 8))
    made.success = rng.random() < 0.6
    made.turns[-1].reward = float(made.success) * rng.choice((0.5, 1.0))
    if rng.random() < 0.005:
        made.error = f"The worker has not answered in {rng.randrange(30, 90)} s."
    return made


def writing() -> None:
    """Print what storing costs a turn: of a step's 64 episodes together, and of each as soon as it ends."""
    episodes = [long_episode(number) for number in range(64)]
    turns = sum(len(episode.turns) for episode in episodes)
    times: dict[str, list[float]] = {"together": [], "one at a time": []}
    for repeat in range(REPEATS):
        for name, parts in (("together", [episodes]), ("one at a time", [[episode] for episode in episodes])):
            with (
                tempfile.TemporaryDirectory() as folder,
                TrajectoryStore(Path(folder) / f"{repeat}.sqlite") as store,
            ):
                wall, cpu = time.perf_counter(), time.process_time()
                for part in parts:
                    store.add(part, step=1, phase="train")
                times[name].append(1e6 * (time.process_time() - cpu) / turns)
                times[name + ", wall"] = [*times.get(name + ", wall", []), 1e6 * (time.perf_counter() - wall) / turns]
    print("storing 64 episodes of 50 turns and 48 tokens a turn, microseconds a turn (best):")
    for name, found in times.items():
        print(f"  {name:24} {min(found):6.1f}")


def long_episode(number: int) -> Trajectory:
    """Return an episode of 50 turns."""
    rng = random.Random(number)
    made = Trajectory(f"task/{number // 8}", "alfworld", f"e{number}", f"g{number // 8}", goal="Put a mug on the desk.")
    for _ in range(50):
        made.append_context([rng.randrange(50_000) for _ in range(40)])
        start = len(made.token_ids)
        made.append_action([rng.randrange(50_000) for _ in range(8)], [-rng.random()] * 8, [rng.random()] * 8)
        made.turns.append(Turn("You arrive at cabinet 3. On it, you see a mug 2.", "go on", "go on", start, start + 8))
    return made


if __name__ == "__main__":
    main()
