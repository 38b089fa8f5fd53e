"""EPO in training: what its gradient does, what it equals at its identities, and that it survives a restart."""

import copy
import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_llama, trajectory
from torch import Tensor

from agent_gym.errors import ConfigError, TrainingError, UnknownIdError
from agent_gym.trainers.algorithm import Algorithm, Progress
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.epo import epo
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.policy_loss import aggregate
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.update import Updater, UpdateSettings
from agent_gym.trajectory import Group

SETTINGS = UpdateSettings(learning_rate=1e-3, max_grad_norm=1e9)
SECOND = Progress(1, 10)


def rows_of(model: Any, algorithm: Algorithm) -> Batch:
    """Return eight rows of two turns, sampled by the model itself, advantages filled."""
    made = [trajectory(2 + number, 1 + number % 4, seed=number) for number in range(8)]
    rows = make_batch(made, [1.0, 0, 0, 1, 1, 0, 0, 0], [number // 4 for number in range(8)])
    with torch.no_grad():
        rows.old_logprobs, rows.entropies = TokenScorer(model)(rows.input_ids, rows.mask)
    algorithm.fill(rows)
    return rows


def after(algorithm: Algorithm, *, seen: list[float] | None = None, settings: UpdateSettings = SETTINGS) -> Any:
    """Return weights, metrics and mean entropy after the second step; `seen` is what the history holds before it."""
    model = small_llama()
    for controller in algorithm.controllers:
        controller.load_state_dict({"steps": [seen] if seen else []})
    rows = rows_of(model, algorithm)
    metrics = Updater(model, settings).step(rows, algorithm, SECOND, seed=0)
    with torch.no_grad():
        entropy = TokenScorer(model)(rows.input_ids, rows.mask)[1].sum() / rows.mask.sum()
    return model.state_dict(), metrics, float(entropy)


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, two[key]) for key, value in one.items())


LOW = [0.1]
"""A history far below the small model's entropy of more than 2 nats, so that every token lies above the corridor."""


def test_a_coefficient_of_0_trains_like_the_base_bit_for_bit_and_logs_the_corridor() -> None:
    algorithm = epo(grpo(), coefficient=0.0)
    base, ours = after(grpo()), after(algorithm, seen=LOW)
    assert_same(base[0], ours[0])
    assert base[1] == ours[1]
    logged = algorithm.controllers[0].update(SECOND, rows_of(small_llama(), algorithm), {})
    assert logged["corridor_high"] == pytest.approx(0.2) and logged["above_corridor"] > 0.9


def test_without_smoothing_or_before_the_first_step_it_is_a_plain_bonus_bit_for_bit() -> None:
    plain = after(grpo(entropy_coefficient=0.01))
    for algorithm, seen in (
        (epo(grpo(), coefficient=0.01, smoothing=0.0, bonus_aggregation=None), LOW),
        (epo(grpo(), coefficient=0.01, smoothing=0.5, bonus_aggregation=None), None),
    ):
        ours = after(algorithm, seen=seen)
        assert_same(plain[0], ours[0])
        assert plain[1] == ours[1]


def test_turns_count_the_same_whatever_their_length() -> None:
    base, ours = after(grpo())[1]["loss"], after(epo(grpo(), coefficient=0.1))[1]["loss"]
    rows = rows_of(small_llama(), grpo())
    turns = [rows.entropies[row][rows.turns[row] == turn].mean() for row in range(len(rows)) for turn in range(2)]
    mean = float(torch.stack(turns).mean())
    assert mean != pytest.approx(float(rows.entropies.sum() / rows.mask.sum()), abs=1e-3)
    assert ours - base == pytest.approx(-0.1 * mean, abs=1e-5)


def test_the_released_codes_form_trains_like_a_plain_bonus_and_only_its_loss_is_another() -> None:
    released = epo(
        grpo(),
        coefficient=0.01,
        form="indicator",
        schedule="repo",
        reference="per_turn",
        missing="left_zeros",
        max_turns=4,
        count_current=True,
        bonus_aggregation="token-mean",
    )
    plain, ours = after(grpo(entropy_coefficient=0.01)), after(released, seen=[0.1, 0.1, 0.1, 0.1])
    assert_same(plain[0], ours[0])
    assert ours[1]["loss"] > plain[1]["loss"] + 1e-5


