"""Self-imitation in a run: what is replayed becomes more probable, and a resumed run goes on with the same numbers."""

import copy
import io
from typing import Any

import pytest
import torch
from helpers import small_llama, trajectory

from agent_gym.errors import TrainingError
from agent_gym.trainers.algorithm import Algorithm, Progress
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.replay_buffer import ReplayBuffer
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.self_imitation import SelfImitation
from agent_gym.trainers.spear import spear
from agent_gym.trainers.update import Updater, UpdateSettings

SETTINGS = UpdateSettings(learning_rate=1e-3, max_grad_norm=1e9)
MIXED, EQUAL = (1.0, 0, 0, 0, 1, 1, 0, 0), (0.0,) * 8


def rows(model: Any, algorithm: Algorithm, rewards: tuple[float, ...], *, seed: int = 0) -> Batch:
    """Return the rows of a step as the model would have sampled them, advantages filled."""
    made = [trajectory(2 + number % 3 + seed % 2, 1 + number % 4, seed=seed + number) for number in range(len(rewards))]
    batch = make_batch(made, rewards, [number // 4 for number in range(len(rewards))])
    with torch.no_grad():
        logprobs, _ = TokenScorer(model)(batch.input_ids, batch.mask)
    batch.old_logprobs = logprobs * batch.mask
    algorithm.fill(batch)
    return batch


def imitating(*, mode: Any = "summed", coefficient: float = 1.0, **values: Any) -> Algorithm:
    """Return GRPO with self-imitation alone, at its full weight from the start."""
    return spear(grpo(), coefficient=coefficient, warmup=0, mode=mode, tool_reward="none", clip_cov_ratio=0.0, **values)


def step(updater: Updater, algorithm: Algorithm, batch: Batch, number: int) -> dict[str, float]:
    """Make a step in the order of a run."""
    assert algorithm.replay is not None
    progress = Progress(number, 10)
    replayed = algorithm.replay.sample(progress)
    metrics = updater.step(batch, algorithm, progress, seed=0, replay=replayed)
    return metrics | dict(algorithm.replay.add(batch, progress))


def probability(model: Any, batch: Batch) -> float:
    with torch.no_grad():
        return float((TokenScorer(model)(batch.input_ids, batch.mask)[0] * batch.mask).sum())


@pytest.mark.parametrize("mode", ["summed", "alternate"])
def test_what_went_well_becomes_more_probable_in_a_step_that_teaches_nothing_itself(mode: Any) -> None:
    model, algorithm = small_llama(), imitating(mode=mode)
    updater = Updater(model, SETTINGS)
    step(updater, algorithm, rows(model, algorithm, MIXED), 0)
    replayed = algorithm.replay.sample(Progress(1, 10))  # type: ignore[union-attr]
    assert replayed is not None and len(replayed) == 3
    before = probability(model, replayed)
    metrics = step(updater, algorithm, rows(model, algorithm, EQUAL, seed=20), 1)
    assert probability(model, replayed) > before
    assert metrics["updates"] == 1 and metrics["replay_rows"] == 3 and metrics["replay_age"] == 1
    assert metrics["replay_buffer_rows"] == 3
    assert metrics["replay_baseline"] == pytest.approx(0.125)  # of 0.25, 0.5, 0, 0


def gradients(model: Any, algorithm: Algorithm, batch: Batch) -> list[torch.Tensor]:
    """Return the gradients of a step that replays what is in the algorithm's buffer."""
    model = copy.deepcopy(model)
    step(Updater(model, SETTINGS), algorithm, batch, 1)
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_the_summed_gradient_grows_with_the_weight_of_imitation() -> None:
    model, base = small_llama(), grpo()
    past, now = rows(model, base, MIXED), rows(model, base, MIXED, seed=31)
    found = {}
    for coefficient in (0.5, 1.0):
        algorithm = imitating(coefficient=coefficient)
        algorithm.replay.add(past, Progress(0, 10))  # type: ignore[union-attr]
        found[coefficient] = gradients(model, algorithm, now)
    plain = gradients(model, imitating(), now)  # nothing in the buffer
    for none, half, whole in zip(plain, found[0.5], found[1.0], strict=True):
        torch.testing.assert_close(half - none, (whole - none) / 2, atol=1e-6, rtol=1e-4)
    assert any(not torch.allclose(none, whole) for none, whole in zip(plain, found[1.0], strict=True))


def test_alternating_steps_come_after_the_others_and_a_summed_one_among_them() -> None:
    for mode, updates in (("alternate", 2), ("summed", 1)):
        model, algorithm = small_llama(), imitating(mode=mode)
        updater = Updater(model, SETTINGS)
        assert step(updater, algorithm, rows(model, algorithm, MIXED), 0)["updates"] == 1
        metrics = step(updater, algorithm, rows(model, algorithm, MIXED, seed=31), 1)
        assert metrics["updates"] == updates and "replay_clip_fraction" in metrics


def test_every_replayed_token_weighs_what_imitation_weighs() -> None:
    model = small_llama()
    algorithm = spear(grpo(), coefficient=0.8, warmup=4)
    algorithm.replay.add(rows(model, algorithm, MIXED), Progress(0, 10))  # type: ignore[union-attr]
    sampled = algorithm.replay.sample(Progress(1, 10))  # type: ignore[union-attr]
    assert sampled is not None
    assert (sampled.weights == 0.4).all()  # t = 2 of 4
    assert (sampled.advantages[sampled.mask.bool()] > 0).all()


def test_nothing_is_replayed_from_an_empty_buffer_below_the_baseline_or_without_weight() -> None:
    model, algorithm = small_llama(), imitating()
    replay = algorithm.replay
    assert replay is not None and replay.sample(Progress(0, 10)) is None
    metrics = replay.add(rows(model, algorithm, EQUAL), Progress(0, 10))
    assert replay.sample(Progress(1, 10)) is None
    assert metrics["replay_rows"] == 0 and "replay_age" not in metrics
    idle = SelfImitation(ReplayBuffer(), weight=lambda step: 0.0)
    idle.add(rows(model, algorithm, MIXED), Progress(0, 10))
    assert idle.sample(Progress(1, 10)) is None


@pytest.mark.parametrize(("limit", "expected"), [(None, 2), (1, 1), (9, 3)])
def test_no_more_rows_are_replayed_than_the_step_before_has_brought_or_than_are_asked_for(
    limit: int | None, expected: int
) -> None:
    model, algorithm = small_llama(), imitating(replay_rows=limit)
    replay = algorithm.replay
    assert replay is not None
    replay.add(rows(model, algorithm, MIXED), Progress(0, 10))
    replay.add(rows(model, algorithm, (0.0, 0.0), seed=5), Progress(1, 10))
    sampled = replay.sample(Progress(2, 10))
    assert sampled is not None and len(sampled) == expected


def test_which_rows_are_replayed_follows_from_the_seed_and_the_step() -> None:
    model, algorithm = small_llama(), grpo()
    batch = rows(model, algorithm, (1.0, 0) * 16)

    def chosen(seed: int, number: int) -> list[list[int]]:
        replay = SelfImitation(ReplayBuffer(), weight=lambda step: 1.0, rows=4, seed=seed)
        replay.add(batch, Progress(0, 10))
        torch.rand(3)  # other draws change nothing
        sampled = replay.sample(Progress(number, 10))
        assert sampled is not None
        return [row[:length].tolist() for row, length in zip(sampled.input_ids, sampled.lengths.tolist(), strict=True)]

    assert chosen(0, 1) == chosen(0, 1)
    assert len({str(chosen(seed, number)) for seed in (0, 1) for number in (1, 2)}) == 4


@pytest.mark.parametrize(("mode", "limit"), [("summed", 2), ("alternate", None)])
def test_a_resumed_run_goes_on_with_the_same_numbers(mode: Any, limit: int | None) -> None:
    def fresh() -> Algorithm:
        return spear(grpo(), warmup=3, mode=mode, replay_rows=limit, clip_cov_ratio=0.2, clip_cov_low=0.0)

    def steps(model: Any, updater: Updater, algorithm: Algorithm, numbers: range) -> list[dict[str, float]]:
        return [
            step(updater, algorithm, rows(model, algorithm, MIXED[n:] + MIXED[:n], seed=10 * n), n) for n in numbers
        ]

    model, algorithm = small_llama(), fresh()
    updater = Updater(model, SETTINGS)
    steps(model, updater, algorithm, range(2))
    file = io.BytesIO()
    torch.save({"algorithm": algorithm.state_dict(), "optimizer": updater.state_dict()}, file)
    file.seek(0)
    twin, resumed = copy.deepcopy(model), fresh()
    expected = steps(model, updater, algorithm, range(2, 4))
    saved = torch.load(file, weights_only=True)
    resumed.load_state_dict(saved["algorithm"])
    later = Updater(twin, SETTINGS)
    later.load_state_dict(saved["optimizer"])
    assert steps(twin, later, resumed, range(2, 4)) == expected
    assert expected[0]["replay_rows"] == (limit or 6)
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


def test_rows_of_another_model_are_refused() -> None:
    one, two = imitating(), imitating()
    assert isinstance(one.replay, SelfImitation) and isinstance(two.replay, SelfImitation)
    one.replay.bind("llama, 64 tokens")
    two.replay.bind("gpt2, 50257 tokens")
    with pytest.raises(TrainingError, match="another model"):
        two.load_state_dict(one.state_dict())
