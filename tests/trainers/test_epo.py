"""EPO: the released code's numbers, the paper's, and what must hold for any entropies."""

import json
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agent_gym.errors import TrainingError, UnknownIdError
from agent_gym.trainers.epo import EntropyHistory, corridor_penalty, phase_weight, token_reference
from agent_gym.trainers.policy_loss import aggregate, clipped

WEIGHTS = golden("epo_phase_weight")
SMOOTHING = golden("epo_entropy_smoothing")
HINGES = golden("paper_forms_own_reference")["epo_v2_hinge"]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FEW = settings(max_examples=50, deadline=None)


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_the_released_codes_schedule() -> None:
    cases = [case for case in WEIGHTS["official_code"] if case["max_epochs"] > 0]
    assert len(cases) == 150
    for case in cases:
        ours = phase_weight(case["current_epoch"], case["max_epochs"], form="repo")
        assert ours == pytest.approx(case["weight"], rel=1e-9), case


def test_a_schedule_without_a_horizon_is_an_error_where_the_released_code_weighs_1() -> None:
    cases = [case for case in WEIGHTS["official_code"] if case["max_epochs"] <= 0]
    assert cases and all(case["weight"] == 1.0 for case in cases)
    for form in ("paper", "repo"):
        with pytest.raises(TrainingError, match="needs a horizon"):
            phase_weight(0, 0, form=form)


def test_the_papers_schedule() -> None:
    rows = WEIGHTS["paper_v2_formula_not_code"]["rows"]
    inside = [row for row in rows if row["k"] <= row["K"]]
    assert inside
    for row in inside:
        assert phase_weight(row["k"], row["K"], gamma=row["gamma"]) == pytest.approx(row["beta"], rel=1e-9)


@FEW
@given(total=st.integers(1, 500), gamma=st.sampled_from([0.5, 3.0, 5.0]))
def test_both_schedules_fall_and_stay_in_their_bounds(total: int, gamma: float) -> None:
    paper = [phase_weight(step, total, gamma=gamma) for step in range(total + 1)]
    assert paper[0] == 2.0 and min(paper) > 1.0
    assert all(one > two for one, two in pairwise(paper))
    repo = [phase_weight(step, total, form="repo") for step in range(total + 1)]
    assert repo[0] == 1.0 and min(repo) >= 0.8 * math.exp(-3) - 1e-12
    half = total // 2
    for part in (repo[: half + 1], repo[half + 1 :]):
        assert all(one > two for one, two in pairwise(part))


# -- the corridor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in HINGES["cases"] if case["ref"] > 0], ids=lambda case: case["ref"])
def test_the_papers_hinge_and_its_gradient(case: dict[str, Any]) -> None:
    entropy, mask = torch.tensor(HINGES["entropy"]).requires_grad_(), torch.tensor(HINGES["response_mask"])
    penalty = case["alpha"] * corridor_penalty(entropy, case["ref"], low=case["kappa_l"], high=case["kappa_r"])
    torch.testing.assert_close(penalty.detach(), torch.tensor(case["penalty"]), **CLOSE)
    mean = aggregate(penalty, mask, "seq-mean-token-mean")
    assert float(mean.detach()) == pytest.approx(case["loss_seq_mean_token_mean"], rel=1e-4)
    assert float(aggregate(penalty.detach(), mask, "token-mean")) == pytest.approx(case["loss_token_mean"], rel=1e-4)
    [gradient] = torch.autograd.grad(mean, entropy)
    torch.testing.assert_close(gradient, torch.tensor(case["grad_seq_mean"]), **CLOSE)


def test_a_reference_of_0_makes_no_corridor_where_the_formula_would_punish_every_entropy() -> None:
    [case] = [case for case in HINGES["cases"] if case["ref"] == 0]
    assert case["loss_token_mean"] > 0.1
    entropy = torch.tensor(HINGES["entropy"]).requires_grad_()
    for reference in (0.0, math.nan, torch.full_like(entropy, -0.1)):
        penalty = corridor_penalty(entropy, reference)
        [gradient] = torch.autograd.grad(penalty.sum(), entropy)
        assert not penalty.any() and not gradient.any()


