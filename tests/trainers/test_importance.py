"""What corrects for the difference of sampling and training: by exact expectations, in every method and layout."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from base_rows import START, groups
from helpers import run, small_llama
from torch import Tensor

from agent_gym.engines.base import Sampling
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.mismatch import (
    Level,
    mismatch_metrics,
)
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.replay_buffer import ReplayBuffer
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trajectory import Group, Trajectory, Turn

EXACT = UpdateSettings(learning_rate=1e-9, max_grad_norm=1e9)


def learned(
    settings: UpdateSettings, algorithm: Algorithm, made: Sequence[Group], *, tokens: int = 64, **values: Any
) -> tuple[Any, Any]:
    """Learn from groups, from the same start each time; return the learner and the metrics."""
    own = Learner(small_llama(tokens), algorithm, settings, **values)
    return own, own.learn(made, START)


def gradients(own: Learner) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in own.updater.scorer.parameters()]


def test_the_gradient_is_that_of_the_weighted_loss_written_out() -> None:
    made = groups()
    settings = replace(EXACT, importance="token", importance_cap=1.3, micro_batch_tokens=40)
    own, metrics = learned(settings, grpo(), made)
    model = small_llama()
    batch, _ = Learner(model, grpo(), EXACT).batch(made, START)
    logprobs, _ = TokenScorer(model)(batch.input_ids, batch.mask)
    proximal = logprobs.detach()
    weights = (proximal - batch.sampled_logprobs).exp().clamp(max=1.3)
    # The clipped surrogate has the gradient of the plain one where the ratio is 1.
    loss = -(weights * batch.advantages * (logprobs - proximal).exp() * batch.mask).sum() / batch.mask.sum()
    loss.backward()
    expected = [parameter.grad for parameter in model.parameters()]
    assert 0 < metrics["importance_truncated"] < 1
    for one, two in zip(gradients(own), expected, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


TOKENS = 8
"""Of the policies whose every answer is enumerated."""


@pytest.mark.parametrize("window", [False, True])
def test_the_gradient_is_the_same_where_prefixes_are_computed_once(window: bool) -> None:
    made, found = groups(window=window), []
    for shared in (False, True):
        settings = replace(EXACT, importance="turn", share_prefixes=shared)
        own, metrics = learned(settings, grpo(), made)
        found.append((gradients(own), metrics["mismatch_mean"]))
    (plain, mismatch), (shared_gradients, shared_mismatch) = found
    assert distance(shared_gradients, plain) < 1e-4
    assert shared_mismatch == pytest.approx(mismatch, rel=1e-4)


def every_answer(policy: Any, length: int) -> list[Trajectory]:
    """Return every answer of so many tokens, with the log-probabilities that a policy gives them."""
    made = []
    for answer in itertools.product(range(TOKENS), repeat=length):
        trajectory = Trajectory("t", id="-".join(map(str, answer)))
        trajectory.append_context([1, 2, 3])
        ids = torch.tensor([[1, 2, 3, *answer]])
        with torch.no_grad():
            said = policy(input_ids=ids).logits[0, 2:-1].log_softmax(-1)
        logprobs = said.gather(1, torch.tensor(answer).unsqueeze(1)).squeeze(1).tolist()
        trajectory.append_action(list(answer), logprobs, [0.0] * length)
        trajectory.turns.append(Turn("o", "t", "a", 3, 3 + length))
        made.append(trajectory)
    return made


def expected_gradient(sampler: Any, settings: UpdateSettings, length: int, **values: Any) -> list[Tensor]:
    """Return the expectation, over answers of `sampler`, of what training makes of one answer."""

    def advantages(batch: Batch, _: Tensor) -> Tensor:
        # Some number for each answer; the same one for all its tokens.
        answer = (batch.input_ids * batch.mask * torch.arange(1, batch.mask.shape[1] + 1)).sum(1, keepdim=True)
        return (answer.sin() + 0.1) * batch.mask

    def probabilities(batch: Batch) -> Tensor:
        # Each answer counts as often as it is sampled; the mean over rows becomes the expectation.
        return (
            (batch.sampled_logprobs * batch.mask).sum(1, keepdim=True).exp() * len(batch) * torch.ones_like(batch.mask)
        )

    base = replace(grpo(), advantages=(advantages,), weights=(probabilities,), aggregation="seq-mean-token-sum")
    own, _ = learned(settings, base, [Group("g", "t", every_answer(sampler, length))], tokens=TOKENS, **values)
    return gradients(own)


def distance(one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
    """Return how far gradients are from each other, relative to their size."""
    square = sum(float((a - b).square().sum()) for a, b in zip(one, two, strict=True))
    return math.sqrt(square / sum(float(b.square().sum()) for b in two))


@pytest.mark.parametrize(("level", "length"), [("token", 1), ("turn", 1), ("turn", 2)])
def test_without_a_cap_the_expected_gradient_is_the_one_on_the_policys_own_samples(level: Level, length: int) -> None:
    on_policy = expected_gradient(small_llama(TOKENS), EXACT, length)
    other = small_llama(TOKENS, seed=5)
    plain = expected_gradient(other, EXACT, length, proximal=True)
    assert distance(plain, on_policy) > 0.1
    settings = replace(EXACT, importance=level, importance_cap=math.inf)
    assert distance(expected_gradient(other, settings, length), on_policy) < 1e-4
    capped = replace(settings, importance_cap=0.5)
    assert distance(expected_gradient(other, capped, length), on_policy) > 0.05


def test_ratios_of_tokens_leave_out_that_earlier_tokens_differ_too() -> None:
    on_policy = expected_gradient(small_llama(TOKENS), EXACT, 2)
    settings = replace(EXACT, importance="token", importance_cap=math.inf)
    assert distance(expected_gradient(small_llama(TOKENS, seed=5), settings, 2), on_policy) > 0.05


def scored_rows(own: Learner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the number of rows is appended whenever some go through the policy."""
    seen: list[int] = []
    original = TokenScorer.forward

    def counted(self: TokenScorer, input_ids: Tensor, *arguments: Any, **values: Any) -> Any:
        seen.append(len(input_ids))
        return original(self, input_ids, *arguments, **values)

    monkeypatch.setattr(TokenScorer, "forward", counted)
    return seen


