"""From trajectories to right-padded tensors."""

import pytest
import torch
from helpers import trajectory

from agent_gym.errors import TrainingError
from agent_gym.trainers.batch import make_batch


def test_rows_hold_exactly_what_the_trajectories_hold_and_padding_is_0() -> None:
    made = [trajectory(3, 2, seed=1), trajectory(5, 4, seed=2)]
    batch = make_batch(made, [0.5, 1.5], [4, 4])
    assert len(batch) == 2 and batch.lengths.tolist() == [10, 18]
    for row, source in enumerate(made):
        length = len(source.token_ids)
        assert batch.input_ids[row, :length].tolist() == source.token_ids
        assert batch.mask[row, :length].tolist() == source.action_mask
        torch.testing.assert_close(batch.old_logprobs[row, :length], torch.tensor(source.logprobs))
        torch.testing.assert_close(batch.entropies[row, :length], torch.tensor(source.entropies))
        for padded in (batch.input_ids, batch.mask, batch.old_logprobs, batch.entropies):
            assert (padded[row, length:] == 0).all()
    assert batch.rewards.tolist() == [0.5, 1.5] and batch.groups.tolist() == [4, 4]
    assert (batch.advantages == 0).all() and (batch.weights == 1).all()


def test_selected_rows_are_cut_to_the_longest_of_them() -> None:
    batch = make_batch([trajectory(3, 2), trajectory(9, 4), trajectory(4, 1)], [1, 2, 3], [0, 0, 1])
    part = batch.select(torch.tensor([2, 0]))
    assert part.input_ids.shape == part.mask.shape == part.advantages.shape == (2, 10)
    assert part.rewards.tolist() == [3, 1] and part.lengths.tolist() == [10, 10]
    assert torch.equal(part.input_ids[1], batch.input_ids[0, :10])
    assert len(batch.select(torch.tensor([], dtype=torch.long))) == 0


def test_to_returns_a_batch_on_the_device() -> None:
    batch = make_batch([trajectory(3, 2)], [1.0], [0])
    moved = batch.to(torch.device("meta"))
    assert moved.input_ids.is_meta and moved.rewards.is_meta and not batch.input_ids.is_meta


def test_rewards_stand_on_the_last_token_of_their_turn() -> None:
    made = [trajectory(3, 2, seed=1), trajectory(2, 2, seed=2)]
    batch = make_batch(made, [[0.5, -1.0], [0.0, 2.0]], [0, 0])
    assert batch.token_rewards[0].nonzero().flatten().tolist() == [4, 9]
    assert batch.token_rewards[0, [4, 9]].tolist() == [0.5, -1.0] and batch.rewards.tolist() == [-0.5, 2.0]
    torch.testing.assert_close(make_batch(made, [3.0, 0.0], [0, 0]).token_rewards[0, 9], torch.tensor(3.0))


def test_turns_and_states_are_told_for_each_generated_token() -> None:
    made = [trajectory(3, 2, seed=1), trajectory(3, 2, seed=2), trajectory(3, 2, seed=3)]
    for number, word in enumerate("aab"):
        made[number].turns[1].observation = word
    batch = make_batch(made, [0, 0, 0], [0, 0, 1])
    assert batch.turns[0].tolist() == [-1, -1, -1, 0, 0, -1, -1, -1, 1, 1]
    first, second = batch.states[:, 3].tolist(), batch.states[:, 8].tolist()
    # The same text in another group is another state.
    assert first[0] == first[1] != first[2] and second[0] == second[1] != first[0]
    assert len({*first, *second}) == 4 and (batch.states[batch.mask == 0] == -1).all()


def test_what_a_branch_shares_with_its_parent_has_the_same_nodes() -> None:
    root, child, grandchild = (trajectory(3, 2, seed=number) for number in range(3))
    child.parent_id, child.branch_offset = root.id, 7
    grandchild.parent_id, grandchild.branch_offset = child.id, 9
    nodes = make_batch([grandchild, root], [0, 0], [0, 0], relatives=[child]).nodes
    alone = make_batch([root, child, grandchild], [0, 0, 0], [0, 0, 0]).nodes
    assert torch.equal(alone[0, :7], alone[1, :7]) and alone[0, 8] != alone[1, 8]
    assert torch.equal(alone[1, :9], alone[2, :9]) and alone[1, 9] != alone[2, 9]
    assert torch.equal(nodes[0, :7], nodes[1, :7]) and nodes[0, 8] != nodes[1, 8]


def test_a_turn_with_a_prompt_of_its_own_is_a_row_of_its_own() -> None:
    made = [trajectory(3, 2, seed=1), trajectory(4, 1, seed=2)]
    made[0].turns[1].context_start = 5
    made[0].append_context([9, 9])
    batch = make_batch(made, [[0.5, 1.0], [0.0, 3.0]], [7, 8])
    assert batch.lengths.tolist() == [5, 5, 10]
    assert batch.input_ids[1, :5].tolist() == made[0].token_ids[5:10]
    assert batch.trajectories.tolist() == [0, 0, 1] and batch.groups.tolist() == [7, 7, 8]
    assert batch.rewards.tolist() == [1.5, 1.5, 3.0]
    assert batch.token_rewards.sum(1).tolist() == [0.5, 1.0, 3.0]
    assert batch.turns.max(1).values.tolist() == [0, 1, 1]
    assert [part.tolist() for part in batch.first_rows()] == [[0, 2], [0, 0, 1]]
    assert make_batch(made, [1.5, 3.0], [7, 8]).token_rewards.sum(1).tolist() == [0.0, 1.5, 3.0]


@pytest.mark.parametrize("spoilt", ["reward", "logprobs", "entropies"])
def test_what_is_not_finite_is_named_before_anything_is_trained(spoilt: str) -> None:
    made = trajectory(3, 2, seed=1)
    if spoilt != "reward":
        getattr(made, spoilt)[3] = float("nan")
    with pytest.raises(TrainingError, match="made1"):
        make_batch([made], [float("inf") if spoilt == "reward" else 0.0], [0])


@pytest.mark.parametrize("rewards", [[float("inf"), float("-inf")], [float("nan"), 0.0], [0.0, float("-inf")]])
def test_rewards_that_are_not_finite_are_named_even_where_they_have_no_sum(rewards: list[float]) -> None:
    with pytest.raises(TrainingError, match=r"The reward of episode 'made1' .* is (inf|nan|-inf): look at"):
        make_batch([trajectory(2, 2, seed=1)], [rewards], [0])
