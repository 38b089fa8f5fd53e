"""RLOO and Dr. GRPO as algorithms."""

import torch
from base_rows import by_turn, filled, groups, same, trained

from agent_gym.trainers.dr_grpo import dr_grpo
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.rloo import rloo


def test_rloo_is_dr_grpo_stretched_by_the_size_of_the_group_in_both_layouts() -> None:
    for window in (False, True):
        made = groups(window=window)
        ours, theirs = filled(rloo(), made), filled(dr_grpo(), made)
        sizes = torch.where(ours.groups == 0, 4 / 3, 3 / 2).unsqueeze(1)
        assert (ours.advantages != 0).any()
        torch.testing.assert_close(ours.advantages, theirs.advantages * sizes, atol=1e-6, rtol=1e-5)


def test_a_trajectory_gets_the_same_however_many_rows_it_has() -> None:
    one, other = (filled(rloo(), groups(window=window)) for window in (False, True))
    assert by_turn(one, one.advantages) == by_turn(other, other.advantages)


def test_dr_grpo_is_grpo_with_three_options() -> None:
    options = {"normalize_std": False, "aggregation": "seq-mean-token-sum-norm", "loss_scale": 64.0}
    assert same(trained(dr_grpo(loss_scale=64.0), groups()), trained(grpo(**options), groups()))  # type: ignore[arg-type]
    assert dr_grpo().loss_scale == 1024.0 and dr_grpo().name == "dr-grpo"
