"""The critic: where its values stand, what it learns, what it keeps."""

import copy
from typing import Any

import pytest
import torch
from base_rows import START, filled, groups
from helpers import small_gpt2, small_llama, small_qwen3

from agent_gym.errors import TrainingError
from agent_gym.trainers.algorithm import CriticSettings, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.critic import Critic
from agent_gym.trainers.grpo import grpo


def batch(window: bool = False) -> Batch:
    """Return rows whose returns are the reward of their trajectory."""
    rows = filled(grpo(), groups(window=window))
    rows.returns = rows.rewards.unsqueeze(1) * rows.mask
    return rows


def critic(**settings: Any) -> Critic:
    return Critic(small_llama(), CriticSettings(**({"learning_rate": 1e-2} | settings)))


def stirred(**settings: Any) -> Critic:
    """Return a critic whose head is not 0."""
    made = critic(**settings)
    with torch.no_grad():
        made.model.head.weight.copy_(torch.randn(1, 32, generator=torch.Generator().manual_seed(0)))
    return made


def test_nothing_is_expected_at_first() -> None:
    assert torch.equal(critic().values(batch()), torch.zeros_like(batch().mask))


def test_the_value_of_a_token_follows_from_those_before_it_alone() -> None:
    rows, made = batch(), stirred()
    values = made.values(rows)
    assert (values[rows.mask == 0] == 0).all() and (values[rows.mask == 1] != 0).all()
    row, column = (int(index[0]) for index in rows.mask.nonzero(as_tuple=True))
    rows.input_ids[row, column] += 1
    changed = made.values(rows)
    assert torch.equal(changed[row, column], values[row, column])
    assert (changed[row, column + 1 :] != values[row, column + 1 :])[rows.mask[row, column + 1 :] == 1].all()
    assert torch.equal(changed[:row], values[:row]) and torch.equal(changed[row + 1 :], values[row + 1 :])


def test_the_policy_is_neither_shared_nor_changed() -> None:
    model = small_llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Critic(model, CriticSettings(learning_rate=1.0)).step(batch(), START, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_learns_what_it_is_given() -> None:
    rows, made = batch(), critic(clip=10.0)
    errors = []
    for _ in range(40):
        rows.values = made.values(rows)
        metrics = made.step(rows, START, seed=0)
        errors.append(metrics["value_error"])
    assert errors[-1] < 0.1 * errors[0]
    assert metrics["value_explained"] > 0.8 and 0 <= metrics["value_clip_fraction"] <= 1


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    results = []
    for tokens in (16384, 8):
        made = Critic(small_llama(), CriticSettings(learning_rate=1e-3, max_grad_norm=1e9), micro_batch_tokens=tokens)
        metrics = made.step(batch(window=True), START, seed=0)
        results.append((metrics, made.model.state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    for name, value in results[0][1].items():
        torch.testing.assert_close(value, results[1][1][name], atol=1e-5, rtol=1e-4)


def test_the_gradient_is_that_of_the_mean_over_all_tokens() -> None:
    rows, made = batch(), stirred(clip=1e9)
    rows.values = made.values(rows)
    made.model.zero_grad()
    losses = 0.5 * (made.model(rows.input_ids, rows.mask) - rows.returns) ** 2
    (losses.sum() / rows.mask.sum()).backward()
    expected = torch.stack([value.grad.norm() for value in made.model.parameters()]).norm()
    metrics = made.step(rows, START, seed=0)
    assert metrics["critic_grad_norm"] == pytest.approx(float(expected), rel=1e-4)
    assert metrics["value_loss"] == pytest.approx(float(losses.detach().sum() / rows.mask.sum()), rel=1e-4)


def test_a_step_makes_as_many_updates_as_it_is_told_to() -> None:
    for updates in (1, 3):
        made = critic(updates_per_step=updates)
        made.step(batch(), START, seed=0)
        assert int(made.state_dict()["optimizer"]["state"][0]["step"]) == updates


def test_the_learning_rate_rises_over_the_warm_up() -> None:
    made = critic(warmup_steps=4)
    rates = []
    for step in range(6):
        made.step(batch(), Progress(step, 10), seed=0)
        rates.append(made.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_a_resumed_critic_goes_on_as_if_nothing_had_been() -> None:
    rows = batch()
    straight = critic()
    straight.step(rows, START, seed=0)
    resumed = critic()
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert torch.equal(resumed.values(rows), straight.values(rows))
    for each in (straight, resumed):
        each.step(rows, START, seed=1)
    assert torch.equal(resumed.values(rows), straight.values(rows))


@pytest.mark.parametrize("make", [small_gpt2, small_qwen3], ids=["gpt2", "qwen3"])
def test_other_architectures_have_critics_too(make: Any) -> None:
    made = Critic(make(), CriticSettings(learning_rate=1e-2))
    first = made.step(batch(), START, seed=0)
    assert made.step(batch(), START, seed=0)["value_error"] < first["value_error"]


def test_what_is_not_finite_is_refused_and_changes_nothing() -> None:
    made, rows = critic(), batch()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    rows.returns[0] = torch.inf
    with pytest.raises(TrainingError, match="A return is not finite"):
        made.step(rows, START, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())


def test_a_model_without_a_backbone_is_refused() -> None:
    with pytest.raises(TrainingError, match="LlamaModel has no backbone"):
        Critic(small_llama().base_model, CriticSettings())


def test_returns_that_are_all_equal_leave_nothing_to_explain() -> None:
    rows = batch()
    rows.returns = rows.mask.clone()
    assert critic().step(rows, START, seed=0)["value_explained"] == 0.0
