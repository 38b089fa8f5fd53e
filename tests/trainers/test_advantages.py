"""Group-relative advantages, returns and GAE: the official numbers, and what must hold for any rewards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import TrainingError
from agent_gym.trainers.advantages import (
    discounted_returns,
    gae,
    gigpo,
    grpo,
    pass_at_k,
    reinforce_plus_plus,
    reinforce_plus_plus_baseline,
    rloo,
    whiten,
)

CASES = golden("verl_grpo_outcome_advantage")["cases"]
OTHERS = golden("verl_rloo_reinforcepp_advantage")["cases"]
GAE = golden("verl_gae")["cases"]
TURNS = golden("gigpo_and_stepwise_grpo")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
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
        options = {"normalize_std": case["norm_adv_by_std_in_grpo"]}
        ours = grpo(rewards, groups, **options)
        assert alone.sum() == 2 and (ours[alone] == 0).all()
        torch.testing.assert_close(grpo(rewards, groups, singletons="reward", **options), official, **CLOSE)


def official_calls() -> dict[str, Callable[[dict[str, Any], torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Return, by the name of the official function, ours with the options that make it the same; (B, T) each."""

    def rows(case: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        names = sorted(set(case["index"]))
        groups = torch.tensor([names.index(name) for name in case["index"]])
        return torch.tensor(case["token_level_rewards"]).sum(1), groups

    return {
        "compute_rloo_outcome_advantage": lambda case, rewards, mask: (
            rloo(*rows(case), singletons="reward").unsqueeze(1) * mask
        ),
        "compute_reinforce_plus_plus_outcome_advantage": lambda case, rewards, mask: reinforce_plus_plus(
            rewards, mask, gamma=case["gamma"], reset_at_holes=True
        ),
        "compute_reinforce_plus_plus_baseline_outcome_advantage": lambda case, rewards, mask: (
            reinforce_plus_plus_baseline(*rows(case), mask, singletons="reward")
        ),
        "compute_grpo_passk_outcome_advantage": lambda case, rewards, mask: (
            pass_at_k(*rows(case), normalize_std=case["norm_adv_by_std_in_grpo"]).unsqueeze(1) * mask
        ),
    }


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case['fn']}-{len(set(case.get('index', ())))}")
def test_official_numbers_of_the_other_estimators(case: dict[str, Any]) -> None:
    rewards, mask = torch.tensor(case["token_level_rewards"]), torch.tensor(case["response_mask"])
    ours = official_calls()[case["fn"]](case, rewards, mask)
    torch.testing.assert_close(ours, torch.tensor(case["advantages"]), **CLOSE)
    if "returns" in case:
        returns = discounted_returns(rewards, mask, gamma=case["gamma"], reset_at_holes=True)
        torch.testing.assert_close(returns, torch.tensor(case["returns"]) * mask, **CLOSE)


@pytest.mark.parametrize("case", GAE, ids=lambda case: f"{case['mask_kind']}-{case['gamma']}")
def test_official_gae_on_generated_tokens(case: dict[str, Any]) -> None:
    rewards, values, mask = (torch.tensor(case[name]) for name in ("token_level_rewards", "values", "response_mask"))
    advantages, returns = gae(rewards, values, mask, gamma=case["gamma"], lam=case["lam"])
    torch.testing.assert_close(returns, torch.tensor(case["returns"]) * mask, **CLOSE)
    official = torch.tensor(case["advantages_whitened"])
    torch.testing.assert_close(whiten(advantages, mask), official * mask, atol=1e-4, rtol=1e-4)


def turn_rows() -> dict[str, torch.Tensor]:
    """Return rewards, returns' ingredients and ids of the golden turns, each (N,), and their mask (N, T)."""
    given_ = TURNS["inputs"]

    def number(names: list[str]) -> torch.Tensor:
        return torch.tensor([sorted(set(names)).index(name) for name in names])

    return {
        "rewards": torch.tensor(given_["token_level_rewards"]).sum(1),
        "step_rewards": torch.tensor(given_["step_rewards"]).float(),
        "groups": number(given_["uid"]),
        "trajectories": number(given_["traj_uid"]),
        "states": number(given_["anchor_obs"]),
        "mask": torch.tensor(given_["response_mask"]),
    }


