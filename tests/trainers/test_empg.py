"""EMPG: the numbers of the project page, and what must hold for any entropies."""

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import golden, small_llama, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agent_gym.errors import ConfigError, TrainingError
from agent_gym.trainers.algorithm import Algorithm, Progress
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.empg import EntropyModulation, empg, modulate, modulation
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.update import Updater, UpdateSettings

PAGE = golden("empg")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FEW = settings(max_examples=50, deadline=None)


def page_batch(entropy: Tensor | None = None, segments: list[list[int]] | None = None) -> Batch:
    """Return the page's rows as a batch: one trajectory a row."""
    mask, advantages = torch.tensor(PAGE["response_mask"]), torch.tensor(PAGE["advantages"])
    turns = torch.full_like(mask, -1, dtype=torch.long)
    for number, (row, start, end) in enumerate(PAGE["segments"] if segments is None else segments):
        turns[row, start:end] = number
    mask = mask * (turns >= 0)
    rows = make_batch([trajectory(1, 1, seed=n) for n in range(len(mask))], [0.0] * len(mask), [0] * len(mask))
    rows.mask, rows.turns, rows.advantages = mask, turns, advantages
    rows.lengths = torch.full((len(mask),), mask.shape[1])
    rows.entropies = torch.tensor(PAGE["entropy"]) if entropy is None else entropy
    return rows


