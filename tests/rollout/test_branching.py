"""Groups that branch: what is shared, what is not, how many there are, and what happens when something dies."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from helpers import CountEnv, run
from hypothesis import given, settings
from hypothesis import strategies as st
from wavering import Wavering

from agent_gym.engines.base import Sampling
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.env import State, Task
from agent_gym.errors import ConfigError, TrainingError, WorkerError
from agent_gym.rollout.branching import BranchPlan, branch_metrics, check_forks, choose_parents, grow_groups
from agent_gym.rollout.chat import ByteChat, TemplateChat
from agent_gym.rollout.collect import Collector
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.rollout.score import score
from agent_gym.trajectory import Group, Trajectory

SETTINGS = EpisodeSettings(Sampling(max_tokens=6))


class Opened(CountEnv):
    """Knows which of its kind are open; lasts as many turns as it may; a long time where it is told to."""

    alive: set[int] = set()  # noqa: RUF012 - all instances share it
    most = 0

    def __init__(self, **values: Any) -> None:
        super().__init__(**{"max_turns": 4, **values})
        self._open()

    def _open(self) -> None:
        Opened.alive.add(id(self))
        Opened.most = max(Opened.most, len(Opened.alive))

    def _copy(self) -> Any:
        twin = super()._copy()
        twin._open()
        return twin

    def close(self) -> None:
        super().close()
        Opened.alive.discard(id(self))


@pytest.fixture(autouse=True)
def none_open() -> None:
    Opened.alive.clear()
    Opened.most = 0


def mean(entropies: Sequence[float]) -> float:
    return sum(entropies) / max(len(entropies), 1)


def always(entropy: float, initial: float, in_a_row: int) -> float:
    return 1.0


def plan(**values: Any) -> BranchPlan:
    return BranchPlan(**{"group_size": 8, "initial": 2, "measure": mean, "probability": lambda *_: 0.5, **values})


def grown(
    values: BranchPlan, *, tasks: Sequence[str | None] = ("count 1",), make: Callable[[], Any] = Opened, **options: Any
) -> list[Group]:
    """Grow groups on a scripted engine and close everything; nothing may stay open."""
    engine, seed = options.pop("engine", None) or Wavering(), options.pop("seed", 0)
    collector = Collector(make, engine, ByteChat(), SETTINGS, **{"concurrency": 16, **options})
    try:
        groups: list[Group] = run(grow_groups(collector, tasks, values, seed=seed, prefix="t/"))
    finally:
        collector.close()
    assert not Opened.alive
    return groups


def family(group: Group) -> list[tuple[Trajectory, Trajectory]]:
    """Return (parent, child) pairs."""
    by_id = {trajectory.id: trajectory for trajectory in group.trajectories}
    return [(by_id[each.parent_id], each) for each in group.trajectories if each.parent_id is not None]


def told(groups: Sequence[Group]) -> list[Any]:
    return [
        (each.id, each.parent_id, each.branch_turn, each.token_ids, each.logprobs, each.seed, each.metadata)
        for group in groups
        for each in group.trajectories
    ]


def check_family(group: Group) -> int:
    """Check that branches are their parents up to where they left, and no further; return how many there are."""
    pairs = family(group)
    for parent, child in pairs:
        offset, turn = child.branch_offset, child.branch_turn
        assert offset is not None and turn is not None
        for name in ("token_ids", "action_mask", "logprobs", "entropies"):
            assert getattr(child, name)[:offset] == getattr(parent, name)[:offset]
        assert [each.text for each in child.turns[:turn]] == [each.text for each in parent.turns[:turn]]
        assert child.turns[:turn] == parent.turns[:turn] and child.own_turns == child.turns[turn:]
        assert child.turns[turn].start == offset
        assert child.turns[turn].observation == parent.turns[turn].observation
        assert child.seed != parent.seed
        assert {"branch_probability", "branch_entropy", "initial_entropy"} <= set(child.metadata)
    return len(pairs)


# -- the record of a tree ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timing", ["after", "before"])
def test_branches_are_their_parents_up_to_where_they_left(timing: Any) -> None:
    groups = grown(plan(group_size=12, timing=timing), tasks=["count 1", "count 2", None])
    assert sum(check_family(group) for group in groups) > 5
    for group in groups:
        assert [each.id for each in group.trajectories] == [f"{group.id}e{n}" for n in range(12)]
        assert len({each.seed for each in group.trajectories}) == 12 and len(group.valid) == 12
        assert len({each.turns[0].observation for each in group.trajectories}) == 1
        assert {each.group_id for each in group.trajectories} == {group.id}


def test_after_the_answer_is_known_the_branch_leaves_before_it() -> None:
    """The parent's own answer is the one that was measured; the child's starts at the same token and is another one."""
    [group] = grown(plan(group_size=9, initial=3, probability=always))
    pairs = family(group)
    assert len(pairs) == 6
    for parent, child in pairs:
        turn = parent.turns[child.branch_turn or 0]
        assert (turn.start, child.turns[child.branch_turn or 0].start) == (child.branch_offset, child.branch_offset)
        measured = mean(parent.entropies[turn.start : turn.end])
        first = mean(parent.entropies[parent.turns[0].start : parent.turns[0].end])
        assert float(child.metadata["branch_entropy"]) == pytest.approx(measured, rel=1e-4)
        assert float(child.metadata["initial_entropy"]) == pytest.approx(first, rel=1e-4)
        assert (child.branch_turn or 0) >= 1


def test_before_the_answer_is_known_the_branch_leaves_after_the_observation() -> None:
    [group] = grown(plan(group_size=9, initial=3, probability=always, timing="before"))
    for parent, child in family(group):
        turn = parent.turns[(child.branch_turn or 0) - 1]
        assert float(child.metadata["branch_entropy"]) == pytest.approx(
            mean(parent.entropies[turn.start : turn.end]), rel=1e-4
        )
        assert child.branch_offset == parent.turns[child.branch_turn or 0].start


def test_a_state_is_decided_on_once() -> None:
    """A branch does not branch again at the turn that it left its parent at."""
    [group] = grown(plan(group_size=30, initial=1, probability=always), make=lambda: Opened(max_turns=5))
    assert all(child.branch_turn != parent.branch_turn for parent, child in family(group))


def test_depth_and_width_are_limits() -> None:
    [group] = grown(plan(group_size=30, initial=2, probability=always, attempts=2, max_depth=1))
    pairs = family(group)
    assert all(parent.parent_id is None for parent, _ in pairs)
    places = [(parent.id, child.branch_turn) for parent, child in pairs]
    assert max(places.count(place) for place in places) == 2


# -- a real model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timing", ["after", "before"])
@pytest.mark.parametrize("window", [None, 1])
def test_what_a_branch_says_is_what_the_model_says_after_its_tokens(
    tokenizer: Any, model: Any, timing: Any, window: int | None
) -> None:
    import torch

    from agent_gym.trainers.batch import make_batch
    from agent_gym.trainers.scorer import TokenScorer

    engine = TransformersEngine(model.eval(), tokenizer)
    episode_settings = replace(SETTINGS, window=window)
    collector = Collector(Opened, engine, TemplateChat(tokenizer), episode_settings)
    [group] = run(grow_groups(collector, ["count 1"], plan(timing=timing, probability=always), seed=3))
    collector.close()
    assert check_family(group) > 2 and not engine._sessions and not Opened.alive
    batch = make_batch(group.trajectories, [0.0] * 8, [0] * 8)
    with torch.no_grad():
        logprobs, _ = TokenScorer(model)(batch.input_ids, batch.mask)
    torch.testing.assert_close(logprobs, batch.old_logprobs, atol=1e-4, rtol=0)
    for parent, child in family(group):
        assert child.token_ids != parent.token_ids


def test_neither_timing_nor_concurrency_changes_anything(tokenizer: Any, model: Any) -> None:
    def play(concurrency: int) -> list[Any]:
        engine = TransformersEngine(model.eval(), tokenizer)
        collector = Collector(Opened, engine, TemplateChat(tokenizer), SETTINGS, concurrency=concurrency)
        groups = run(grow_groups(collector, ["count 1", "count 2"], plan(group_size=6), seed=5))
        collector.close()
        return [(row[:4], row[5]) for row in told(groups)]

    assert play(1) == play(6) == play(64)


# -- chance and numbers ------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 3), st.integers(0, 99), st.booleans())
def test_a_group_has_exactly_as_many_as_were_asked_for(
    size: int, initial: int, probability: float, attempts: int, seed: int, after: bool
) -> None:
    values = plan(
        group_size=size,
        initial=min(initial, size),
        probability=lambda *_: probability,
        attempts=attempts,
        timing="after" if after else "before",
    )
    groups = grown(values, tasks=["count 1", "count 2"], seed=seed)
    assert [len(group.trajectories) for group in groups] == [size, size]
    assert told(groups) == told(grown(values, tasks=["count 1", "count 2"], seed=seed, concurrency=1))
    if attempts == 0 or probability == 0:
        assert branch_metrics(groups) == {"branches": 0, "turns_shared": 0}


def test_roots_are_those_of_independent_rollouts() -> None:
    collector = Collector(Opened, Wavering(), ByteChat(), SETTINGS)
    expected = run(collector.groups(["count 1", "count 2"], size=6, seed=4, prefix="t/"))
    collector.close()
    assert told(grown(plan(group_size=6, initial=6), tasks=["count 1", "count 2"], seed=4)) == told(expected)


def test_branches_are_as_frequent_as_their_probability() -> None:
    rng = random.Random(0)
    for probability in (0.0, 0.3, 0.8, 1.0):
        hits = len(choose_parents(range(4000), lambda _, p=probability: p, free=10**9, attempts=1, draw=rng.random))
        assert hits / 4000 == pytest.approx(probability, abs=0.025)


def test_nobody_is_asked_when_there_is_no_place_left() -> None:
    draws = itertools.count()
    assert choose_parents([1, 2, 3], lambda _: 1.0, free=2, attempts=3, draw=lambda: next(draws) * 0.0) == [1, 1]
    assert next(draws) == 2


def test_decisions_see_entropy_now_and_at_first_and_the_branches_in_a_row() -> None:
    seen: list[tuple[float, float, int]] = []

    def probability(*numbers: Any) -> float:
        seen.append(numbers)
        return 1.0

    grown(
        plan(group_size=5, initial=1, probability=probability), make=lambda: Opened(max_turns=9), engine=Wavering(["x"])
    )
    # The root branches at its second, third and fourth turn; its first branch at the fourth, after one in a row.
    assert [row for _, _, row in seen] == [0, 1, 2, 1]
    assert seen[0][1] == seen[1][1] and seen[0][0] != seen[0][1]
    seen.clear()
    rows = itertools.count(7)
    counted = plan(group_size=3, initial=1, probability=probability, count=lambda row, made: next(rows))
    grown(counted, make=lambda: Opened(max_turns=9), engine=Wavering(["x"]))
    assert [row for _, _, row in seen][:1] == [7]


def test_branches_in_a_row_end_with_a_decision_not_to_branch() -> None:
    outcomes, seen = iter([1.0, 1.0, 0.0, 1.0]), []

    def probability(now: float, first: float, in_a_row: int) -> float:
        seen.append(in_a_row)
        return next(outcomes)

    grown(plan(group_size=4, initial=1, probability=probability, max_depth=1), make=lambda: Opened(max_turns=9))
    assert seen == [0, 1, 2, 0]


@pytest.mark.parametrize("timing", ["after", "before"])
def test_the_first_look_stays_in_the_group_and_tells_how_many_begin(timing: Any) -> None:
    looked: list[list[float]] = []

    def budget(entropies: Sequence[float]) -> int:
        looked.append(list(entropies))
        return 3

    [group] = grown(plan(group_size=7, initial=99, budget=budget, probability=always, timing=timing))
    first, *others = group.trajectories
    assert [mean(first.entropies[turn.start : turn.end]) for turn in first.turns] == looked[0]
    assert all(each.parent_id != first.id for each in others)
    assert sum(each.parent_id is None for each in group.trajectories) == 3 and len(group.trajectories) == 7


# -- what is counted ---------------------------------------------------------------------------------------------------


def test_what_branches_share_is_counted_once() -> None:
    engine = Wavering()
    groups = grown(plan(group_size=8, probability=always), engine=engine)
    trajectories = groups[0].trajectories
    summary = score(trajectories)
    assert summary.env_turns == len(engine.seeds) == len(set(engine.seeds))
    assert summary.turns == mean([len(each.turns) for each in trajectories])
    assert summary.env_turns < sum(len(each.turns) for each in trajectories)
    own = [sum(each.action_mask[each.branch_offset or 0 :]) for each in trajectories]
    assert summary.generated_tokens == sum(own)
    shared = branch_metrics(groups)["turns_shared"]
    assert shared == pytest.approx(1 - summary.env_turns / sum(len(each.turns) for each in trajectories))


# -- failures ----------------------------------------------------------------------------------------------------------


class Dying(Opened):
    """Loses its worker once, at a turn and in an instance that the test names."""

    due: Callable[["Dying"], bool] | None = None
    fork_due: Callable[["Dying"], bool] | None = None

    def _act(self, action: str) -> tuple[str, State]:
        if Dying.due is not None and Dying.due(self):
            raise WorkerError("it has died")
        return super()._act(action)

    def _copy(self) -> Any:
        if Dying.fork_due is not None and Dying.fork_due(self):
            raise WorkerError("it cannot be forked now")
        return super()._copy()


def once(condition: Callable[[Dying], bool]) -> Callable[[Dying], bool]:
    left = [True]

    def due(env: Dying) -> bool:
        hit = left[0] and condition(env)
        left[0] = left[0] and not hit
        return hit

    return due


def test_a_root_that_loses_its_worker_is_played_again_and_its_branches_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = grown(plan(group_size=6, initial=1, probability=always), make=Dying)
    monkeypatch.setattr(Dying, "due", once(lambda env: env.turn == 3))
    [group] = grown(plan(group_size=6, initial=1, probability=always), make=Dying)
    assert len(group.trajectories) == len(group.valid) == 6
    again = group.trajectories[0]
    assert again.token_ids[: again.turns[1].end] == calm[0].trajectories[0].token_ids[: again.turns[1].end]
    assert "died" in again.metadata["retried"] and again.parent_id is None
    assert score(group.trajectories).retried == 1
    # The branch that shared most stands in for the episode that is gone, as the parent of the others.
    heirs = [each for each in group.trajectories[1:] if each.parent_id is None]
    assert len(heirs) == 1 and heirs[0].own_turns == heirs[0].turns
    assert check_family(group) > 0


def test_a_branch_that_loses_its_worker_makes_room_for_a_fresh_root(monkeypatch: pytest.MonkeyPatch) -> None:
    forked: list[int] = []
    original = Dying._copy

    def copy(self: Dying) -> Any:
        twin = original(self)
        forked.append(id(twin))
        return twin

    monkeypatch.setattr(Dying, "_copy", copy)
    monkeypatch.setattr(Dying, "due", once(lambda env: id(env) in forked))
    [group] = grown(plan(group_size=4, initial=2, probability=always), make=Dying)
    assert len(group.valid) == 4
    [again] = [each for each in group.trajectories if "retried" in each.metadata]
    assert again.parent_id is None and "branch_probability" not in again.metadata
    assert again.id in (f"{group.id}e2", f"{group.id}e3")


def test_what_always_dies_costs_one_episode_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dying, "due", lambda env: True)
    [group] = grown(plan(group_size=3, initial=2), make=Dying)
    assert len(group.trajectories) == 3 and not group.valid
    assert score(group.trajectories).retried == score(group.trajectories).failed == 3


def test_workers_that_never_come_are_failed_episodes() -> None:
    def never() -> Any:
        raise WorkerError("no worker starts")

    [group] = grown(plan(group_size=3), make=never)
    assert len(group.trajectories) == 3
    assert all("no worker starts" in str(each.error) for each in group.trajectories)


def test_a_fork_that_fails_costs_the_branch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dying, "fork_due", once(lambda env: True))
    [group] = grown(plan(group_size=5, initial=2, probability=always), make=Dying)
    assert len(group.valid) == 5 and not any("retried" in each.metadata for each in group.trajectories)
    assert sum(int(each.metadata.get("failed_forks", 0)) for each in group.trajectories) == 1
    check_family(group)


def test_an_episode_that_fails_for_its_own_reasons_is_kept_as_failed() -> None:
    [group] = grown(plan(group_size=6, initial=2, probability=always), engine=Wavering(["up", "crash"]))
    failed = [each for each in group.trajectories if each.error]
    assert failed and len(group.trajectories) == 6 and all("broke" in str(each.error) for each in failed)
    check_family(group)


def test_what_the_rule_raises_is_one_error() -> None:
    def measure(entropies: Sequence[float]) -> float:
        raise TrainingError("not finite")

    with pytest.raises(TrainingError, match="not finite"):
        grown(plan(measure=measure), tasks=["count 1", "count 2"])


def test_what_breaks_off_leaves_nothing_with_the_engine(tokenizer: Any, model: Any) -> None:
    def measure(entropies: Sequence[float]) -> float:
        raise TrainingError("not finite")

    engine = TransformersEngine(model.eval(), tokenizer)
    for budget in (None, len):
        collector = Collector(Opened, engine, TemplateChat(tokenizer), SETTINGS)
        with pytest.raises(TrainingError):
            run(grow_groups(collector, ["count 1"], plan(measure=measure, budget=budget), seed=0))
        collector.close()
        assert not engine._sessions and not Opened.alive


# -- environments ------------------------------------------------------------------------------------------------------


def test_no_more_environments_are_open_than_may_play_at_once() -> None:
    grown(plan(group_size=4, probability=always), tasks=["count 1"] * 6, concurrency=8)
    assert Opened.most <= 2 * 8
    Opened.most = 0
    collector = Collector(Opened, Wavering(), ByteChat(), SETTINGS, concurrency=4)
    for seed in range(4):
        run(grow_groups(collector, ["count 1"] * 3, plan(group_size=8, probability=always), seed=seed))
        assert len(Opened.alive) <= 4
    collector.close()
    assert not Opened.alive


class Slow(Opened):
    """Is called, and forked, in threads."""

    blocking = True


def test_environments_that_wait_are_forked_in_their_threads() -> None:
    import threading

    where: list[str] = []

    class Watched(Slow):
        def _copy(self) -> Any:
            where.append(threading.current_thread().name)
            return super()._copy()

    [group] = grown(plan(group_size=6, probability=always), make=Watched)
    assert len(where) == check_family(group) > 0 and all(name.startswith("environment") for name in where)


def test_an_environment_that_cannot_fork_is_found_out_beforehand() -> None:
    class Rigid(Opened):
        def _copy(self) -> Any:
            raise NotImplementedError("its state is elsewhere")

    env = Rigid()
    with pytest.raises(ConfigError, match=r"Rigid cannot be forked .*its state is elsewhere.*branches"):
        check_forks(env)
    env.close()
    env = Opened()
    check_forks(env)
    env.close()
    assert not Opened.alive


def test_tasks_of_the_environment_are_those_asked_for() -> None:
    assert Task("count 1", "train") in CountEnv().tasks("train")
    groups = grown(plan(), tasks=["count 3", "count 0"])
    assert [group.task_id for group in groups] == ["count 3", "count 0"]