@FEW
@given(
    seed=st.integers(0, 10**6),
    reference=st.floats(0.05, 2.0),
    bounds=st.sampled_from([(0.0, 2.0), (0.8, 1.2), (0.5, 1.0)]),
)
def test_the_hinge_pulls_up_below_pushes_down_above_and_leaves_the_inside_alone(
    seed: int, reference: float, bounds: tuple[float, float]
) -> None:
    low, high = bounds
    entropy = (3 * torch.rand(4, 6, generator=torch.Generator().manual_seed(seed))).requires_grad_()
    penalty = corridor_penalty(entropy, reference, low=low, high=high)
    [gradient] = torch.autograd.grad(penalty.sum(), entropy)
    below, above = entropy < low * reference, entropy > high * reference
    assert torch.equal(gradient, above.float() - below.float())
    assert torch.equal(penalty > 0, below | above)
    indicator = corridor_penalty(entropy, reference, low=low, high=high, form="indicator", penalty=0.1)
    assert not indicator.requires_grad
    torch.testing.assert_close(indicator, 0.1 * (below | above).float())


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'hinge'"):
        corridor_penalty(torch.ones(1, 1), 1.0, form="hing")  # type: ignore[arg-type]
    with pytest.raises(UnknownIdError, match="did you mean 'paper'"):
        phase_weight(0, 1, form="papers")  # type: ignore[arg-type]


# -- the released code's steps -----------------------------------------------------------------------------------------


def official_references() -> list[Tensor]:
    """Return our references (turns,) of the released code's steps, made its way."""
    history = EntropyHistory(reference="per_turn", missing="left_zeros", max_turns=SMOOTHING["max_steps"])
    references = []
    for step in SMOOTHING["steps"]:
        references.append(history.reference(current=step["raw_turn_entropies"]))
        history.append(step["raw_turn_entropies"])
    return references  # type: ignore[return-value]


@pytest.mark.parametrize("number", range(len(SMOOTHING["steps"])))
def test_the_released_codes_reference_penalties_and_loss(number: int) -> None:
    step, reference = SMOOTHING["steps"][number], official_references()[number]
    official = torch.tensor(step["reference_mean_over_steps"], dtype=torch.float64)
    torch.testing.assert_close(reference, official)
    entropy, mask = torch.tensor(step["entropy"]).requires_grad_(), torch.tensor(step["response_mask"])
    turns = torch.tensor(step["rollout_step"]).unsqueeze(1).expand_as(mask)
    tokens = token_reference(reference, turns)
    for name, expected in step["penalties"].items():
        mode, low, high, size = name.split("|")
        # The "seq" mode tests a row's plain mean, padding included, in place of each token.
        tested = entropy if mode == "token" else entropy.mean(1, keepdim=True).expand_as(entropy)
        penalty = corridor_penalty(
            tested, tokens, low=float(low[3:]), high=float(high[3:]), form="indicator", penalty=float(size[3:])
        )
        torch.testing.assert_close(penalty, torch.tensor(expected["penalty"]), **CLOSE)
        assert float((penalty == 0).float().mean()) == pytest.approx(expected["within_range_ratio"])
        assert float(aggregate(penalty, mask, "token-mean")) == pytest.approx(expected["loss_token_mean"], rel=1e-4)

    whole = step["composition"]
    weight = phase_weight(whole["epoch"], 150, form="repo")
    assert weight == pytest.approx(whole["epoch_weight"], rel=1e-9)
    names = ("log_prob", "old_log_prob", "advantages")
    policy = aggregate(clipped(*(torch.tensor(whole[key]) for key in names), mask), mask, "token-mean")
    smooth = weight * aggregate(corridor_penalty(entropy, tokens, form="indicator", penalty=0.1), mask, "token-mean")
    bonus = aggregate(entropy, mask, "token-mean")
    loss = policy - whole["entropy_coeff"] * (bonus - whole["entropy_smooth_coeff"] * smooth)
    torch.testing.assert_close(float(policy), whole["pg_loss"], **CLOSE)
    torch.testing.assert_close(float(bonus.detach()), whole["entropy_loss"], **CLOSE)
    torch.testing.assert_close(float(smooth), whole["penalty_loss"], **CLOSE)
    torch.testing.assert_close(float(loss.detach()), whole["policy_loss"], **CLOSE)
    # What the smoothing adds to the loss, it does not add to the gradient.
    [gradient] = torch.autograd.grad(loss, entropy)
    torch.testing.assert_close(gradient, -whole["entropy_coeff"] * mask / mask.sum())


