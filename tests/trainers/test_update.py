"""Optimiser steps: independent of how a batch is cut, honest about what is not finite, and resumable."""

import copy
from dataclasses import replace
from typing import Any, Literal, get_args

import pytest
import torch
from helpers import small_llama, trajectory

from agent_gym.errors import TrainingError
from agent_gym.trainers.algorithm import Algorithm, Progress
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.policy_loss import Aggregation
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.update import Updater, UpdateSettings, learning_rate_share

SETTINGS = UpdateSettings(learning_rate=1e-2, max_grad_norm=1e9)
START = Progress(0, 10)
SGD_LIKE = replace(SETTINGS, learning_rate=1e-3)


REWARDS = (1.0, 0, 0, 1, 1, 0, 0, 0)


def batch(model: Any, rewards: tuple[float, ...] = REWARDS, algorithm: Algorithm | None = None) -> Batch:
    """Return rows of different lengths, sampled a little off the model's policy, advantages filled."""
    made = [trajectory(2 + 3 * number, 1 + number % 4, seed=number) for number in range(len(rewards))]
    rows = make_batch(made, rewards, [number // 4 for number in range(len(rewards))])
    with torch.no_grad():
        logprobs, _ = TokenScorer(model)(rows.input_ids, rows.mask)
    noise = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(0))
    rows.old_logprobs = (logprobs + 0.1 * noise) * rows.mask
    (algorithm or grpo()).fill(rows)
    return rows


def step(
    settings: UpdateSettings, algorithm: Algorithm, make: Any = batch, **values: Any
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Make one step from the same start; return the weights and the metrics."""
    model = small_llama()
    metrics = Updater(model, settings).step(make(model, algorithm=algorithm, **values), algorithm, START, seed=0)
    return model.state_dict(), metrics


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], atol=atol, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


def gradient(settings: UpdateSettings, algorithm: Algorithm, rows: Batch, model: Any) -> list[torch.Tensor]:
    """Return the gradients of the last update of a step."""
    Updater(model, settings).step(rows, algorithm, START, seed=0)
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("mode", get_args(Aggregation))
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.05])
def test_the_size_of_micro_batches_changes_nothing(mode: Aggregation, entropy_coefficient: float) -> None:
    algorithm = grpo(aggregation=mode, loss_scale=64.0, entropy_coefficient=entropy_coefficient)
    model = small_llama()
    rows = batch(model, algorithm=algorithm)
    grads = []
    for tokens in (64, 100_000):
        settings = replace(SETTINGS, micro_batch_tokens=tokens)
        grads.append(gradient(settings, algorithm, rows, copy.deepcopy(model)))
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)
    weights, metrics = zip(
        *(step(replace(SGD_LIKE, micro_batch_tokens=tokens), algorithm) for tokens in (64, 100_000)), strict=True
    )
    # Adam divides by the gradient's size, so that its first step amplifies rounding where a gradient is almost 0.
    for key, value in weights[0].items():
        assert float((value - weights[1][key]).abs().quantile(0.99)) < 1e-6
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[0].items():
        assert value == pytest.approx(metrics[1][name], abs=1e-5), name


def test_rows_without_advantage_are_left_out_and_the_gradient_is_that_of_all_rows() -> None:
    model, rewards = small_llama(), (1.0, 0, 0, 1, 1, 1, 1, 1)
    rows = batch(model, rewards)
    scored: list[int] = []

    class Term:
        """The same loss, which asks for entropy and so has every row computed."""

        needs_entropy_gradient = True
        needs_every_row = True
        aggregation = None

        def __init__(self) -> None:
            self.inner = grpo().losses[0]

        def __call__(self, *arguments: Any) -> torch.Tensor:
            scored.append(len(arguments[0]))
            return self.inner(*arguments)

        def metrics(self, *arguments: Any) -> Any:
            return {}

    skipped = gradient(SETTINGS, grpo(), rows, copy.deepcopy(model))
    everything = gradient(SETTINGS, replace(grpo(), losses=(Term(),)), rows, copy.deepcopy(model))
    assert sum(scored) == 8
    for one, two in zip(skipped, everything, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_a_batch_without_any_advantage_makes_no_update() -> None:
    model = small_llama()
    before = copy.deepcopy(model.state_dict())
    metrics = Updater(model, SETTINGS).step(batch(model, (1.0,) * 8), grpo(), START, seed=0)
    assert metrics["updates"] == 0 and "loss" not in metrics
    assert_same(before, model.state_dict())


@pytest.mark.parametrize(("rows", "updates"), [(8, 1), (8, 4), (9, 4), (7, 5), (3, 8)])
def test_a_step_makes_as_many_updates_as_it_is_told_and_uses_every_row_once(rows: int, updates: int) -> None:
    model, algorithm = small_llama(), grpo(entropy_coefficient=0.01)
    settings = replace(SETTINGS, updates_per_step=updates)
    updater, sizes = Updater(model, settings), []
    original = updater._stream
    updater._stream = lambda b, r, *rest: sizes.append(r.tolist()) or original(b, r, *rest)  # type: ignore[method-assign]
    rewards = tuple(float(number % 3 == 0) for number in range(rows))
    metrics = updater.step(batch(model, rewards), algorithm, START, seed=0)
    assert metrics["updates"] == min(rows, updates)
    assert sorted(row for part in sizes for row in part) == list(range(rows))
    assert max(map(len, sizes)) - min(map(len, sizes)) <= 1


def test_a_positive_advantage_makes_its_tokens_more_probable_and_a_negative_one_less() -> None:
    model = small_llama()
    rows = batch(model)
    scorer = TokenScorer(model)
    with torch.no_grad():
        before = (scorer(rows.input_ids, rows.mask)[0] * rows.advantages).sum()
    Updater(model, SETTINGS).step(rows, grpo(), START, seed=0)
    with torch.no_grad():
        assert (scorer(rows.input_ids, rows.mask)[0] * rows.advantages).sum() > before


def test_an_entropy_bonus_raises_the_entropy_and_a_negative_one_lowers_it() -> None:
    entropies = {}
    for coefficient in (1.0, -1.0, 0.0):
        model, algorithm = small_llama(), grpo(entropy_coefficient=coefficient)
        rows = batch(model, (1.0,) * 8, algorithm)
        Updater(model, replace(SETTINGS, learning_rate=1e-3)).step(rows, algorithm, START, seed=0)
        with torch.no_grad():
            entropies[coefficient] = float(TokenScorer(model)(rows.input_ids, rows.mask)[1].sum())
    assert entropies[1.0] > entropies[0.0] > entropies[-1.0]


@pytest.mark.parametrize("spoil", ["old_logprobs", "advantages", "weights"])
def test_a_loss_that_is_not_finite_is_an_error_and_the_weights_stay(spoil: str) -> None:
    model = small_llama()
    rows = batch(model)
    row, column = rows.mask.nonzero()[3].tolist()
    getattr(rows, spoil)[row, column] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match="not finite"):
        Updater(model, SETTINGS).step(rows, grpo(), START, seed=0)
    assert_same(before, model.state_dict())


def test_a_gradient_that_is_not_finite_is_an_error_and_the_weights_stay() -> None:
    model = small_llama()
    rows = batch(model)
    updater = Updater(model, SETTINGS)
    model.model.norm.weight.register_hook(lambda grad: grad * float("inf"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match="gradient is not finite"):
        updater.step(rows, grpo(), START, seed=0)
    assert_same(before, model.state_dict())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_updater_goes_on_bit_for_bit(optimizer: Any) -> None:
    settings = replace(SETTINGS, optimizer=optimizer, updates_per_step=2, final_learning_rate=0.1)
    model = small_llama()
    updater = Updater(model, settings)
    updater.step(batch(model), grpo(), Progress(0, 4), seed=1)
    twin, state = copy.deepcopy(model), copy.deepcopy(updater.state_dict())
    updater.step(batch(model), grpo(), Progress(1, 4), seed=1)
    resumed = Updater(twin, settings)
    resumed.load_state_dict(state)
    resumed.step(batch(twin), grpo(), Progress(1, 4), seed=1)
    assert_same(model.state_dict(), twin.state_dict())


def test_the_learning_rate_falls_to_its_share() -> None:
    model = small_llama()
    updater = Updater(model, replace(SETTINGS, final_learning_rate=0.1))
    rates = []
    for number in (0, 5, 10):
        updater.step(batch(model, (1.0,) * 8), grpo(), Progress(number, 10), seed=0)
        rates.append(updater.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 5.5e-3, 1e-3])


def test_the_learning_rate_rises_first_and_falls_along_a_cosine() -> None:
    settings = replace(SETTINGS, warmup=0.25, schedule="cosine", final_learning_rate=0.2)
    shares = [learning_rate_share(settings, Progress(number, 8)) for number in range(9)]
    assert shares[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert shares[5] == pytest.approx(0.6) and shares[8] == pytest.approx(0.2)
    assert shares[2:] == sorted(shares[2:], reverse=True)


def test_mini_batches_have_so_many_rows_at_most() -> None:
    model, algorithm = small_llama(), grpo(entropy_coefficient=0.01)
    metrics = Updater(model, replace(SETTINGS, mini_batch_rows=3)).step(batch(model), algorithm, START, seed=0)
    assert metrics["updates"] == 3


def test_what_shared_prefixes_spare_is_logged() -> None:
    made = [trajectory(6, 2, seed=1), trajectory(6, 2, seed=1), trajectory(6, 2, seed=2)]
    rows = make_batch(made, [1, 0, 0], [0, 0, 0])
    grpo().fill(rows)
    settings = replace(SETTINGS, share_prefixes=True)
    metrics = Updater(small_llama(), settings).step(rows, grpo(), START, seed=0)
    # Two rows of 16 tokens are equal; the third has its own.
    assert metrics["tokens_spared"] == pytest.approx(1 / 3, abs=0.03)
    assert "tokens_spared" not in Updater(small_llama(), SETTINGS).step(rows, grpo(), START, seed=0)


class Again:
    """A replay that trains on given rows."""

    def __init__(self, mode: Literal["alternate", "summed"]) -> None:
        self.mode = mode

    def bind(self, fingerprint: str) -> None:
        pass

    def sample(self, progress: Progress) -> Batch | None:
        return None

    def add(self, batch: Batch, progress: Progress) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def replaying(mode: Literal["alternate", "summed"], weight: float = 1.0) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Make one step with four replayed rows; return its metrics and the gradients of its last update."""
    model = small_llama()
    rows = batch(model)
    replayed = rows.select(torch.arange(4))
    replayed.weights = replayed.weights * weight
    algorithm = replace(grpo(), replay=Again(mode), replay_losses=grpo().losses)
    metrics = Updater(model, SETTINGS).step(rows, algorithm, START, seed=0, replay=replayed)
    return metrics, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_replayed_rows_get_updates_of_their_own_or_a_summand_of_the_loss() -> None:
    model = small_llama()
    rows = batch(model)
    alone = gradient(SETTINGS, grpo(), rows, copy.deepcopy(model))
    four = gradient(SETTINGS, grpo(), rows.select(torch.arange(4)), copy.deepcopy(model))
    assert replaying("alternate")[0]["updates"] == 2
    metrics, summed = replaying("summed", weight=0.5)
    assert metrics["updates"] == 1 and metrics["replay_entropy"] > 0
    for one, two, both in zip(alone, four, summed, strict=True):
        torch.testing.assert_close(one + 0.5 * two, both, atol=1e-6, rtol=1e-4)
    for one, both in zip(alone, replaying("summed", weight=0.0)[1], strict=True):
        torch.testing.assert_close(one, both, atol=1e-7, rtol=1e-5)


def test_metrics_are_means_over_the_tokens() -> None:
    model = small_llama()
    rows = batch(model)
    with torch.no_grad():
        logprobs, entropy = TokenScorer(model)(rows.input_ids, rows.mask)
    _, metrics = step(replace(SETTINGS, micro_batch_tokens=64), grpo())
    count = rows.mask.sum()
    assert metrics["entropy"] == pytest.approx(float(entropy.sum() / count), rel=1e-4)
    assert metrics["kl"] == pytest.approx(float((rows.old_logprobs - logprobs).sum() / count), rel=1e-3)
    mismatch = ((rows.sampled_logprobs - logprobs).abs() * rows.mask).sum() / count
    assert metrics["mismatch_mean"] == pytest.approx(float(mismatch), rel=1e-3)
    assert metrics["grad_norm"] > 0 and 0 <= metrics["clip_fraction"] <= 1


def test_a_row_in_which_nothing_was_generated_adds_nothing() -> None:
    from agent_gym.trajectory import Trajectory

    model, algorithm = small_llama(), grpo(entropy_coefficient=0.01)
    silent = Trajectory("task")
    silent.append_context([3] * 40)
    rows = make_batch([trajectory(4, 2, seed=1), trajectory(4, 2, seed=2), silent], [1, 0, 0], [0, 0, 0])
    algorithm.fill(rows)
    metrics = Updater(model, replace(SETTINGS, micro_batch_tokens=40)).step(rows, algorithm, START, seed=0)
    assert all(value == value for value in metrics.values()), metrics