@pytest.mark.parametrize(
    "case", TURNS["gigpo"], ids=lambda case: f"{case['gamma']}-{case['mode']}-{case['step_advantage_w']}"
)
def test_official_gigpo(case: dict[str, Any]) -> None:
    rows = turn_rows()
    trajectories = rows["trajectories"]
    # A row a trajectory: its turns stand side by side.
    place = torch.stack([(trajectories[:n] == trajectories[n]).sum() for n in range(len(trajectories))])
    grid, present = torch.zeros(4, 3), torch.zeros(4, 3)
    grid[trajectories, place], present[trajectories, place] = rows["step_rewards"], 1.0
    returns = discounted_returns(grid, present, gamma=case["gamma"])[trajectories, place]
    torch.testing.assert_close(returns, torch.tensor(case["step_returns"]), **CLOSE)
    ours = gigpo(
        rows["rewards"],
        returns,
        rows["groups"],
        rows["states"],
        weight=case["step_advantage_w"],
        normalization="mean-std" if case["mode"] == "mean_std_norm" else "mean",
        singletons="reward",
    )
    torch.testing.assert_close(ours.unsqueeze(1) * rows["mask"], torch.tensor(case["advantages"]), **CLOSE)


@pytest.mark.parametrize(
    "case",
    TURNS["grpo_rows_are_turns"],
    ids=lambda case: f"{case['norm_adv_by_std_in_grpo']}-{case['compute_mean_std_cross_all_data']}",
)
def test_official_grpo_where_rows_are_turns(case: dict[str, Any]) -> None:
    rows = turn_rows()
    ours = grpo(
        rows["rewards"],
        rows["groups"],
        normalize_std=case["norm_adv_by_std_in_grpo"],
        trajectories=None if case["compute_mean_std_cross_all_data"] else rows["trajectories"],
        singletons="reward",
    )
    torch.testing.assert_close(ours.unsqueeze(1) * rows["mask"], torch.tensor(case["advantages"]), **CLOSE)


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


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_every_estimator_refuses_what_is_not_finite(bad: float) -> None:
    rows, groups = torch.tensor([0.0, bad]), torch.tensor([0, 0])
    tokens, mask = torch.tensor([[0.0, bad]]), torch.ones(1, 2)
    calls: list[Callable[[], object]] = [
        lambda: rloo(rows, groups),
        lambda: pass_at_k(rows, groups),
        lambda: gigpo(torch.zeros(2), rows, groups, groups),
        lambda: reinforce_plus_plus_baseline(rows, groups, torch.ones(2, 2)),
        lambda: reinforce_plus_plus(tokens, mask, gamma=1.0),
        lambda: gae(tokens, torch.zeros(1, 2), mask, gamma=1.0, lam=1.0),
    ]
    for call in calls:
        with pytest.raises(TrainingError, match="A reward is not finite: look at"):
            call()
    with pytest.raises(TrainingError, match="A value is not finite: lower"):
        gae(torch.zeros(1, 2), tokens, mask, gamma=1.0, lam=1.0)


@FEW
@given(rewards=REWARDS)
def test_rloo_is_dr_grpo_stretched_and_sums_to_0(rewards: list[float]) -> None:
    values, count = torch.tensor(rewards), len(rewards)
    groups = torch.zeros(count, dtype=torch.long)
    ours = rloo(values, groups)
    expected = grpo(values, groups, normalize_std=False) * count / (count - 1)
    torch.testing.assert_close(ours, expected, **CLOSE)
    torch.testing.assert_close(rloo(values + 3, groups), ours, atol=1e-4, rtol=1e-4)
    assert abs(float(ours.sum())) < 1e-3
    others = torch.stack([(values.sum() - value) / (count - 1) for value in values])
    torch.testing.assert_close(ours, values - others, atol=1e-4, rtol=1e-4)


