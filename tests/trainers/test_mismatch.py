"""How far sampling is from training, measured: against plain loops."""

import math
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from base_rows import groups
from torch import Tensor

from agent_gym.errors import TrainingError
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.mismatch import (
    Level,
    importance_ratios,
    lag_metrics,
    mismatch_metrics,
    weight_metrics,
)
from agent_gym.trajectory import Trajectory


def rows(*, window: bool = False) -> tuple[Batch, list[Trajectory]]:
    """Return the rows of trajectories with turns of several tokens, one of which branched from another."""
    members = [trajectory for group in groups(window=window) for trajectory in group.trajectories]
    parent = members[2]
    child = replace(parent, id="child", parent_id=parent.id, turns=[replace(turn) for turn in parent.turns])
    child.branch_turn, child.branch_offset = 2, parent.turns[2].start
    child.logprobs = [*parent.logprobs[: child.branch_offset], *(p / 2 for p in parent.logprobs[child.branch_offset :])]
    made = [*members, child]
    return make_batch(made, [0.0] * len(made), [0] * len(made)), made


def noisy(batch: Batch, scale: float = 0.7) -> Tensor:
    noise = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(3))
    return (batch.sampled_logprobs + scale * noise) * batch.mask


def by_hand(batch: Batch, proximal: Tensor, level: Level) -> list[list[float]]:
    """Return the ratios, token by token."""
    sums: dict[tuple[int, int], float] = defaultdict(float)
    places = [(row, column) for row, column in batch.mask.nonzero().tolist()]
    differences = {place: float(proximal[place]) - float(batch.sampled_logprobs[place]) for place in places}
    for row, column in places:
        sums[int(batch.trajectories[row]), int(batch.turns[row, column])] += differences[row, column]
    ratios = [[1.0] * batch.mask.shape[1] for _ in range(len(batch))]
    for row, column in places:
        turn = sums[int(batch.trajectories[row]), int(batch.turns[row, column])]
        ratios[row][column] = math.exp(turn if level == "turn" else differences[row, column])
    return ratios


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("level", ["token", "turn"])
def test_ratios_are_those_of_plain_loops_in_both_layouts_and_with_branches(level: Level, window: bool) -> None:
    batch, _ = rows(window=window)
    proximal = noisy(batch)
    found = importance_ratios(
        proximal, batch.sampled_logprobs, batch.mask, level, turns=batch.turns, trajectories=batch.trajectories
    )
    torch.testing.assert_close(found, torch.tensor(by_hand(batch, proximal, level)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, importance_ratios(proximal, batch.sampled_logprobs, batch.mask, "token")) or (
        level == "token"
    )


def test_without_turns_a_row_is_one_turn() -> None:
    batch, _ = rows(window=True)
    proximal = noisy(batch)
    alone = importance_ratios(proximal, batch.sampled_logprobs, batch.mask, "turn")
    told = importance_ratios(
        proximal, batch.sampled_logprobs, batch.mask, "turn", turns=batch.turns, trajectories=batch.trajectories
    )
    torch.testing.assert_close(alone, told)


def test_the_measures_are_those_of_plain_loops() -> None:
    batch, _ = rows()
    proximal = noisy(batch)
    differences = [float(proximal[r, c] - batch.sampled_logprobs[r, c]) for r, c in batch.mask.nonzero().tolist()]
    ratios, count = [math.exp(value) for value in differences], len(differences)
    assert mismatch_metrics(proximal, batch.sampled_logprobs, batch.mask) == pytest.approx(
        {
            "mismatch_mean": math.fsum(map(abs, differences)) / count,
            "mismatch_max": max(map(abs, differences)),
            "mismatch_kl": math.fsum(r - 1 - d for r, d in zip(ratios, differences, strict=True)) / count,
            "effective_sample_size": math.fsum(ratios) ** 2 / math.fsum(r * r for r in ratios) / count,
        },
        rel=1e-5,
    )
    found = importance_ratios(proximal, batch.sampled_logprobs, batch.mask, "token")
    assert weight_metrics(found, batch.mask, 1.5) == pytest.approx(
        {
            "importance_truncated": sum(ratio > 1.5 for ratio in ratios) / count,
            "importance_mean": math.fsum(min(ratio, 1.5) for ratio in ratios) / count,
            "effective_sample_size": math.fsum(ratios) ** 2 / math.fsum(r * r for r in ratios) / count,
        },
        rel=1e-5,
    )


def test_the_divergence_is_estimated_without_bias() -> None:
    sampling, proximal = (torch.rand(6, generator=torch.Generator().manual_seed(n)).softmax(0) for n in (1, 2))
    found = sum(
        float(sampling[token])
        * mismatch_metrics(proximal[token].log().view(1, 1), sampling[token].log().view(1, 1), torch.ones(1, 1))[
            "mismatch_kl"
        ]
        for token in range(6)
    )
    exact = float((sampling * (sampling / proximal).log()).sum())
    assert exact > 0.01 and found == pytest.approx(exact, rel=1e-4)


def test_equal_policies_differ_by_nothing_and_nothing_generated_has_no_measures() -> None:
    batch, _ = rows()
    assert mismatch_metrics(batch.sampled_logprobs, batch.sampled_logprobs, batch.mask) == {
        "mismatch_mean": 0.0,
        "mismatch_max": 0.0,
        "mismatch_kl": 0.0,
        "effective_sample_size": 1.0,
    }
    empty = torch.zeros_like(batch.mask)
    assert mismatch_metrics(batch.sampled_logprobs, batch.sampled_logprobs, empty) == {}
    assert weight_metrics(empty + 1, empty, 2.0) == {}


def test_one_broken_token_makes_no_weight_infinite_and_one_that_is_not_finite_is_named() -> None:
    mask = torch.ones(1, 2)
    far = importance_ratios(torch.tensor([[0.0, -1.0]]), torch.tensor([[-1e4, -1.0]]), mask, "turn")
    assert torch.isfinite(far).all() and (far == far[0, 0]).all()
    with pytest.raises(TrainingError, match="log-probability is not finite"):
        importance_ratios(torch.tensor([[float("nan"), 0.0]]), torch.zeros(1, 2), mask, "token")


def test_padding_that_is_not_finite_does_not_matter() -> None:
    mask = torch.tensor([[1.0, 0.0]])
    found = importance_ratios(torch.tensor([[-1.0, float("nan")]]), torch.tensor([[-2.0, 0.0]]), mask, "turn")
    torch.testing.assert_close(found, torch.tensor([[math.e, 1.0]]))


def test_the_lag_counts_every_generated_token() -> None:
    made = groups()
    made[0].trajectories[0].turns[1].engine_version = 3
    made[1].trajectories[0].error = "broken"
    ages = [
        5 - turn.engine_version
        for group in made
        for trajectory in group.valid
        for turn in trajectory.turns
        for _ in range(turn.start, turn.end)
    ]
    assert lag_metrics(made, 5) == pytest.approx({"lag_mean": sum(ages) / len(ages), "lag_max": 5.0})
    assert lag_metrics([], 5) == {"lag_mean": 0.0, "lag_max": 0.0}


def test_each_token_knows_the_version_that_sampled_it() -> None:
    for window in (False, True):
        made = [trajectory for group in groups(window=window) for trajectory in group.trajectories]
        for number, trajectory in enumerate(made):
            for place, turn in enumerate(trajectory.turns):
                turn.engine_version = 10 * number + place
        batch = make_batch(made, [0.0] * len(made), [0] * len(made))
        expected = torch.where(batch.mask.bool(), 10 * batch.trajectories.unsqueeze(1) + batch.turns, -1)
        assert torch.equal(batch.versions, expected)