def test_left_zeros_are_the_released_codes_padding_and_drop_the_first_turns_of_a_longer_step() -> None:
    history = EntropyHistory(reference="per_turn", missing="left_zeros", max_turns=3)
    history.append([1.0])
    history.append([4.0, 3.0, 2.0, 1.0])
    assert history.reference().tolist() == [1.5, 1.0, 1.0]  # type: ignore[union-attr]
    for step in SMOOTHING["steps"]:
        alone = EntropyHistory(reference="per_turn", missing="left_zeros", max_turns=SMOOTHING["max_steps"])
        alone.append(step["raw_turn_entropies"])
        assert alone.reference().tolist() == step["padded"]  # type: ignore[union-attr]


# -- the history -------------------------------------------------------------------------------------------------------


def test_turns_that_a_step_did_not_reach_do_not_count() -> None:
    history = EntropyHistory(reference="per_turn")
    history.append([1.0, 2.0, 3.0])
    history.append([3.0, math.nan])
    assert history.reference().tolist() == [2.0, 2.0, 3.0]  # type: ignore[union-attr]


def test_a_step_is_measured_over_generated_tokens_alone() -> None:
    entropies = torch.tensor([[1.0, 9.0, 2.0, 3.0], [5.0, 9.0, math.nan, 9.0]])
    mask = torch.tensor([[1.0, 0, 1, 1], [1, 0, 0, 0]])
    turns = torch.tensor([[0, -1, 2, 2], [0, -1, -1, 1]])
    assert EntropyHistory().measure(entropies, mask, turns) == [11 / 4]
    per_turn = EntropyHistory(reference="per_turn").measure(entropies, mask, turns)
    assert per_turn[0] == 3.0 and math.isnan(per_turn[1]) and per_turn[2] == 2.5
    assert EntropyHistory().measure(entropies, torch.zeros_like(mask), turns) == []
    entropies[0, 0] = math.inf
    with pytest.raises(TrainingError, match="not finite"):
        EntropyHistory().measure(entropies, mask, turns)


@FEW
@given(value=st.floats(0.01, 5.0), steps=st.integers(1, 9), per_turn=st.booleans())
def test_the_mean_of_equal_steps_is_that_step(value: float, steps: int, per_turn: bool) -> None:
    history = EntropyHistory(reference="per_turn" if per_turn else "step")
    for _ in range(steps):
        history.append([value, value] if per_turn else [value])
    reference = history.reference()
    assert reference is not None and reference.flatten().tolist() == pytest.approx([value] * (2 if per_turn else 1))
    assert len(history) == steps


def test_before_the_first_step_there_is_no_reference_unless_the_current_one_counts() -> None:
    history = EntropyHistory()
    assert history.reference() is None
    assert float(history.reference(current=[0.5])) == 0.5  # type: ignore[arg-type]
    history.append([])
    assert len(history) == 0
    history.append([1.5])
    assert float(history.reference()) == 1.5  # type: ignore[arg-type]
    assert float(history.reference(current=[0.5])) == 1.0  # type: ignore[arg-type]
    assert len(history) == 1


def test_a_history_goes_through_json() -> None:
    history = EntropyHistory(reference="per_turn")
    history.append([1.0, math.nan, 0.1 + 0.2])
    state = json.loads(json.dumps(history.state_dict(), allow_nan=False))
    twin = EntropyHistory(reference="per_turn")
    twin.load_state_dict(state)
    torch.testing.assert_close(twin.reference(), history.reference(), atol=0, rtol=0, equal_nan=True)


def test_tokens_of_a_turn_that_no_step_knew_have_no_reference() -> None:
    spread = token_reference(torch.tensor([1.0, 2.0]), torch.tensor([[1, 0, -1, 2]]))
    assert spread[0, :2].tolist() == [2.0, 1.0] and spread[0, 2:].isnan().all()
    scalar = torch.tensor(0.5)
    assert token_reference(scalar, torch.zeros(1, 2, dtype=torch.long)) is scalar
