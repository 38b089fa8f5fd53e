"""From trajectories to right-padded tensors."""

import torch
from helpers import trajectory

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
