"""GiGPO as an algorithm: the official numbers through whole trajectories, and its identity settings."""

from typing import Any

import pytest
import torch
from base_rows import by_turn, episode, filled, groups, same, trained
from helpers import golden

from agent_gym.errors import ConfigError
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.gigpo import gigpo
from agent_gym.trainers.grpo import grpo
from agent_gym.trajectory import Group

OFFICIAL = golden("gigpo_and_stepwise_grpo")


def official_groups(window: bool) -> list[Group]:
    """Return the golden turns as trajectories."""
    given = OFFICIAL["inputs"]
    rows = list(zip(given["uid"], given["traj_uid"], given["anchor_obs"], given["step_rewards"], strict=True))
    made = []
    for task in sorted(set(given["uid"])):
        members = []
        for name in sorted({row[1] for row in rows if row[0] == task}):
            own = [row for row in rows if row[1] == name]
            played = episode([row[2] for row in own], [row[3] for row in own], seed=len(members), window=window)
            members.append(played)
        made.append(Group(task, task, members))
    return made


@pytest.mark.parametrize("window", [False, True], ids=["trajectories", "turns"])
@pytest.mark.parametrize(
    "case", OFFICIAL["gigpo"], ids=lambda case: f"{case['gamma']}-{case['mode']}-{case['step_advantage_w']}"
)
def test_official_numbers_in_both_row_layouts(case: dict[str, Any], window: bool) -> None:
    algorithm = gigpo(
        step_weight=case["step_advantage_w"],
        gamma=case["gamma"],
        normalization="mean-std" if case["mode"] == "mean_std_norm" else "mean",
        over="turns",
    )
    batch = filled(algorithm, official_groups(window))
    assert len(batch) == (8 if window else 4)
    turns = list(by_turn(batch, batch.advantages).values())
    assert all(len(set(turn)) == 1 for turn in turns)
    ours = torch.tensor([turn[0] for turn in turns])
    torch.testing.assert_close(ours, torch.tensor(case["advantages"])[:, 0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [False, True], ids=["trajectories", "turns"])
@pytest.mark.parametrize("normalize_std", [True, False])
def test_without_its_step_part_it_trains_like_grpo_bit_for_bit(window: bool, normalize_std: bool) -> None:
    base = trained(grpo(normalize_std=normalize_std), groups(window=window))
    normalization: Any = "mean-std" if normalize_std else "mean"
    assert same(trained(gigpo(step_weight=0.0, normalization=normalization), groups(window=window)), base)
    assert not same(trained(gigpo(normalization=normalization), groups(window=window)), base)


def test_observations_that_were_seen_once_leave_grpo_bit_for_bit() -> None:
    made = groups()
    for group in made:
        for member in group.trajectories:
            for number, turn in enumerate(member.turns):
                turn.observation = f"{member.id} {number}"
    assert same(trained(gigpo(), made), trained(grpo(), made))


def test_both_layouts_give_each_turn_the_same() -> None:
    one, other = (by_turn(batch, batch.advantages) for batch in map(filled_with(gigpo()), (False, True)))
    assert one.keys() == other.keys()
    for key in one:
        assert one[key] == pytest.approx(other[key], abs=1e-6)


def filled_with(algorithm: Algorithm) -> Any:
    return lambda window: filled(algorithm, groups(window=window))


def test_a_turn_is_credited_with_what_came_after_it_against_those_that_saw_the_same() -> None:
    members = [episode(["a", "b"], [0, 1], seed=0), episode(["a", "c"], [0, 0], seed=1), episode(["c"], [1], seed=2)]
    batch = filled(gigpo(gamma=0.5, normalization="mean"), [Group("g", "t", members)])
    found = {key: values[0] for key, values in by_turn(batch, batch.advantages).items()}
    third = 1 / 3
    # "a" is followed by 0.5 (discounted) and 0, "b" is seen once, "c" by 0 and 1.
    expected = {(0, 0): third + 0.25, (0, 1): third, (1, 0): -2 * third - 0.25, (1, 1): -2 * third - 0.5}
    assert found == pytest.approx(expected | {(2, 0): third + 0.5})


def test_trajectories_that_a_filter_took_out_still_count_in_the_comparison() -> None:
    made = groups()
    batch = filled(gigpo(), made)
    plain = by_turn(batch, batch.advantages)
    batch.mask[1] = 0
    [stage] = gigpo().advantages
    again = by_turn(batch, stage(batch, batch.advantages))
    assert all(again[key] == (plain[key] if key[0] != 1 else [0.0] * len(plain[key])) for key in plain)


def test_the_invalid_action_penalty_reaches_the_step_part() -> None:
    made = groups()
    made[0].trajectories[1].turns[0].invalid_action = True
    batch = filled(gigpo(invalid_action_penalty=0.1), made)
    other = filled(gigpo(), made)
    assert batch.token_rewards.sum() == pytest.approx(float(other.token_rewards.sum()) - 0.1)
    now, before = (by_turn(each, each.advantages)[1, 0][0] for each in (batch, other))
    [alone], [together] = (filled(base, made).advantages[1].unique()[:1] for base in (penalised(0.0), penalised(1.0)))
    assert now < before and together < alone


def penalised(step_weight: float) -> Algorithm:
    return gigpo(invalid_action_penalty=0.1, step_weight=step_weight)


def test_unknown_options_are_named() -> None:
    with pytest.raises(ConfigError, match="normalization is one of mean, mean-std, not 'std'"):
        gigpo(normalization="std")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="over is one of trajectories, turns, not 'rows'"):
        gigpo(over="rows")  # type: ignore[arg-type]
