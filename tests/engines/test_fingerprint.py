"""Sums over weights: blind to how an engine keeps them, and not to the smallest update."""

from typing import Any

import pytest
import torch
from helpers import small_llama
from torch import Tensor, nn

from agent_gym.engines.fingerprint import Arrival, WeightSums, model_sums, same
from agent_gym.errors import EngineError
from agent_gym.trainers.weights import named_weights


def sums_of(weights: Any, dtype: torch.dtype | None = None) -> WeightSums:
    sums = WeightSums(dtype)
    for _ in sums.passing(weights):
        pass
    return sums


def some_weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.02 * torch.randn(300, 257, generator=generator) for name in "qkv"}


def kept(tensors: list[Tensor]) -> list[float]:
    """Return the fingerprint of a model that keeps its weights like this."""
    return model_sums(nn.ParameterList([nn.Parameter(tensor) for tensor in tensors]))


def test_fused_padded_and_turned_weights_are_the_same() -> None:
    weights = some_weights()
    given = sums_of(weights.items())
    fused = torch.cat([*weights.values(), torch.zeros(64, 257)])
    assert given.tensors == 3
    assert same(given.sums, kept([fused]))
    assert same(given.sums, kept([fused.T.contiguous().T, torch.zeros(5)]))
    assert not same(given.sums, kept([fused[:600]]))


@pytest.mark.parametrize("relative", [1e-6, -1e-6])
def test_a_change_of_every_weight_by_a_millionth_of_itself_shows(relative: float) -> None:
    weights = some_weights()
    signs = torch.randint(0, 2, (300, 257), generator=torch.Generator().manual_seed(1)) * 2 - 1
    for change in (relative, relative * signs):
        moved = {name: tensor.double() * (1 + change) for name, tensor in weights.items()}
        before = {name: tensor.clone() for name, tensor in moved.items()}
        assert not same(sums_of(weights.items()).sums, sums_of(moved.items()).sums)
        assert all(torch.equal(tensor, before[name]) for name, tensor in moved.items()), "adding up changed them"


def test_the_engines_type_counts_and_so_does_the_one_that_weights_come_in() -> None:
    weights = some_weights()
    given = sums_of(weights.items(), torch.bfloat16)
    assert same(given.cast, kept([tensor.bfloat16() for tensor in weights.values()]))
    assert same(given.sums, kept(list(weights.values())))
    assert not same(given.cast, given.sums)


def test_a_matrix_with_two_names_counts_once_and_equal_vectors_do_not() -> None:
    model = small_llama(40)
    model.lm_head.weight = model.model.embed_tokens.weight
    assert same(sums_of(model.state_dict().items()).sums, model_sums(model))
    assert same(sums_of(named_weights(model)).sums, model_sums(model))
    assert sums_of([("one", torch.ones(3)), ("other", torch.ones(3))]).sums[0] == 6


def test_weights_that_are_no_numbers_are_the_same_on_both_sides() -> None:
    broken = [("a", torch.full((3, 3), torch.nan))]
    assert same(sums_of(broken).sums, sums_of(broken).sums)
    assert not same(sums_of(broken).sums, sums_of(some_weights().items()).sums)


def test_an_engine_that_keeps_what_it_had_is_found_out_whether_it_keeps_weights_as_they_come_or_not() -> None:
    old, new = ([1.0, 2.0, 5.0], [1.0 + 1e-9, 2.0, 5.0])
    plain = Arrival("The engine")
    plain.check(old, old)
    plain.check(new, [*new[:2], 9.0])
    with pytest.raises(EngineError, match="The engine has taken new weights and does not hold them"):
        plain.check(old, new)
    spread = Arrival("The engine")
    spread.check(old, [3.0, 6.0, 7.0])
    spread.check(old, [3.0, 6.0, 7.0])
    spread.check(new, [3.0 + 2e-9, 6.0, 7.0])
    with pytest.raises(EngineError, match="does not hold them"):
        spread.check(old, [3.0 + 2e-9, 6.0, 7.0])