@FEW
@given(rewards=REWARDS)
def test_pass_at_k_pays_the_best_alone_for_its_lead(rewards: list[float]) -> None:
    values = torch.tensor(rewards)
    ours = pass_at_k(values, torch.zeros(len(rewards), dtype=torch.long), normalize_std=False)
    first, second = sorted(rewards)[::-1][:2]
    assert float(ours.max()) == pytest.approx(first - second, abs=1e-5) and int((ours != 0).sum()) <= 1
    assert first == second or int(ours.argmax()) == int(values.argmax())


def test_pass_at_k_gives_a_group_of_one_nothing() -> None:
    assert pass_at_k(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0, 1, 1])).tolist()[:2] == [0.0, 0.0]


@st.composite
def turns(draw: st.DrawFn) -> tuple[torch.Tensor, ...]:
    """Return rewards, returns, groups, states and trajectories of some turns, each (N,)."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    trajectories = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    rewards = torch.randint(0, 3, (len(lengths),), generator=generator).float()[trajectories]
    groups = torch.randint(0, 2, (len(lengths),), generator=generator)[trajectories]
    returns = torch.randint(0, 3, trajectories.shape, generator=generator).float()
    return rewards, returns, groups, torch.randint(0, 3, trajectories.shape, generator=generator), trajectories


@FEW
@given(made=turns(), normalization=st.sampled_from(["mean", "mean-std"]))
def test_gigpo_without_its_step_part_is_grpo(made: tuple[torch.Tensor, ...], normalization: Any) -> None:
    rewards, returns, groups, states, trajectories = made
    base = grpo(rewards, groups, normalize_std=normalization == "mean-std", trajectories=trajectories)
    options = {"normalization": normalization, "trajectories": trajectories}
    assert torch.equal(gigpo(rewards, returns, groups, states, weight=0.0, **options), base)
    distinct = torch.arange(len(rewards))
    assert torch.equal(gigpo(rewards, returns, groups, distinct, **options), base)
    assert torch.equal(gigpo(rewards, torch.full_like(returns, 0.7), groups, states, **options), base)
    # The same text under another task is another state.
    apart = gigpo(rewards, returns, groups, states + 10 * groups, **options)
    assert torch.equal(gigpo(rewards, returns, groups, states, **options), apart)


@FEW
@given(made=turns())
def test_a_trajectory_counts_once_however_many_turns_it_has(made: tuple[torch.Tensor, ...]) -> None:
    rewards, _, groups, _, trajectories = made
    first = torch.tensor([int((trajectories == number).nonzero()[0]) for number in trajectories.unique()])
    alone = grpo(rewards[first], groups[first])
    torch.testing.assert_close(grpo(rewards, groups, trajectories=trajectories), alone[trajectories], **CLOSE)
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(0))
    shuffled = grpo(rewards[order], groups[order], trajectories=trajectories[order])
    torch.testing.assert_close(shuffled, alone[trajectories][order], **CLOSE)


@st.composite
def token_rows(draw: st.DrawFn, holes: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rewards, values and a mask, (B, T) each; rewards and values are 0 where the mask is."""
    rows, width = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    if holes:
        mask = (torch.rand(rows, width, generator=generator) < 0.6).float()
    else:
        mask = (torch.arange(width) < torch.randint(1, width + 1, (rows, 1), generator=generator)).float()
    rewards, values = torch.randn(2, rows, width, generator=generator) * mask
    return rewards, values, mask


@FEW
@given(made=token_rows(), gamma=st.sampled_from([1.0, 0.9, 0.5]), lam=st.sampled_from([0.0, 0.7, 1.0]))
def test_time_stands_still_where_others_speak(
    made: tuple[torch.Tensor, torch.Tensor, torch.Tensor], gamma: float, lam: float
) -> None:
    rewards, values, mask = made
    kept = mask.bool()
    spoilt = [torch.where(kept, part, torch.nan) for part in (rewards, values)]
    advantages, returns = gae(*spoilt, mask, gamma=gamma, lam=lam)
    assert torch.equal(torch.where(kept, 0.0, advantages), torch.zeros_like(mask))
    discounted = discounted_returns(spoilt[0], mask, gamma=gamma)
    for row in range(len(mask)):
        own = kept[row]
        short = [part[row][own].unsqueeze(0) for part in (rewards, values, mask)]
        alone = gae(*short, gamma=gamma, lam=lam)
        torch.testing.assert_close(advantages[row][own], alone[0][0], **CLOSE)
        torch.testing.assert_close(returns[row][own], alone[1][0], **CLOSE)
        torch.testing.assert_close(discounted[row][own], discounted_returns(*short[::2], gamma=gamma)[0], **CLOSE)
    if lam == 1:
        torch.testing.assert_close(returns, discounted, **CLOSE)