def test_the_hinge_lowers_the_entropy_above_the_corridor_and_nothing_inside_it() -> None:
    bonus = after(epo(grpo(), coefficient=0.5, smoothing=0.0))
    inside = after(epo(grpo(), coefficient=0.5, smoothing=0.3), seen=[2.5])
    assert_same(bonus[0], inside[0])
    damped = after(epo(grpo(), coefficient=0.5, smoothing=0.3), seen=LOW)
    reversed_ = after(epo(grpo(), coefficient=0.5, smoothing=5.0), seen=LOW)
    assert reversed_[2] < after(grpo())[2] < damped[2] < bonus[2]


def test_a_token_above_the_corridor_keeps_one_minus_beta_alpha_of_the_bonus() -> None:
    algorithm = epo(grpo(), coefficient=0.01, smoothing=0.1)
    algorithm.controllers[0].load_state_dict({"steps": [[1.0], [0.6]]})
    entropy = torch.tensor([[0.5, 1.5, 1.7, 3.0]]).requires_grad_()
    rows = make_batch([trajectory(1, 1)], [1.0], [0])
    losses = algorithm.losses[-1](rows, torch.zeros(1, 4), entropy, Progress(5, 10))
    [gradient] = torch.autograd.grad(losses.sum(), entropy)
    damped = 1 - 0.1 * (1 + math.exp(-3))
    torch.testing.assert_close(gradient, -0.01 * torch.tensor([[1.0, 1.0, damped, damped]]))
    torch.testing.assert_close(losses[0, 3], -0.01 * (entropy[0, 3] - 0.1 * (1 + math.exp(-3)) * 1.4))


def test_the_size_of_micro_batches_changes_nothing() -> None:
    gradients = []
    for tokens in (20, 100_000):
        algorithm, model = epo(grpo(), coefficient=0.5, smoothing=0.3), small_llama()
        algorithm.controllers[0].load_state_dict({"steps": [[1.0]]})
        updater = Updater(model, replace(SETTINGS, micro_batch_tokens=tokens))
        updater.step(rows_of(model, algorithm), algorithm, SECOND, seed=0)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("reference", ["step", "per_turn"])
def test_a_resumed_run_has_the_corridor_that_it_would_have_had(reference: Any) -> None:
    def make(model: Any) -> Learner:
        return Learner(model, epo(grpo(), coefficient=0.1, smoothing=0.5, high=0.9, reference=reference), SETTINGS)

    model = small_llama()
    learner = make(model)
    first = learner.learn(groups(model), Progress(0, 5))
    assert "entropy_reference" not in first and first["corridor_weight"] == 2.0
    state, twin = copy.deepcopy(learner.state_dict()), copy.deepcopy(model)
    second = learner.learn(groups(model), Progress(1, 5))
    assert second["corridor_high"] == pytest.approx(0.9 * second["entropy_reference"])
    assert second["above_corridor"] > 0 and second["below_corridor"] == 0.0
    resumed = make(twin)
    resumed.load_state_dict(state)
    assert resumed.learn(groups(twin), Progress(1, 5)) == second
    assert_same(model.state_dict(), twin.state_dict())


def groups(model: Any) -> list[Group]:
    """Return a group whose log-probabilities and entropies are the model's."""
    members = [trajectory(2, 3, seed=number, reward=float(number == 1)) for number in range(4)]
    for member in members:
        mask = torch.tensor([member.action_mask], dtype=torch.float32)
        with torch.no_grad():
            logprobs, entropies = TokenScorer(model)(torch.tensor([member.token_ids]), mask)
        member.logprobs, member.entropies = logprobs[0].tolist(), entropies[0].tolist()
    return [Group("g", "made", members)]


def test_the_log_says_where_the_corridor_was_and_how_many_tokens_were_outside() -> None:
    algorithm = epo(grpo(), low=0.5, high=1.5)
    rows = make_batch([trajectory(1, 2)], [1.0], [0])
    rows.entropies[rows.mask.bool()] = torch.tensor([0.1, 1.0, 1.4, 1.6])
    rows.entropies[~rows.mask.bool()] = 9.0
    [corridor] = algorithm.controllers
    assert corridor.update(Progress(0, 10), rows, {}) == {"corridor_weight": 2.0}
    corridor.load_state_dict({"steps": [[0.5], [1.5]]})
    logged = corridor.update(Progress(10, 10), rows, {})
    assert logged == pytest.approx(
        {
            "corridor_weight": 1 + math.exp(-6),
            "entropy_reference": 1.0,
            "corridor_low": 0.5,
            "corridor_high": 1.5,
            "below_corridor": 0.25,
            "above_corridor": 0.25,
        }
    )
    assert corridor.state_dict()["steps"][2] == pytest.approx([4.1 / 4])


