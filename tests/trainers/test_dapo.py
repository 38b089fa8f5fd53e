"""DAPO: which groups are trained on, which tasks are played instead, and what length costs."""

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from base_rows import episode, groups, same, trained
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.env import Task
from agent_gym.errors import ConfigError
from agent_gym.trainers.algorithm import IndependentRollouts
from agent_gym.trainers.dapo import DynamicSampling, OverlongPenalty, dapo, soft_overlong_penalty
from agent_gym.trainers.grpo import grpo
from agent_gym.trajectory import Group


class Played:
    """A strategy whose groups of the tasks named "even..." have equal rewards; writes down what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int, str]] = []
        self.checked: list[Any] = []

    async def collect(
        self, collector: Any, task_ids: Sequence[str], *, seed: int, prefix: str, on_episode: Any
    ) -> list[Group]:
        self.calls.append((list(task_ids), seed, prefix))
        made = []
        for number, task in enumerate(task_ids):
            members = [episode(["o"], [float(not task.startswith("even")) * place], seed=place) for place in range(2)]
            made.append(Group(f"{prefix}g{number}", task, members))
        return made

    def check(self, env: Any) -> None:
        self.checked.append(env)

    def metrics(self) -> dict[str, float]:
        return {"inner": 1.0}


def collector(*names: str) -> Any:
    tasks = [Task(name, "train") for name in names]
    return SimpleNamespace(probe=SimpleNamespace(split="train", tasks=lambda split: tasks))


def collect(strategy: DynamicSampling, asked: list[str], available: Any, seed: int = 7) -> list[str]:
    """Return the tasks of the groups that come back."""
    made = run(strategy.collect(available, asked, seed=seed, prefix="p/", on_episode=None))
    return [group.task_id for group in made]


def test_groups_of_equal_rewards_are_replaced_by_tasks_that_were_not_played_yet() -> None:
    inner = Played()
    strategy = DynamicSampling(inner, max_rounds=10)
    found = collect(strategy, ["even1", "odd1", "even2"], collector("odd1", "odd2", "odd3", "even1", "even2"))
    assert found[0] == "odd1" and sorted(found) == ["odd1", "odd2", "odd3"]
    assert strategy.metrics() == {
        "inner": 1.0,
        "sampling_rounds": 2.0,
        "dropped_groups": 2.0,
        "dropped_episodes": 4.0,
    }
    # The first round is that of the plain strategy; the second one has a seed and names of its own.
    assert inner.calls[0] == (["even1", "odd1", "even2"], 7, "p/")
    assert inner.calls[1][1] != 7 and inner.calls[1][2] == "p/r1/"


def test_the_same_seed_draws_the_same_tasks() -> None:
    available = collector(*(f"odd{number}" for number in range(50)))
    first, again = (collect(DynamicSampling(Played()), ["even1"] * 4, available) for _ in range(2))
    assert first == again and len(set(first)) == 4
    assert collect(DynamicSampling(Played()), ["even1"] * 4, available, seed=8) != first


def test_rounds_are_limited_and_what_is_there_is_returned() -> None:
    for rounds in (1, 3):
        inner = Played()
        strategy = DynamicSampling(inner, max_rounds=rounds)
        assert collect(strategy, ["odd1", "even1"], collector("even2")) == ["odd1"]
        assert len(inner.calls) == rounds and strategy.metrics()["dropped_groups"] == float(rounds)


def test_a_task_is_not_played_again_while_there_are_others() -> None:
    inner = Played()
    names = [f"even{number}" for number in range(60)]
    collect(DynamicSampling(inner, max_rounds=6), names[:4], collector(*names))
    played = [task for tasks, _, _ in inner.calls for task in tasks]
    assert len(played) == len(set(played)) == 24


def test_where_nothing_differs_the_first_groups_come_back() -> None:
    strategy = DynamicSampling(Played(), max_rounds=2)
    assert collect(strategy, ["even1", "even2"], collector("even3")) == ["even1", "even2"]
    assert strategy.metrics()["dropped_groups"] == 4.0


def test_no_round_more_is_played_than_needed() -> None:
    inner = Played()
    assert collect(DynamicSampling(inner), ["odd1", "odd2"], collector("odd1")) == ["odd1", "odd2"]
    assert len(inner.calls) == 1


def test_failed_members_do_not_make_a_difference() -> None:
    class Failing(Played):
        async def collect(self, *arguments: Any, **named: Any) -> list[Group]:
            made = await super().collect(*arguments, **named)
            made[0].trajectories[1].error = "broken"
            return made

    strategy = DynamicSampling(Failing(), max_rounds=1)
    assert collect(strategy, ["odd1", "odd2"], collector("odd3")) == ["odd2"]


def test_the_inner_strategy_is_asked_whether_it_can_work() -> None:
    inner = Played()
    DynamicSampling(inner).check("env")  # type: ignore[arg-type]
    assert inner.checked == ["env"]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 60), limit=st.integers(1, 40), data=st.data())
def test_length_costs_nothing_then_more_and_more_then_all(length: int, limit: int, data: st.DataObject) -> None:
    margin = data.draw(st.integers(1, limit))
    penalty = soft_overlong_penalty(length, limit=limit, margin=margin)
    assert -1 <= penalty <= 0 and (penalty == 0) == (length <= limit - margin) and (penalty == -1) == (length >= limit)
    assert soft_overlong_penalty(length + 1, limit=limit, margin=margin) <= penalty


def test_the_penalty_counts_what_was_generated_and_falls_on_the_last_turn() -> None:
    member = episode(["a", "b", "c"], [0, 0, 1], seed=0)
    said = sum(member.action_mask)
    group = Group("g", "t", [member])
    penalty = OverlongPenalty(limit=said + 1, margin=2, factor=0.5)
    assert penalty(group, [[0.0, 0.25, 1.0]]) == [[0.0, 0.25, 0.75]]
    assert OverlongPenalty(limit=said + 5, margin=2)(group, [[0.0, 0.25, 1.0]]) == [[0.0, 0.25, 1.0]]
    member.turns.clear()
    assert penalty(group, [[]]) == [[]]


def test_with_everything_neutral_it_trains_like_grpo_bit_for_bit() -> None:
    neutral = dapo(clip_high=0.2, dual_clip=3.0, max_rounds=0)
    assert neutral.rollout == IndependentRollouts(8) == grpo().rollout
    assert same(trained(neutral, groups()), trained(grpo(), groups()))
    assert not same(trained(dapo(overlong_limit=6, overlong_margin=6), groups()), trained(grpo(), groups()))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 0 rounds: max_rounds cannot be -1"):
        dapo(max_rounds=-1)
    for margin in (0, 11):
        with pytest.raises(ConfigError, match=f"choose overlong_margin from 1 to 10, not {margin}"):
            dapo(overlong_limit=10, overlong_margin=margin)


def test_drawing_does_not_touch_the_global_generator() -> None:
    state = random.getstate()
    collect(DynamicSampling(Played()), ["even1"], collector("odd1", "odd2"))
    assert random.getstate() == state