@FEW
@given(made=token_rows(holes=False), gamma=st.sampled_from([1.0, 0.9]), lam=st.sampled_from([0.0, 0.7, 1.0]))
def test_without_holes_the_older_gae_is_the_same(
    made: tuple[torch.Tensor, torch.Tensor, torch.Tensor], gamma: float, lam: float
) -> None:
    newer, older = (gae(*made, gamma=gamma, lam=lam, holes=way) for way in ("skip", "count"))
    assert all(torch.equal(one, other) for one, other in zip(newer, older, strict=True))


def test_the_older_gae_lets_time_pass_in_holes_and_reads_values_there() -> None:
    rewards, values, mask = (torch.tensor([row]) for row in ([0.0, 0.0, 1.0], [0.5, 0.25, 0.0], [1.0, 0.0, 1.0]))
    advantages, _ = gae(rewards, values, mask, gamma=0.5, lam=0.0, holes="count")
    assert advantages.tolist() == [[0.5 * 0.25 - 0.5, 0.0, 1.0]]
    advantages, _ = gae(rewards, values, mask, gamma=0.5, lam=1.0, holes="count")
    assert advantages.tolist() == [[0.5 * 0.5 * 1.0 - 0.5, 0.0, 1.0]]
    advantages, _ = gae(rewards, values, mask, gamma=0.5, lam=1.0)
    assert advantages.tolist() == [[0.5 * 1.0 - 0.5, 0.0, 1.0]]


def test_a_reward_at_the_end_reaches_over_holes_unless_returns_are_reset_there() -> None:
    rewards, mask = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    assert discounted_returns(rewards, mask, gamma=0.5).tolist() == [[0.25, 0.0, 0.5, 1.0]]
    assert discounted_returns(rewards, mask, gamma=0.5, reset_at_holes=True).tolist() == [[0.0, 0.0, 0.5, 1.0]]


@FEW
@given(made=token_rows())
def test_whitened_values_have_mean_0_and_variance_1(
    made: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    values, _, mask = made
    kept = mask.bool()
    whitened = whiten(torch.where(kept, values, torch.nan), mask)
    assert (whitened[~kept] == 0).all()
    if kept.sum() > 1:
        assert abs(float(whitened[kept].mean())) < 1e-4 and abs(float(whitened[kept].var()) - 1) < 1e-2
    else:
        assert (whitened == 0).all()


def test_equal_values_are_whitened_to_exactly_0() -> None:
    assert (whiten(torch.full((3, 3), 0.7), torch.ones(3, 3)) == 0).all()
    equal = reinforce_plus_plus_baseline(torch.full((3,), 0.9), torch.tensor([0, 0, 1]), torch.ones(3, 2))
    assert (equal == 0).all()


@FEW
@given(made=turns(), seed=st.integers(0, 99))
def test_no_estimator_sees_the_order_of_rows(made: tuple[torch.Tensor, ...], seed: int) -> None:
    order = torch.randperm(len(made[0]), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(len(order), 2)

    def results(rewards: torch.Tensor, returns: torch.Tensor, *ids: torch.Tensor) -> list[torch.Tensor]:
        groups, states, trajectories = ids
        return [
            rloo(rewards, groups),
            rloo(rewards, groups, trajectories=trajectories),
            pass_at_k(rewards, groups),
            gigpo(rewards, returns, groups, states, trajectories=trajectories),
            reinforce_plus_plus_baseline(rewards, groups, mask),
            reinforce_plus_plus(returns.unsqueeze(1).expand(-1, 2), mask, gamma=0.9),
        ]

    for straight, shuffled in zip(results(*made), results(*(each[order] for each in made)), strict=True):
        torch.testing.assert_close(shuffled, straight[order], atol=1e-4, rtol=1e-4)