def page_turns(case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return advantages, entropies and trajectories of the page's turns, (N,) each."""
    advantages = [PAGE["advantages"][row][start] for row, start, _ in PAGE["segments"]]
    return (
        torch.tensor(advantages),
        torch.tensor(case["step_entropy"]),
        torch.tensor([row for row, _, _ in PAGE["segments"]]),
    )


@pytest.mark.parametrize("case", PAGE["cases"], ids=lambda case: f"{case['k']}-{case['k_f']}-{case['zeta']}")
def test_the_pages_numbers(case: dict[str, Any]) -> None:
    values = {"k": case["k"], "k_bonus": case["k_f"], "zeta": case["zeta"]}
    advantages, entropies, trajectories = page_turns(case)
    gains, bonuses = modulation(entropies, trajectories, **values)
    torch.testing.assert_close(gains, torch.tensor(case["g"]), **CLOSE)
    before = torch.tensor(case["step_values_before_centering"])
    torch.testing.assert_close(advantages * gains + bonuses, before, **CLOSE)
    uncentred = modulate(advantages, entropies, trajectories, **values, center=False)
    torch.testing.assert_close(uncentred, before, **CLOSE)
    centred = modulate(advantages, entropies, trajectories, **values)
    torch.testing.assert_close(centred, before - case["mean"], **CLOSE)

    rows = page_batch()
    filled = EntropyModulation(**values)(rows, rows.advantages) * rows.mask
    torch.testing.assert_close(filled, torch.tensor(case["final_segments_only"]) * rows.mask, **CLOSE)


def test_the_page_with_a_single_step() -> None:
    # The page's only step is the row without tool results; the other rows have no step and stay as they are.
    case = PAGE["single_step_only"]
    [segment] = [segment for segment in PAGE["segments"] if segment[0] == 2]
    rows = page_batch(segments=[segment])
    filled = EntropyModulation()(rows, rows.advantages)
    torch.testing.assert_close(filled, torch.tensor(case["final_segments_only"]), **CLOSE)
    alone = modulate(torch.tensor([0.4]), torch.tensor(case["step_entropy"]), torch.tensor([0]), center=False)
    torch.testing.assert_close(alone, torch.tensor(case["step_values_before_centering"]), **CLOSE)


def test_equal_entropies_are_equal_where_the_page_makes_rounding_the_whole_range() -> None:
    """The page's min-max turns means that differ by 3e-8 into 0 and 0.75, and so gains of 0.8 and 1.7."""
    case = PAGE["constant_entropy"]
    assert max(case["g"]) > 1.7
    advantages, entropies, trajectories = page_turns(case)
    assert len(entropies.unique()) == 2
    gains, bonuses = modulation(entropies, trajectories, k=1.0, k_bonus=1.0, zeta=0.1)
    last = torch.tensor([*(trajectories[1:] != trajectories[:-1]).tolist(), True])
    assert torch.equal(gains, torch.ones(10))
    torch.testing.assert_close(bonuses, torch.where(last, 0.0, 0.1))
    rows = page_batch(torch.full_like(torch.tensor(PAGE["entropy"]), 0.3))
    filled = EntropyModulation()(rows, rows.advantages)
    expected = advantages + bonuses - (advantages + bonuses).mean()
    found = torch.stack([filled[row, start] for row, start, _ in PAGE["segments"]])
    torch.testing.assert_close(found, expected, **CLOSE)


@st.composite
def turns(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Return advantages, entropies and trajectories (N,), in turn order within each trajectory, mixed."""
    count = draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    entropies = 3 * torch.rand(count, generator=generator)
    if draw(st.booleans()):
        entropies = entropies.round()
    return torch.randn(count, generator=generator), entropies, torch.randint(0, 4, (count,), generator=generator)


STRENGTHS = st.sampled_from([0.0, 0.3, 1.0, 4.0])


@FEW
@given(made=turns(), k=STRENGTHS, zeta=STRENGTHS)
def test_gains_have_mean_1_fall_with_entropy_and_are_bounded(
    made: tuple[Tensor, Tensor, Tensor], k: float, zeta: float
) -> None:
    advantages, entropies, trajectories = made
    gains, bonuses = modulation(entropies, trajectories, k=k, k_bonus=1.0, zeta=zeta)
    assert float(gains.mean()) == pytest.approx(1.0, abs=1e-6)
    assert float(gains.max() / gains.min()) <= math.exp(k) * (1 + 1e-5)
    assert (gains[entropies.argsort()].diff() <= 1e-6).all()
    assert torch.equal((advantages * gains).sign(), advantages.sign())
    assert ((bonuses >= 0) & (bonuses <= zeta)).all()


@FEW
@given(made=turns(), k=STRENGTHS, zeta=STRENGTHS)
def test_the_mean_is_0_and_the_identity_is_the_base(made: tuple[Tensor, Tensor, Tensor], k: float, zeta: float) -> None:
    assert float(modulate(*made, k=k, zeta=zeta).mean()) == pytest.approx(0.0, abs=1e-6)
    advantages = made[0]
    assert torch.equal(modulate(*made, k=0, zeta=0, center=False), advantages)
    assert torch.equal(modulate(*made, k=0, zeta=0), advantages - advantages.mean())


@FEW
@given(made=turns(), slope=st.sampled_from([0.5, 2.0, 10.0]), shift=st.sampled_from([0.0, 1.0, 5.0]))
def test_stretching_and_shifting_the_entropies_changes_nothing(
    made: tuple[Tensor, Tensor, Tensor], slope: float, shift: float
) -> None:
    advantages, entropies, trajectories = made
    torch.testing.assert_close(
        modulate(advantages, entropies * slope + shift, trajectories),
        modulate(*made),
        atol=1e-4,
        rtol=1e-4,
    )


@FEW
@given(made=turns(), seed=st.integers(0, 1000))
def test_the_order_of_trajectories_does_not_matter(made: tuple[Tensor, Tensor, Tensor], seed: int) -> None:
    keys = torch.rand(4, generator=torch.Generator().manual_seed(seed))[made[2]]
    order = keys.argsort(stable=True)
    shuffled = modulate(*(part[order] for part in made))
    torch.testing.assert_close(shuffled, modulate(*made)[order], atol=1e-6, rtol=1e-6)


def test_the_bonus_looks_at_the_next_turn_of_the_same_trajectory_and_never_beyond_the_last() -> None:
    entropies = torch.tensor([0.0, 1.0, 0.5, 0.0])
    _, bonuses = modulation(entropies, torch.tensor([7, 7, 3, 7]), k=1.0, k_bonus=1.0, zeta=0.1)
    torch.testing.assert_close(bonuses, torch.tensor([0.1 * math.exp(-1), 0.1, 0.0, 0.0]))


def test_nothing_to_modulate_is_returned_as_it_is() -> None:
    empty = torch.zeros(0)
    assert len(modulate(empty, empty, empty.long())) == 0
    rows = page_batch(segments=[])
    assert torch.equal(EntropyModulation()(rows, rows.advantages), rows.advantages)


@pytest.mark.parametrize("spoilt", [0, 1])
def test_what_is_not_finite_is_an_error(spoilt: int) -> None:
    parts = [torch.ones(3), torch.ones(3)]
    parts[spoilt][1] = float("nan")
    with pytest.raises(TrainingError, match=("advantage", "entropy")[spoilt]):
        modulate(*parts, torch.zeros(3, dtype=torch.long))
    rows = page_batch()
    rows.entropies[0, 0] = float("inf")
    with pytest.raises(TrainingError, match="entropy"):
        EntropyModulation()(rows, rows.advantages)


def test_what_stands_where_nothing_was_generated_never_matters() -> None:
    rows = page_batch()
    clean = EntropyModulation()(rows, rows.advantages)
    kept = rows.mask.bool()
    rows.entropies = torch.where(kept, rows.entropies, float("nan"))
    assert torch.equal(EntropyModulation()(rows, rows.advantages)[kept], clean[kept])


def by_turn(rows: Batch) -> Batch:
    """Return the same turns with one row each, in another order."""
    pairs = sorted(
        {(row, int(turn)) for row in range(len(rows)) for turn in rows.turns[row][rows.mask[row].bool()]},
        key=lambda pair: (pair[1] % 3, pair),
    )
    split = rows.select(torch.tensor([row for row, _ in pairs]))
    for index, (_, turn) in enumerate(pairs):
        split.mask[index] *= split.turns[index] == turn
    return split


def test_a_row_a_turn_and_a_row_a_trajectory_give_the_same() -> None:
    rows = page_batch()
    split = by_turn(rows)
    assert len(split) == len(PAGE["segments"])
    whole = EntropyModulation()(rows, rows.advantages)
    parts = EntropyModulation()(split, split.advantages)
    compared = 0
    for index, kept in enumerate(split.mask.bool()):
        torch.testing.assert_close(parts[index][kept], whole[split.trajectories[index]][kept])
        compared += int(kept.sum())
    assert compared == int(rows.mask.sum())


def test_groups_of_equal_rewards_get_a_bonus_unless_they_are_left_out() -> None:
    rewards, groups = [1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]
    made = make_batch([trajectory(2, 3, seed=number) for number in range(4)], rewards, groups)
    base = torch.tensor([1.0, -1.0, 0.0, 0.0]).unsqueeze(1) * made.mask
    everything = EntropyModulation()(made, base)
    assert (everything[2:][made.mask[2:].bool()] != 0).all()
    dropped = EntropyModulation(drop_equal_groups=True)(made, base)
    assert (dropped[2:] == 0).all()
    pair = made.select(torch.tensor([0, 1]))
    torch.testing.assert_close(dropped[:2], EntropyModulation()(pair, base[:2]))


def test_advantages_that_differ_within_a_turn_keep_their_differences_scaled() -> None:
    rows = page_batch()
    slope = torch.arange(rows.mask.shape[1]) * 0.01
    flat = EntropyModulation()(rows, rows.advantages)
    tilted = EntropyModulation(center=False)(rows, rows.advantages + slope)
    gain = EntropyModulation(zeta=0.0, center=False)(rows, torch.ones_like(rows.mask))
    kept = rows.mask.bool()
    uncentred = EntropyModulation(center=False)(rows, rows.advantages)
    torch.testing.assert_close(tilted[kept], (uncentred + slope * gain)[kept])
    shifts = (flat - uncentred)[kept]
    torch.testing.assert_close(shifts, shifts[:1].expand_as(shifts))


# -- the method --------------------------------------------------------------------------------------------------------

SETTINGS = UpdateSettings(learning_rate=1e-3, max_grad_norm=1e9)


def trained(algorithm: Algorithm, rewards: list[float]) -> tuple[dict[str, Tensor], dict[str, float], Batch]:
    """Return weights and metrics after one step from the same start, and the rows that it was made with."""
    model = small_llama()
    made = [trajectory(2 + number, 1 + number % 4, seed=number) for number in range(len(rewards))]
    rows = make_batch(made, rewards, [number // 4 for number in range(len(rewards))])
    with torch.no_grad():
        rows.old_logprobs, rows.entropies = TokenScorer(model)(rows.input_ids, rows.mask)
    algorithm.fill(rows)
    metrics = Updater(model, SETTINGS).step(rows, algorithm, Progress(0, 10), seed=0)
    return model.state_dict(), metrics, rows


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[key]) for key, value in one.items())


REWARDS = [1.0, 0, 0, 1, 1, 0, 0, 0]


def test_at_its_identity_it_trains_like_the_base_bit_for_bit() -> None:
    base = trained(grpo(), REWARDS)
    identity = trained(empg(grpo(), k=0, zeta=0, center=False), REWARDS)
    assert same(base[0], identity[0]) and base[1] == identity[1]
    centred = trained(empg(grpo(), k=0, zeta=0), REWARDS)[2]
    kept = centred.mask.bool()
    # A turn counts once, and two turns of each row have the row's advantage.
    mean = torch.stack([row[mask][0] for row, mask in zip(base[2].advantages, kept, strict=True)]).mean()
    torch.testing.assert_close(centred.advantages[kept], (base[2].advantages - mean)[kept])


def test_a_turn_moves_the_policy_by_as_much_as_its_gain_says() -> None:
    rows = trained(empg(grpo(), zeta=0, center=False), REWARDS)[2]
    base = trained(grpo(), REWARDS)[2]
    kept = rows.mask.bool()
    gains = (rows.advantages / base.advantages)[kept]
    entropies = torch.stack(
        [
            rows.entropies[row][rows.turns[row] == turn].mean()
            for row, column in kept.nonzero().tolist()
            for turn in [rows.turns[row, column]]
        ]
    )
    order = entropies.argsort()
    assert (gains[order].diff() <= 1e-5).all() and gains.max() > 1 > gains.min()
    # The loss of the first update, where the ratio is 1, is minus the mean of what was filled in.
    loss = trained(empg(grpo()), REWARDS)
    assert loss[1]["loss"] == pytest.approx(-float(loss[2].advantages.sum() / loss[2].mask.sum()), abs=1e-5)
    assert not same(loss[0], trained(grpo(), REWARDS)[0])


def test_a_batch_of_equal_rewards_trains_on_the_bonus_unless_such_groups_are_left_out() -> None:
    assert trained(grpo(), [1.0] * 4)[1]["updates"] == 0.0
    assert trained(empg(grpo()), [1.0] * 4)[1]["updates"] == 1.0
    assert trained(empg(grpo(), drop_equal_groups=True), [1.0] * 4)[1]["updates"] == 0.0


def test_it_comes_after_the_stages_of_the_base_and_says_so_in_the_name() -> None:
    algorithm = empg(grpo(), k=2.0, k_bonus=0.5, zeta=0.3, center=False, drop_equal_groups=True)
    assert algorithm.name == "grpo+empg"
    assert algorithm.advantages == (*grpo().advantages, EntropyModulation(2.0, 0.5, 0.3, False, True))
    assert algorithm.losses == grpo().losses


@pytest.mark.parametrize("name", ["k", "k_bonus", "zeta"])
def test_negative_numbers_are_named(name: str) -> None:
    for value in (-1.0, math.nan):
        with pytest.raises(ConfigError, match=f"EMPG's {name} is"):
            empg(grpo(), **{name: value})


PAGE_OF_THE_PAPER = (Path(__file__).parents[2] / "docs" / "methods" / "empg.md").read_text()


def test_the_table_of_options_in_the_document_is_that_of_the_code() -> None:
    table = PAGE_OF_THE_PAPER.partition("| option | default |")[2].partition("\n\n")[0].splitlines()[2:]
    told = {}
    for row in table:
        names, defaults, _ = (cell.strip().replace("`", "") for cell in row.strip("|").split("|", 2))
        told |= dict(zip(names.split(", "), defaults.split(", "), strict=True))
    parameters = inspect.signature(empg).parameters.values()
    real = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert told == {
        name: value if isinstance(value, str) else str(value).lower().removesuffix(".0") for name, value in real.items()
    }
