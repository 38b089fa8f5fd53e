"""The preallocated cache and the plan of a packed forward pass."""

import pytest
import torch

from agent_gym.engines.slots import SlotCache, make_plan, slot_attention

CPU = torch.device("cpu")


def filled(slots: int, length: int) -> SlotCache:
    cache = SlotCache()
    cache.reserve(slots, length)
    key = torch.zeros(1, 2, 1, 3)
    keys, values = cache.layer(0, key, key)
    keys.copy_(torch.randn(keys.shape, generator=torch.Generator().manual_seed(0)))
    values.copy_(keys + 1)
    return cache


def test_growing_keeps_what_was_there() -> None:
    cache = filled(2, 10)
    before = cache.keys[0].clone()
    cache.reserve(5, 300)
    keys, values = cache.layer(0, torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 3))
    assert keys.shape == (8, 2, 384, 3)
    assert torch.equal(keys[:2, :, :128], before) and torch.equal(values[:2, :, :128], before + 1)
    assert (keys[2:] == 0).all()


def test_reserving_less_shrinks_nothing() -> None:
    cache = filled(4, 200)
    cache.reserve(1, 1)
    assert (cache.slots, cache.length) == (4, 256)


def test_copy_copies_the_first_tokens_and_makes_room() -> None:
    cache = filled(1, 10)
    cache.copy(0, 3, 7)
    keys = cache.keys[0]
    assert torch.equal(keys[3, :, :7], keys[0, :, :7]) and (keys[3, :, 7:] == 0).all()


def test_a_plan_lays_single_tokens_and_prompts_end_to_end() -> None:
    plan = make_plan(filled(4, 10), [(2, 5, 1), (0, 0, 3), (1, 4, 2), (3, 0, 1)], CPU)
    assert plan.slots.tolist() == [2, 0, 0, 0, 1, 1, 3]
    assert plan.positions.tolist() == [5, 0, 1, 2, 4, 5, 0]
    assert isinstance(plan.singles, torch.Tensor)
    assert plan.singles.tolist() == [0, 6] and plan.single_slots.tolist() == [2, 3]
    visible = (plan.single_mask[:, 0, 0] == 0).sum(1)
    assert visible[2] == 6 and visible[3] == 1
    first, second = plan.chunks
    assert (first.start, first.end, first.slot, first.past, first.mask) == (1, 4, 0, 0, None)
    assert (second.start, second.end, second.slot, second.past) == (4, 6, 1, 4)
    never = -torch.inf
    assert second.mask is not None and second.mask.tolist() == [[0, 0, 0, 0, 0, never], [0, 0, 0, 0, 0, 0]]


def test_single_tokens_side_by_side_need_no_gathering() -> None:
    plan = make_plan(filled(4, 10), [(1, 5, 1), (3, 0, 1), (0, 0, 3)], CPU, torch.bfloat16)
    assert plan.singles == slice(0, 2) and plan.single_slots.tolist() == [1, 3]
    assert plan.single_mask.dtype == torch.bfloat16


@pytest.mark.parametrize("asked", [{"sliding_window": 4}, {"softcap": 30.0}, {"slot_plan": None}])
def test_attention_that_is_not_computed_is_refused(asked: dict[str, object]) -> None:
    plan = make_plan(filled(1, 4), [(0, 0, 1)], CPU)
    tensor = torch.zeros(1, 2, 1, 3)
    with pytest.raises(NotImplementedError):
        slot_attention(torch.nn.Identity(), tensor, tensor, tensor, None, **{"slot_plan": plan, **asked})  # type: ignore[arg-type]