def sampled_by(model: Any) -> list[Group]:
    """Return two groups of answers that an engine has sampled from a model."""
    engine = TransformersEngine(model, stop_token_ids=[])
    made = []
    for group in range(2):
        members = []
        for member in range(3):
            done = run(engine.generate([3, 4, 5 + group], Sampling(4, seed=7 * group + member)))
            trajectory = Trajectory("t", id=f"g{group}e{member}")
            trajectory.append_context([3, 4, 5 + group])
            trajectory.append_action(done.token_ids, done.logprobs, done.entropies)
            trajectory.turns.append(Turn("o", "t", "a", 3, 7, reward=float(member == 0)))
            members.append(trajectory)
        made.append(Group(f"g{group}", "t", members))
    return made


def test_where_the_engine_shares_the_model_the_mismatch_is_told_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_llama()
    made = sampled_by(model)
    own = Learner(model, grpo(), EXACT)
    seen = scored_rows(own, monkeypatch)
    metrics = own.learn(made, START)
    assert sum(seen) == 6
    assert 0 <= metrics["mismatch_mean"] <= metrics["mismatch_max"] < 1e-4
    assert abs(metrics["mismatch_kl"]) < 1e-6 and metrics["effective_sample_size"] == pytest.approx(1, abs=1e-6)
    assert "importance_truncated" not in metrics


def test_only_the_first_update_tells_the_mismatch_when_nobody_asks_before() -> None:
    """The others come after weights have moved, which is no mismatch of the engine's."""
    model = small_llama()
    made = sampled_by(model)
    own = Learner(model, grpo(), replace(EXACT, learning_rate=1e-1, updates_per_step=3))
    assert own.learn(made, START)["mismatch_max"] < 1e-4


