"""Optimisers by name: which parameters go where, and that their state can be saved."""

import copy
from typing import Any

import pytest
import torch
from helpers import small_gpt2, small_llama

from agent_gym.errors import UnknownIdError
from agent_gym.trainers import optimizers
from agent_gym.trainers.optimizers import BatchedMuon, MuonAndAdamW, make_optimizer, orthogonalize


def train(model: Any, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        ids = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(name: Any) -> None:
    model = small_llama()
    optimizer = make_optimizer(name, model, learning_rate=1e-2, weight_decay=0.01)
    train(model, optimizer, range(3))
    twin, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, range(3, 6))
    resumed = make_optimizer(name, twin, learning_rate=1e-2, weight_decay=0.01)
    resumed.load_state_dict(state)
    train(twin, resumed, range(3, 6))
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_learning_rate_can_be_set_through_param_groups_even_after_loading(name: Any) -> None:
    model = small_llama()
    optimizer = make_optimizer(name, model, learning_rate=1e-2)
    train(model, optimizer, range(1))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = copy.deepcopy(model.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, range(1, 2))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("make", [small_llama, small_gpt2])
def test_muon_gets_the_matrices_of_the_layers_and_adamw_everything_else(make: Any) -> None:
    model = make()
    optimizer = make_optimizer("muon", model, learning_rate=1e-2)
    assert isinstance(optimizer, MuonAndAdamW)
    matrices, others = ([id(p) for group in [part] for p in group["params"]] for part in optimizer.param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all("layers." in names[i] or ".h." in names[i] for i in matrices) and len(matrices) >= 8
    assert {model.get_input_embeddings().weight.shape} <= {p.shape for p in optimizer.param_groups[1]["params"]}
    assert set(matrices).isdisjoint(others) and len(matrices) + len(others) == len(list(model.parameters()))


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 24, 60), (2, 60, 24)])
def test_orthogonalizing_keeps_singular_vectors_and_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    rotated = left.mT @ orthogonalize(matrices, steps=8) @ right.mT
    values = rotated.diagonal(dim1=1, dim2=2)
    assert torch.allclose(rotated, torch.diag_embed(values), atol=1e-4)
    assert values.min() > 0.65 and values.max() < 1.25


def test_batched_muon_makes_the_steps_of_torchs_muon() -> None:
    shapes = [(24, 24), (24, 60), (60, 24), (24, 60)]
    ours, theirs = ([torch.nn.Parameter(torch.zeros(shape)) for shape in shapes] for _ in range(2))
    arguments: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = BatchedMuon(ours, **arguments), torch.optim.Muon(theirs, **arguments)
    for step in range(3):
        for number, (one, two) in enumerate(zip(ours, theirs, strict=True)):
            # Singular values of one size: what torch rounds to the 8 bits of bfloat16 then stays small.
            generator = torch.Generator().manual_seed(10 * step + number)
            left, _, right = torch.linalg.svd(torch.randn(one.shape, generator=generator), full_matrices=False)
            one.grad, two.grad = left @ right, left @ right
        for optimizer in optimizers:
            optimizer.step()
    for one, two in zip(ours, theirs, strict=True):
        assert (one - two).norm() <= 0.03 * two.norm()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_frozen_parameters_are_left_alone_and_the_others_move(name: Any) -> None:
    model = small_llama()
    frozen = model.model.layers[0].self_attn.q_proj.weight
    frozen.requires_grad_(False)
    before = copy.deepcopy(dict(model.named_parameters()))
    train(model, make_optimizer(name, model, learning_rate=1e-2), range(1))
    still = [key for key, value in model.named_parameters() if torch.equal(before[key], value)]
    assert still == ["model.layers.0.self_attn.q_proj.weight"]


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'adamw'"):
        make_optimizer("adam", small_llama(), learning_rate=1.0)  # type: ignore[arg-type]


# -- weights of 16 bits ------------------------------------------------------------------------------------------------


def moved(model: Any, before: dict[str, torch.Tensor]) -> float:
    """Return the share of the weights that are not what they were."""
    changed = sum(int((value != before[name]).sum()) for name, value in model.named_parameters())
    return changed / sum(value.numel() for value in before.values())


def test_updates_too_small_for_bfloat16_add_up_in_float32() -> None:
    model = small_llama().bfloat16()
    plain = copy.deepcopy(model)
    exact = copy.deepcopy(model).float()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizers = (
        make_optimizer("adamw", model, learning_rate=1e-5),
        torch.optim.AdamW(plain.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0),
        make_optimizer("adamw", exact, learning_rate=1e-5),
    )
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(parameter.shape, generator=generator) for parameter in exact.parameters()]
    for _ in range(60):
        for one, optimizer in zip((model, plain, exact), optimizers, strict=True):
            for parameter, gradient in zip(one.parameters(), gradients, strict=True):
                parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    assert moved(plain, before) < 0.1 < 0.4 < moved(model, before)
    for mine, right in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine.float(), right, atol=1e-5, rtol=2**-8)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_resumed_optimizer_of_bfloat16_goes_on_bit_for_bit(name: Any) -> None:
    model = small_llama().bfloat16()
    optimizer = make_optimizer(name, model, learning_rate=1e-4)
    train(model, optimizer, range(3))
    twin, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, range(3, 6))
    resumed = make_optimizer(name, twin, learning_rate=1e-4)
    resumed.load_state_dict(state)
    train(twin, resumed, range(3, 6))
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_learning_rate_of_bfloat16_is_set_through_param_groups() -> None:
    model = small_llama().bfloat16()
    optimizer = make_optimizer("adamw", model, learning_rate=1e-2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = {name: value.clone() for name, value in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, range(1))
    assert moved(model, before) == 0
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_in_buckets_every_weight_makes_the_step_that_it_makes_at_once(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer is in float32 and has no copy; it is stepped once, too, and keeps its gradients."""
    found = []
    for elements in (1 << 26, 1, 3000):
        monkeypatch.setattr(optimizers, "STEP_ELEMENTS", elements)
        model = small_llama().bfloat16()
        model.model.norm.float()
        optimizer = make_optimizer(name, model, learning_rate=1e-2, weight_decay=0.1)
        for _ in range(3):
            generator = torch.Generator().manual_seed(0)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            optimizer.step()
        assert all(parameter.grad is not None for parameter in model.parameters())
        found.append([parameter.detach().float() for parameter in model.parameters()])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=2**-7)
