"""What a trajectory generated, in one row."""

import torch
from base_rows import filled, groups

from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.sequences import Sequences


def test_both_layouts_give_the_same_rows_and_only_what_was_generated() -> None:
    one, other = (filled(grpo(), groups(window=window)) for window in (False, True))
    assert len(one) == 7 and len(other) == 17
    rows, again = Sequences.of(one), Sequences.of(other)
    assert torch.equal(rows.mask, again.mask)
    assert torch.equal(rows.gather(one.input_ids), again.gather(other.input_ids))
    members = [member for group in groups() for member in group.trajectories]
    for row, member in zip(rows.gather(one.input_ids), members, strict=True):
        said = [token for token, kept in zip(member.token_ids, member.action_mask, strict=True) if kept]
        assert row.tolist() == said + [0] * (len(row) - len(said))


def test_the_order_of_rows_does_not_matter() -> None:
    batch = filled(grpo(), groups(window=True))
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    shuffled = batch.select(order)
    expected = Sequences.of(batch).gather(batch.input_ids)
    assert torch.equal(Sequences.of(shuffled).gather(shuffled.input_ids), expected)


def test_what_was_gathered_is_scattered_back() -> None:
    for window in (False, True):
        batch = filled(grpo(), groups(window=window))
        batch.mask[2] = 0
        own = Sequences.of(batch)
        assert torch.equal(own.scatter(own.gather(batch.old_logprobs)), batch.old_logprobs * batch.mask)


def test_a_batch_without_tokens_has_no_rows() -> None:
    batch = filled(grpo(), groups())
    batch.mask = torch.zeros_like(batch.mask)
    own = Sequences.of(batch)
    assert own.mask.shape == (0, 0) and torch.equal(own.scatter(own.gather(batch.values)), batch.mask)
