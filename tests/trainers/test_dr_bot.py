"""Dr.BoT's filters: which groups and which trajectories are trained on."""

import random
from typing import Any

import pytest
import torch
from helpers import golden, trajectory

from agent_gym.errors import ConfigError
from agent_gym.trainers.dr_bot import SoundTrajectories, VariedGroups, dr_bot, is_repetitive, most_varied
from agent_gym.trainers.grpo import ClippedPolicyLoss, EntropyBonus, GroupAdvantage, grpo
from agent_gym.trajectory import Group, Trajectory, Turn

FILTER = golden("spear_group_filter")


@pytest.mark.parametrize(
    "case", FILTER["cases"], ids=lambda c: f"{c['rollout_filter_type']}-{c['rollout_filter_ratio']}"
)
def test_official_group_filter(case: dict[str, Any]) -> None:
    rewards = torch.tensor(case["rewards"])
    names = sorted(set(case["uid"]))
    groups = torch.tensor([names.index(name) for name in case["uid"]])
    if case["rollout_filter_type"] == "std_rev":
        # The least varied ones: what the most varied leave over, which is not what anyone should train on.
        kept = ~most_varied(rewards, groups, share=1 - case["rollout_filter_ratio"])
    else:
        kept = most_varied(rewards, groups, share=case["rollout_filter_ratio"])
    chosen = kept.nonzero().flatten().tolist()
    # The official code cuts at random to a power of two; we do not.
    power = 1 << (len(chosen).bit_length() - 1)
    if power < len(chosen):
        random.Random(case["random_seed"]).shuffle(chosen)
    assert sorted(chosen[:power]) == case["kept_rows"]
    deviations = [rewards[groups == group].std(correction=0) for group in groups[kept].unique()]
    expected = case["metrics"]["rollout/chosen_in_group_std"]
    assert float(torch.stack(deviations).mean()) == pytest.approx(expected, abs=1e-6)


def group(*members: Trajectory) -> Group:
    return Group("g", "task", list(members))


def test_of_equal_groups_the_first_are_kept_and_one_at_least() -> None:
    rewards, groups = torch.tensor([1.0, 0, 1, 0, 1, 0]), torch.tensor([0, 0, 1, 1, 2, 2])
    assert most_varied(rewards, groups, share=0.75).tolist() == [True] * 4 + [False] * 2
    assert most_varied(rewards, groups, share=1.0).all()
    assert most_varied(rewards[:2], groups[:2]).all()
    many = most_varied(torch.tensor([1.0, 0] * 500), torch.arange(500).repeat_interleave(2), share=0.5)
    assert many[:500].all() and not many[500:].any()


def test_varied_groups_are_chosen_by_shaped_rewards_and_failed_members_have_no_say() -> None:
    failed = Trajectory("task", error="lost")
    groups = [group(trajectory(1, 1), failed, trajectory(1, 1, seed=2)), group(failed), group(trajectory(1, 1))]
    kept = VariedGroups(0.5)(groups, [[1.0, 0.0], [], [5.0]])
    assert kept == [[True, True], [], [False]]
    assert VariedGroups()([group(failed)], [[]]) == [[]]


def test_a_run_of_tokens_repeats_when_it_occurs_often_enough() -> None:
    phrase = list(range(20))
    assert is_repetitive(phrase * 10) and not is_repetitive(phrase * 9)
    assert is_repetitive([7] * 29) and not is_repetitive([7] * 28)
    assert not is_repetitive(range(400)) and not is_repetitive([])
    assert is_repetitive([1, 2, 1, 2, 1, 2], length=2, times=3)


def unsound(how: str) -> Trajectory:
    made = trajectory(2, 3)
    if how == "over-long":
        made.truncated = True
        made.metadata["truncated_by"] = "tokens"
    elif how == "cut off":
        made.turns[-1].finish_reason = "length"
    elif how == "no action":
        made.turns[-1].action = ""
    elif how == "no turn":
        made.turns.clear()
    elif how == "repetitive":
        start = len(made.token_ids)
        made.append_action([7] * 40, [-1.0] * 40, [1.0] * 40)
        made.turns.insert(0, Turn("o", "t", "a", start, start + 40))
    return made


@pytest.mark.parametrize("how", ["over-long", "cut off", "no action", "no turn", "repetitive"])
def test_trajectories_that_went_wrong_are_not_trained_on(how: str) -> None:
    groups = [group(trajectory(2, 3), unsound(how), Trajectory("task", error="lost")), group(unsound(how))]
    assert SoundTrajectories()(groups, [[0.0, 0.0], [0.0]]) == [[True, False], [False]]


def test_the_same_action_in_many_turns_is_not_repetition() -> None:
    made = Trajectory("task")
    for _ in range(12):
        start = len(made.token_ids)
        made.append_action(list(range(20)), [-1.0] * 20, [1.0] * 20)
        made.turns.append(Turn("o", "t", "a", start, start + 20))
    assert SoundTrajectories()([group(made)], [[0.0]]) == [[True]]
    made.turns[0].end = len(made.token_ids)
    assert SoundTrajectories()([group(made)], [[0.0]]) == [[False]]


def test_dr_bots_habits_replace_those_of_the_base_and_leave_the_rest() -> None:
    algorithm = dr_bot(grpo(entropy_coefficient=0.01, loss_scale=512.0), share=0.5)
    assert algorithm.name == "grpo+dr-bot"
    assert algorithm.advantages == (GroupAdvantage(normalize_std=False),)
    assert algorithm.losses == (ClippedPolicyLoss(0.2, 0.28, 10.0), EntropyBonus(0.01))
    assert algorithm.filters == (VariedGroups(0.5), SoundTrajectories())
    assert (algorithm.aggregation, algorithm.loss_scale) == ("seq-mean-token-sum-norm", 512.0)
    assert dr_bot(grpo()).loss_scale == 1024.0


def test_a_trajectory_is_trained_on_if_both_filters_let_it_pass() -> None:
    groups = [group(trajectory(2, 3), unsound("over-long")), group(trajectory(2, 3), trajectory(2, 3))]
    assert dr_bot(grpo(), share=0.5).keep(groups, [[1.0, 0.0], [0.0, 0.0]]) == [[True, False], [False, False]]


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        dr_bot(grpo(), share=share)