def test_the_current_step_counts_in_its_own_reference_if_it_is_told_to() -> None:
    algorithm = epo(grpo(), count_current=True, high=0.5, coefficient=1.0)
    rows = make_batch([trajectory(1, 2, seed=number) for number in range(2)], [1.0, 0.0], [0, 0])
    rows.entropies = rows.mask * 2.0
    algorithm.fill(rows)
    torch.testing.assert_close(rows.advantages, grpo_advantages(rows))
    entropy = torch.full_like(rows.mask, 3.0)
    losses = algorithm.losses[-1](rows, rows.old_logprobs, entropy, Progress(0, 10))
    torch.testing.assert_close(losses, -(entropy - 0.2 * (entropy - 1.0)))
    algorithm.controllers[0].update(Progress(0, 10), rows, {})
    assert algorithm.controllers[0].state_dict() == {"steps": [[2.0]]}


def grpo_advantages(rows: Batch) -> Tensor:
    return grpo().advantages[0](rows, rows.advantages)


def test_a_step_without_tokens_leaves_the_history_as_it_was() -> None:
    algorithm = epo(grpo())
    rows = make_batch([trajectory(1, 1)], [1.0], [0])
    rows.mask = torch.zeros_like(rows.mask)
    algorithm.controllers[0].update(Progress(0, 10), rows, {})
    assert algorithm.state_dict()["controllers"] == [{"steps": []}]


def test_a_run_without_a_horizon_is_an_error_before_any_weight_moves() -> None:
    model, algorithm = small_llama(), epo(grpo())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match="needs a horizon"):
        Updater(model, SETTINGS).step(rows_of(model, algorithm), algorithm, Progress(0, 0), seed=0)
    assert_same(before, model.state_dict())


def test_a_base_with_a_bonus_of_its_own_is_refused_unless_epo_adds_none() -> None:
    base = grpo(entropy_coefficient=0.01)
    with pytest.raises(ConfigError, match="has an entropy bonus of its own"):
        epo(base)
    assert epo(base, coefficient=0.0).losses == base.losses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficient": -0.1}, "coefficient is -0.1"),
        ({"smoothing": math.nan}, "smoothing is nan"),
        ({"low": -1.0}, "low is -1.0"),
        ({"gamma": -1.0}, "gamma is -1.0"),
        ({"low": 2.0}, "from 2.0 to 2.0"),
        ({"form": "hing"}, "did you mean 'hinge'"),
        ({"schedule": "papers"}, "did you mean 'paper'"),
        ({"reference": "steps"}, "did you mean 'step'"),
        ({"missing": "left_zero"}, "did you mean 'left_zeros'"),
        ({"missing": "left_zeros"}, "come together"),
        ({"missing": "left_zeros", "max_turns": 5}, "come together"),
        ({"reference": "per_turn", "max_turns": 5}, "come together"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnknownIdError), match=message):
        epo(grpo(), **options)


@pytest.mark.parametrize("form", ["hinge", "indicator"])
def test_what_stands_where_nothing_was_generated_never_matters(form: Any) -> None:
    algorithm = epo(grpo(), form=form, coefficient=1.0)
    algorithm.controllers[0].load_state_dict({"steps": [[0.3]]})
    rows = make_batch([trajectory(2, 2, seed=number) for number in range(2)], [1.0, 0.0], [0, 0])
    kept, results = rows.mask.bool(), []
    for rubbish in (0.0, 7.0, math.nan, math.inf):
        entropy = torch.where(kept, rows.entropies, rubbish).requires_grad_()
        losses = algorithm.losses[-1](rows, rows.old_logprobs, entropy, SECOND)
        loss = aggregate(losses, rows.mask, "turn-mean", turns=rows.turns, trajectories=rows.trajectories)
        [gradient] = torch.autograd.grad(loss, entropy)
        assert not gradient[~kept].any()
        results.append((loss.detach(), gradient))
    assert all(torch.equal(one, two) for other in results[1:] for one, two in zip(other, results[0], strict=True))


PAGE_OF_THE_PAPER = (Path(__file__).parents[2] / "docs" / "methods" / "epo.md").read_text()


def test_the_table_of_options_in_the_document_is_that_of_the_code() -> None:
    table = PAGE_OF_THE_PAPER.partition("| option | default |")[2].partition("\n\n")[0].splitlines()[2:]
    told = {}
    for row in table:
        names, defaults, _ = (cell.strip().replace("`", "") for cell in row.strip("|").split("|", 2))
        told |= dict(zip(names.split(", "), defaults.split(", "), strict=True))
    parameters = inspect.signature(epo).parameters.values()
    real = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert told == {
        name: value if isinstance(value, str) else str(value).lower().removesuffix(".0") for name, value in real.items()
    }
