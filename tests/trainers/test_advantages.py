"""Group-relative advantages: the official numbers, and what must hold for any rewards."""

from typing import Any

import pytest
import torch
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import TrainingError
from agent_gym.trainers.advantages import grpo

CASES = golden("verl_grpo_outcome_advantage")["cases"]
REWARDS = st.lists(st.integers(-100, 100).map(lambda cents: cents / 10), min_size=2, max_size=12)
FEW = settings(max_examples=60, deadline=None)


def inputs(case: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rewards (N,), groups (N,) and the official advantages (N,), the same on all of a row's tokens."""
    names = sorted(set(case["index"]))
    mask = torch.tensor(case["response_mask"]).bool()
    official = torch.stack([row[kept][0] for row, kept in zip(torch.tensor(case["advantages"]), mask, strict=True)])
    rewards = torch.tensor(case["token_level_rewards"]).sum(1)
    return rewards, torch.tensor([names.index(name) for name in case["index"]]), official


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']}-{case['norm_adv_by_std_in_grpo']}")
def test_official_numbers_in_groups_of_two_and_more(case: dict[str, Any]) -> None:
    rewards, groups, official = inputs(case)
    ours = grpo(rewards, groups, normalize_std=case["norm_adv_by_std_in_grpo"], eps=case["epsilon"])
    several = groups.bincount()[groups] > 1
    assert several.any()
    torch.testing.assert_close(ours[several], official[several], atol=2e-5, rtol=1e-4)


def test_a_group_of_one_is_0_where_the_official_code_returns_its_reward() -> None:
    for case in CASES[:2]:
        rewards, groups, official = inputs(case)
        alone = groups.bincount()[groups] == 1
        torch.testing.assert_close(official[alone], rewards[alone], atol=1e-4, rtol=1e-4)
        ours = grpo(rewards, groups, normalize_std=case["norm_adv_by_std_in_grpo"])
        assert alone.sum() == 2 and (ours[alone] == 0).all()


@pytest.mark.parametrize(("reward", "count"), [(0.9, 3), (0.7, 8), (1.1, 12), (0.1, 1), (0.3, 1000)])
@pytest.mark.parametrize("normalize_std", [True, False])
def test_equal_rewards_give_exactly_0_and_not_the_dust_of_rounding(
    reward: float, count: int, normalize_std: bool
) -> None:
    rewards = torch.tensor([reward] * count + [0.0, 1.0])
    groups = torch.tensor([7] * count + [3, 3])
    advantages = grpo(rewards, groups, normalize_std=normalize_std)
    assert (advantages[:count] == 0).all() and (advantages[count:] != 0).all()


@FEW
@given(rewards=REWARDS, normalize_std=st.booleans())
def test_a_group_sums_to_0(rewards: list[float], normalize_std: bool) -> None:
    advantages = grpo(torch.tensor(rewards), torch.zeros(len(rewards), dtype=torch.long), normalize_std=normalize_std)
    assert abs(float(advantages.sum())) < 1e-4


@FEW
@given(rewards=REWARDS, shift=st.integers(-5, 5), factor=st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_shifts_change_nothing_and_neither_do_factors_when_normalised(
    rewards: list[float], shift: int, factor: float
) -> None:
    values, groups = torch.tensor(rewards), torch.zeros(len(rewards), dtype=torch.long)
    close = {"atol": 1e-3, "rtol": 1e-3}
    for normalize_std in (True, False):
        torch.testing.assert_close(
            grpo(values + shift, groups, normalize_std=normalize_std),
            grpo(values, groups, normalize_std=normalize_std),
            **close,
        )
    torch.testing.assert_close(grpo(values * factor, groups), grpo(values, groups), **close)
    plain = {"normalize_std": False}
    torch.testing.assert_close(grpo(values * factor, groups, **plain), grpo(values, groups, **plain) * factor, **close)


@FEW
@given(data=st.data(), rewards=REWARDS)
def test_the_order_of_rows_and_the_names_of_groups_do_not_matter(data: st.DataObject, rewards: list[float]) -> None:
    values = torch.tensor(rewards)
    groups = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(rewards), max_size=len(rewards))))
    order = torch.tensor(data.draw(st.permutations(range(len(rewards)))))
    expected = grpo(values, groups)
    torch.testing.assert_close(grpo(values[order], groups[order]), expected[order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grpo(values, 100 - 9 * groups), expected, atol=1e-5, rtol=1e-5)
    for group in groups.unique():
        own = groups == group
        torch.testing.assert_close(grpo(values[own], groups[own]), expected[own], atol=1e-4, rtol=1e-4)


def test_no_rewards_and_rewards_that_are_not_finite_are_refused() -> None:
    with pytest.raises(TrainingError, match="no rewards"):
        grpo(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(TrainingError, match="not finite"):
            grpo(torch.tensor([0.0, bad]), torch.tensor([0, 0]))
