"""Turn, Trajectory and Group."""

import math

import pytest

from agent_gym.trajectory import Group, Trajectory, Turn


def test_context_has_mask_zero_and_actions_have_mask_one() -> None:
    trajectory = Trajectory("task")
    trajectory.append_context([5, 6])
    trajectory.append_action([7], [-0.5], [0.25])
    trajectory.append_context((8,))
    assert trajectory.token_ids == [5, 6, 7, 8]
    assert trajectory.action_mask == [0, 0, 1, 0]
    assert trajectory.logprobs == [0.0, 0.0, -0.5, 0.0]
    assert trajectory.entropies == [0.0, 0.0, 0.25, 0.0]


def test_an_action_whose_parts_differ_in_length_is_refused_and_nothing_is_appended() -> None:
    trajectory = Trajectory("task")
    with pytest.raises(ValueError, match="2 tokens came with 1 log-probabilities and 2 entropies"):
        trajectory.append_action([1, 2], [0.0], [0.0, 0.0])
    assert trajectory.token_ids == trajectory.action_mask == []


def test_reward_is_the_sum_over_turns() -> None:
    trajectory = Trajectory("task", turns=[Turn("o", "t", "a", 0, 1, reward=0.5), Turn("o", "t", "a", 1, 2, reward=1)])
    assert trajectory.reward == 1.5


def test_entropy_is_the_mean_over_generated_tokens_alone() -> None:
    trajectory = Trajectory("task")
    assert trajectory.entropy == 0.0
    trajectory.append_context([1, 2, 3])
    trajectory.append_action([4, 5], [-1, -1], [1.0, 2.0])
    assert trajectory.entropy == 1.5


def test_failed_trajectories_do_not_count_as_wrong_answers() -> None:
    group = Group("g", "task", [Trajectory("task", success=True), Trajectory("task", error="broke")])
    assert group.valid == group.trajectories[:1]
    assert group.success_rate == 1.0
    assert math.isnan(Group("g", "task", group.trajectories[1:]).success_rate)


def test_trajectories_do_not_share_their_lists() -> None:
    one, two = Trajectory("a"), Trajectory("b")
    one.append_context([1])
    assert two.token_ids == []
