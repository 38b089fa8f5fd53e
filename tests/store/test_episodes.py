"""Listing, filtering and counting: every answer is the one that reading all episodes would give."""

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import StoreError
from agent_gym.store import episodes
from agent_gym.store.episodes import EpisodeFilter, EpisodeRow
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trajectory import Trajectory, Turn

COUNT = 120
GOALS = ("Put a mug on the desk", "ÄPFEL kochen", '100% "quoted" a_b', "Put a clean mug", "")


def make_episode(number: int) -> tuple[Trajectory, int, str]:
    rng = random.Random(number)
    group = rng.randrange(12)
    trajectory = Trajectory(f"task{group % 5}", "alfworld", f"e{number}", f"g{group}", goal=GOALS[group % 5])
    for turn in range(rng.randrange(1, 5)):
        trajectory.append_context([1, 2])
        trajectory.append_action([3], [-0.5], [rng.random()])
        trajectory.turns.append(Turn("o", "t", "a", 3 * turn + 2, 3 * turn + 3, reward=rng.choice((0, 0.5, 1))))
    trajectory.success = rng.random() < 0.4
    trajectory.error = rng.choice((None, None, None, "the worker died", "time-out"))
    trajectory.metadata = {"suite": rng.choice(("s/a", "s/b")), "task_type": rng.choice(("look", "heat"))}
    if rng.random() < 0.5:
        trajectory.metadata["answer"] = rng.choice(("42", "Paris", "mug"))
    return trajectory, group % 3, rng.choice(("train", "eval"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrajectoryStore]:
    with TrajectoryStore(tmp_path_factory.mktemp("store") / "t.sqlite") as store:
        for number in range(COUNT):
            trajectory, step, phase = make_episode(number)
            store.add([trajectory], step=step, phase=phase)
        yield store


def matches(row: EpisodeRow, wanted: EpisodeFilter) -> bool:
    """The filter, said in Python."""
    exact = ("phase", "suite", "step", "group_id", "task_id", "task_type", "success")
    texts = ["\n".join((row.task_id, row.goal)), "\n".join(filter(None, (row.error, row.answer)))]
    checks = [getattr(wanted, name) in (None, getattr(row, name)) for name in exact]
    checks.append(wanted.failed in (None, row.error is not None))
    checks.append(wanted.min_reward is None or row.reward >= wanted.min_reward)
    checks.append(wanted.max_reward is None or row.reward <= wanted.max_reward)
    checks.append(wanted.min_turns is None or row.turns >= wanted.min_turns)
    checks.append(wanted.max_turns is None or row.turns <= wanted.max_turns)
    words = (wanted.text or "").split()
    checks.append(all(any(word.lower() in text.lower() for text in texts) for word in words))
    return all(checks)


ORDERS: dict[episodes.Order, Callable[[EpisodeRow], tuple[float, int]]] = {
    "newest": lambda row: (0, -row.number),
    "oldest": lambda row: (0, row.number),
    "reward": lambda row: (row.reward, row.number),
    "-reward": lambda row: (-row.reward, -row.number),
    "turns": lambda row: (row.turns, row.number),
    "-turns": lambda row: (-row.turns, -row.number),
}

filters = st.builds(
    EpisodeFilter,
    phase=st.sampled_from((None, None, "train", "eval", "other")),
    suite=st.sampled_from((None, None, "s/a")),
    step=st.sampled_from((None, None, 0, 2, 9)),
    group_id=st.sampled_from((None, None, None, "g3")),
    task_id=st.sampled_from((None, None, None, "task2")),
    task_type=st.sampled_from((None, None, "look")),
    success=st.sampled_from((None, None, True, False)),
    failed=st.sampled_from((None, None, True, False)),
    text=st.sampled_from(
        (None, None, "mug", "MUG put", "a", "äpfel", "100%", '"quoted"', "a_b", "%", "died mug", "zzz")
    ),
    min_reward=st.sampled_from((None, None, 1.0)),
    max_reward=st.sampled_from((None, None, 1.5)),
    min_turns=st.sampled_from((None, None, 2)),
    max_turns=st.sampled_from((None, None, 3)),
)


@settings(max_examples=150, deadline=None)
@given(wanted=filters, order=st.sampled_from(list(ORDERS)), limit=st.integers(1, 40))
def test_pages_hold_what_the_filter_asks_for_each_once_and_in_order(
    store: TrajectoryStore, wanted: EpisodeFilter, order: episodes.Order, limit: int
) -> None:
    expected = sorted((row for row in store.outcomes() if matches(row, wanted)), key=ORDERS[order])
    found: list[EpisodeRow] = []
    page = store.episodes(wanted, order=order, limit=limit)
    while page:
        assert len(page) <= limit
        found += page
        page = store.episodes(wanted, order=order, limit=limit, after=page[-1].cursor(order))
    assert found == expected
    assert store.count_matching(wanted) == len(expected)
    assert store.count_matching(wanted, at_most=5) == min(5, len(expected))


@settings(max_examples=60, deadline=None)
@given(wanted=filters, limit=st.integers(1, 5))
def test_groups_are_summed_up_as_a_whole_and_listed_once(
    store: TrajectoryStore, wanted: EpisodeFilter, limit: int
) -> None:
    rows = list(store.outcomes())
    newest: dict[str, int] = {}
    for row in rows:
        if matches(row, wanted):
            newest[row.group_id] = row.number
    found: list[episodes.GroupRow] = []
    page = store.groups(wanted, limit=limit)
    while page:
        found += page
        page = store.groups(wanted, limit=limit, after=str(page[-1].number))
    assert [(group.group_id, group.number) for group in found] == sorted(newest.items(), key=lambda each: -each[1])
    assert store.count_groups(wanted) == len(newest)
    for group in found:
        members = [row for row in rows if row.group_id == group.group_id]
        valid = [row.reward for row in members if row.error is None]
        assert (group.count, group.failed) == (len(members), len(members) - len(valid))
        assert group.successes == sum(row.success for row in members if row.error is None)
        assert group.task_id == members[0].task_id and group.goal == members[0].goal
        if valid:
            assert group.reward_mean == pytest.approx(sum(valid) / len(valid))
            assert (group.reward_min, group.reward_max) == (min(valid), max(valid))


def test_a_row_says_of_an_episode_what_the_trajectory_does(store: TrajectoryStore) -> None:
    rows = {row.id: row for row in store.outcomes()}
    assert len(rows) == COUNT
    for number in range(COUNT):
        trajectory, step, phase = make_episode(number)
        row = rows[trajectory.id]
        assert (row.step, row.phase, row.success, row.error) == (step, phase, trajectory.success, trajectory.error)
        assert (row.reward, row.turns) == (trajectory.reward, len(trajectory.turns))
        assert row.generated_tokens == len(trajectory.turns)
        # In turn n the model read n observations and n - 1 answers.
        assert row.prompt_tokens == sum(3 * turn + 2 for turn in range(len(trajectory.turns)))
        assert row.entropy == pytest.approx(trajectory.entropy)
        assert (row.suite, row.answer) == (trajectory.metadata["suite"], trajectory.metadata.get("answer"))


def test_what_metadata_says_in_place_of_a_number_is_no_number(tmp_path: Path) -> None:
    notes = [{"cost": "abc", "attempt": "x"}, {"cost": "nan", "attempt": str(2**64)}, {"cost": "0.5", "attempt": "3"}]
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add(
            [Trajectory("t", id=str(place), metadata=about) for place, about in enumerate(notes)], step=0, phase="e"
        )
        rows = store.episodes(EpisodeFilter(), order="oldest")
    assert [(row.cost, row.attempt) for row in rows] == [(None, 0), (None, 0), (0.5, 3)]


def test_the_columns_are_the_fields_of_a_row(store: TrajectoryStore) -> None:
    described = store._connection.execute("PRAGMA table_info(episodes)")
    names = [name for _, name, *_ in described]
    assert names[: len(episodes.NAMES)] == [field.name for field in dataclasses.fields(EpisodeRow)]


def test_what_is_known_is_said_with_its_error(store: TrajectoryStore) -> None:
    expected = {row.id: row.error for row in store.outcomes("eval", "s/a")}
    assert expected and store.known("eval", "s/a") == expected
    assert len(store.known("eval")) + len(store.known("train")) == COUNT and store.known("other") == {}


def test_kinds_and_steps_are_those_that_there_are(store: TrajectoryStore) -> None:
    assert store.kinds() == sorted({(row.phase, row.suite, row.task_type) for row in store.outcomes()})
    assert store.phases() == ["eval", "train"] and store.steps() == (0, 2)


@pytest.mark.parametrize("word", ["mug", "a", "absent"])
def test_few_episodes_with_a_word_are_found_as_many_are(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    few = store.episodes(EpisodeFilter(text=word), limit=-1)
    monkeypatch.setattr(episodes, "_FEW", -1)
    assert store.episodes(EpisodeFilter(text=word), limit=-1) == few
    assert bool(few) == (word != "absent")


def test_an_empty_store_answers_everything(tmp_path: Path) -> None:
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        assert (store.episodes(), store.groups(), store.kinds(), store.count(), store.steps()) == (
            [],
            [],
            [],
            0,
            (0, 0),
        )


@pytest.mark.parametrize(("order", "after"), [("newest", "x"), ("reward", "7"), ("newest", "0.5:7")])
def test_the_end_of_a_page_in_another_order_is_refused(
    store: TrajectoryStore, order: episodes.Order, after: str
) -> None:
    with pytest.raises(StoreError, match="no end of a page"):
        store.episodes(order=order, after=after)


def test_without_the_index_of_letters_texts_are_read_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.store.schema.sqlite3.sqlite_version_info", (3, 31, 0))
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add([make_episode(number)[0] for number in range(20)], step=0, phase="eval")
        assert store._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'search'").fetchone() is None
        wanted = EpisodeFilter(text="mug")
        expected = [row.id for row in store.outcomes() if matches(row, wanted)]
        assert expected and [row.id for row in store.episodes(wanted, order="oldest")] == expected


QUESTIONS = (
    EpisodeFilter(),
    EpisodeFilter(
        phase="train", suite="s/a", task_type="look", success=True, failed=False, min_reward=0.5, max_turns=9
    ),
    EpisodeFilter(step=1, success=True),
    EpisodeFilter(group_id="g1"),
    EpisodeFilter(task_id="task1"),
    EpisodeFilter(suite="s/b", max_reward=1.0),
)


@pytest.mark.parametrize("wanted", QUESTIONS)
def test_no_question_reads_through_the_table(store: TrajectoryStore, wanted: EpisodeFilter) -> None:
    asked: list[str] = []
    store._connection.set_trace_callback(asked.append)
    store.episodes(wanted)
    store.count_matching(wanted)
    store.groups(wanted)
    store.episodes(wanted, order="-reward")
    store._connection.set_trace_callback(None)
    assert len(asked) == 4
    for query in asked:
        plan = [step[3] for step in store._connection.execute(f"EXPLAIN QUERY PLAN {query}")]
        walks = [step for step in plan if step.startswith(("SCAN episodes", "SEARCH episodes"))]
        assert walks and all("USING" in step for step in walks), plan
        if query in asked[:2]:
            assert not any("TEMP B-TREE" in step for step in plan), plan
