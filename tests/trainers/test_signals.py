"""What a step made of each token: on the right tokens, the numbers that were trained with, and without changing any."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from base_rows import START, groups
from helpers import small_llama
from torch import Tensor

from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.reference import frozen_copy
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trajectory import Group, Trajectory


def learner(algorithm: Algorithm, *, record: bool = True, **settings: Any) -> Learner:
    model = small_llama()
    reference = frozen_copy(small_llama()) if algorithm.needs_reference else None
    made = UpdateSettings(**{"learning_rate": 1e-3, "micro_batch_tokens": 40, **settings})
    return Learner(model, algorithm, made, reference=reference, record_signals=record)


def members(made: list[Group]) -> list[Trajectory]:
    return [trajectory for group in made for trajectory in group.valid]


def spelled_out(trajectory: Trajectory) -> list[float]:
    """A number for each generated token that says where it stands: the turn, and the place in it."""
    values = [0.0] * len(trajectory.token_ids)
    for number, turn in enumerate(trajectory.turns):
        for place in range(turn.start, turn.end):
            values[place] = 100 * number + place - turn.start + 1
    return values


def by_place(batch: Batch, _: Tensor) -> Tensor:
    """The same, said of a batch: an advantage that shows whether it was brought back to its own token."""
    values = torch.zeros_like(batch.mask)
    for row, turns in enumerate(batch.turns.tolist()):
        for column, turn in enumerate(turns):
            if turn >= 0:
                values[row, column] = 100 * turn + column - turns.index(turn) + 1
    return values


@pytest.mark.parametrize("window", [False, True])
def test_each_token_gets_its_own_number_in_both_layouts(window: bool) -> None:
    made = groups(window=window)
    own = learner(replace(make_algorithm("grpo", {}), advantages=(by_place,)))
    own.learn(made, START)
    assert list(own.signals) == [trajectory.id for trajectory in members(made)]
    for trajectory in members(made):
        signals = own.signals[trajectory.id]
        assert signals["advantage"] == spelled_out(trajectory)
        assert set(signals) == {"advantage", "log_ratio", "reward"}
        last = {turn.end - 1: turn.reward for turn in trajectory.turns}
        assert signals["reward"] == [last.get(place, 0.0) for place in range(len(trajectory.token_ids))]


@pytest.mark.parametrize("window", [False, True])
def test_the_ratio_is_that_of_the_weights_that_the_loss_saw(window: bool) -> None:
    made = groups(window=window)
    own = learner(replace(make_algorithm("grpo", {}), advantages=(by_place,)))
    batch, _ = own.batch(made, START)
    with torch.no_grad():
        logprobs, _ = TokenScorer(small_llama())(batch.input_ids, batch.mask)
    expected = ((logprobs - batch.old_logprobs) * batch.mask).sum()
    own.learn(made, START)
    found = sum(sum(signals["log_ratio"]) for signals in own.signals.values())
    assert abs(found) > 1 and found == pytest.approx(float(expected), rel=1e-4)
    for trajectory in members(made):
        ratios = own.signals[trajectory.id]["log_ratio"]
        assert all((value != 0) == bool(marked) for value, marked in zip(ratios, trajectory.action_mask, strict=True))


def test_later_mini_batches_show_how_far_the_policy_has_moved() -> None:
    ratios = []
    for rate in (1e-9, 1e-1):
        own = learner(make_algorithm("grpo", {}), learning_rate=rate, updates_per_step=2)
        own.learn(groups(), START)
        ratios.append({id: signals["log_ratio"] for id, signals in own.signals.items()})
    still, moved = ratios
    same = [all(abs(a - b) < 1e-4 for a, b in zip(still[id], moved[id], strict=True)) for id in still]
    assert any(same) and not all(same)


@pytest.mark.parametrize(
    ("name", "signals"),
    [
        ("grpo", {"advantage", "log_ratio", "reward"}),
        ("grpo+empg", {"advantage", "base_advantage", "log_ratio", "reward"}),
        ("ppo", {"advantage", "log_ratio", "reward", "value"}),
    ],
)
def test_an_algorithm_leaves_the_signals_that_it_has(name: str, signals: set[str]) -> None:
    own = learner(make_algorithm(name, {}))
    own.learn(groups(), START)
    assert {frozenset(named) for named in own.signals.values()} == {frozenset(signals)}


def test_what_empg_changed_stands_beside_what_grpo_had_estimated() -> None:
    made = groups()
    plain, changed = learner(make_algorithm("grpo", {})), learner(make_algorithm("grpo+empg", {}))
    plain.learn(made, START)
    changed.learn(made, START)
    for id, signals in plain.signals.items():
        assert changed.signals[id]["base_advantage"] == signals["advantage"]
    assert any(changed.signals[id]["advantage"] != signals["advantage"] for id, signals in plain.signals.items())


def test_a_reference_and_weights_are_recorded_where_there_are_some() -> None:
    def halves(batch: Batch) -> Tensor:
        return torch.full_like(batch.mask, 0.5)

    algorithm = replace(make_algorithm("grpo", {}), needs_reference=True, weights=(halves,))
    own, made = learner(algorithm), groups()
    batch, _ = own.batch(made, START)
    own.learn(made, START)
    kl = sum(sum(signals["kl"]) for signals in own.signals.values())
    assert kl == pytest.approx(float(((batch.old_logprobs - batch.ref_logprobs) * batch.mask).sum()), rel=1e-4)
    for trajectory in members(made):
        assert own.signals[trajectory.id]["weight"] == [0.5 * marked for marked in trajectory.action_mask]


def test_what_a_filter_leaves_out_and_what_failed_carries_nothing() -> None:
    made = groups()
    made[1].trajectories[0].error = "broken"

    def first_group(step: Any, rewards: list[list[float]]) -> list[list[bool]]:
        return [[number == 0] * len(own) for number, own in enumerate(rewards)]

    own = learner(replace(make_algorithm("grpo", {}), filters=(first_group,)))
    own.learn(made, START)
    assert list(own.signals) == [trajectory.id for trajectory in made[0].trajectories]


@pytest.mark.parametrize("name", ["grpo", "epo+arpo+empg+spear", "ppo"])
def test_recording_changes_no_weight_and_no_metric(name: str) -> None:
    made, results = groups(), []
    for record in (False, True):
        own = learner(make_algorithm(name, {}), record=record, updates_per_step=2)
        metrics = [own.learn(made, START) for _ in range(2)]
        results.append((metrics, [weights.clone() for weights in own.updater.scorer.parameters()]))
        assert bool(own.signals) == record
    (metrics, weights), (again, others) = results
    assert metrics == again
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))


@pytest.mark.parametrize("window", [False, True])
def test_signals_come_back_from_the_database_as_they_were(tmp_path: Path, window: bool) -> None:
    made = groups(window=window)
    own = learner(make_algorithm("grpo+empg", {}))
    own.learn(made, START)
    with TrajectoryStore(tmp_path / "t.sqlite") as store:
        store.add(members(made), step=1, phase="train")
        store.add_signals(1, own.signals)
        assert {trajectory.id: store.signals(trajectory.id) for trajectory in members(made)} == own.signals