@pytest.mark.parametrize("filtered", [False, True])
def test_a_step_that_teaches_nothing_tells_the_mismatch_of_one_micro_batch(
    filtered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_llama()
    made = sampled_by(model)
    for group in made:
        for trajectory in group.trajectories:
            trajectory.turns[0].reward = 1.0
            trajectory.logprobs = [value + 0.01 for value in trajectory.logprobs]
    algorithm = (
        replace(grpo(), filters=(lambda groups, rewards: [[False] * 3 for _ in groups],)) if filtered else grpo()
    )
    own = Learner(model, algorithm, replace(EXACT, micro_batch_tokens=14, updates_per_step=3))
    seen = scored_rows(own, monkeypatch)
    metrics = own.learn(made, START)
    assert metrics["updates"] == 0 and sum(seen) == 2
    assert metrics["mismatch_mean"] == pytest.approx(0.01, rel=1e-2)


def test_asked_for_the_proximal_policy_ratios_start_from_it_and_every_row_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = groups()
    own = Learner(small_llama(), grpo(), replace(EXACT, micro_batch_tokens=40), proximal=True, record_signals=True)
    plain, _ = Learner(small_llama(), grpo(), EXACT).batch(made, START)
    with torch.no_grad():
        exact, _ = TokenScorer(small_llama())(plain.input_ids, plain.mask)
    batch, _ = own.batch(made, START)
    torch.testing.assert_close(batch.old_logprobs, exact, atol=1e-5, rtol=1e-5)
    assert torch.equal(batch.sampled_logprobs, plain.sampled_logprobs)
    metrics = own.learn(made, START)
    expected = mismatch_metrics(exact, plain.sampled_logprobs, plain.mask)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert max(abs(value) for each in own.signals.values() for value in each["log_ratio"]) < 1e-4


@pytest.mark.parametrize("proximal", [False, True])
def test_correction_that_has_nothing_to_correct_changes_no_gradient(proximal: bool) -> None:
    made = sampled_by(small_llama())
    plain, _ = learned(EXACT, grpo(), made, proximal=proximal)
    for level in ("token", "turn"):
        corrected, metrics = learned(replace(EXACT, importance=level), grpo(), made)
        assert metrics["importance_truncated"] == 0 and metrics["importance_mean"] == pytest.approx(1, abs=1e-5)
        assert distance(gradients(corrected), gradients(plain)) < 1e-4


@pytest.mark.parametrize("window", [False, True])
def test_weights_and_versions_are_signals_of_each_token(window: bool) -> None:
    made = groups(window=window)
    for group in made:
        for trajectory in group.trajectories:
            for number, turn in enumerate(trajectory.turns):
                turn.engine_version = number
    settings = replace(EXACT, importance="turn", importance_cap=1.2)
    own, _ = learned(settings, grpo(), made, record_signals=True)
    batch, _ = own.batch(made, START)
    assert 0 < float(batch.importance.min()) < 1
    told = [own.signals[trajectory.id] for group in made for trajectory in group.valid]
    assert sum(sum(each["importance"]) for each in told) == pytest.approx(float((batch.importance * batch.mask).sum()))
    assert sum(sum(each["version"]) for each in told) == float((batch.versions * batch.mask).sum())
    for trajectory in made[0].trajectories:
        version = own.signals[trajectory.id]["version"]
        assert [version[turn.start] for turn in trajectory.turns] == list(range(len(trajectory.turns)))


@pytest.mark.parametrize("name", ["spear", "epo+arpo+empg+spear", "ppo", "gigpo", "dapo"])
@pytest.mark.parametrize("level", ["token", "turn"])
def test_every_method_trains_with_corrected_losses(name: str, level: str) -> None:
    algorithm = make_algorithm(name, {})
    own = Learner(small_llama(), algorithm, replace(EXACT, importance=level, updates_per_step=2), record_signals=True)
    for _ in range(2):
        metrics = own.learn(groups(), START)
        assert all(math.isfinite(value) for value in metrics.values())
        assert 0 <= metrics["importance_truncated"] <= 1


def test_rows_that_are_replayed_keep_their_old_log_probabilities_and_their_weight() -> None:
    own = Learner(small_llama(), grpo(), replace(EXACT, importance="token"))
    batch, _ = own.batch(groups(), START)
    buffer = ReplayBuffer()
    buffer.add(batch, 0)
    again = ReplayBuffer()
    again.load_state_dict(buffer.state_dict())
    draw = again.draw(1, generator=torch.Generator().manual_seed(0))
    assert draw is not None and len(draw.rows)
    kept = [float(value) for value in draw.rows.importance[draw.rows.mask.bool()]]
    assert any(value != 1 for value in kept)
    stored = buffer.rows[0]
    for name in ("importance", "old_logprobs", "sampled_logprobs", "versions"):
        whole = getattr(stored, name)
        for row in range(len(draw.rows)):
            own_row = getattr(draw.rows, name)[row, : int(draw.rows.lengths[row])]
            assert any(torch.equal(own_row, other[: len(own_row)]) for other in whole)
    padded = draw.rows.importance[~draw.rows.mask.bool()]
    assert (padded == 1).all()
