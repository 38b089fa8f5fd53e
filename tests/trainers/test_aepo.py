"""AEPO: the released code's numbers, the paper's, and what must always hold."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import golden, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wavering import collected, timeless

from agent_gym.errors import ConfigError, TrainingError
from agent_gym.rollout.branching import branches, choose_parents
from agent_gym.trainers import policy_loss
from agent_gym.trainers.aepo import (
    BalancedBranching,
    BalancedPolicyLoss,
    EntropyAwareAdvantage,
    aepo,
    balanced_clip,
    branch_probability,
    count_consecutive,
    entropy_aware,
    rollout_budget,
)
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.arpo import EntropyBranching, SharedPrefixAttribution, segment_entropy
from agent_gym.trainers.arpo import branch_probability as arpo_probability
from agent_gym.trainers.batch import make_batch
from agent_gym.trainers.grpo import grpo

RELEASED = golden("arpo_aepo_branching")["aepo"]
DECISIONS = golden("arpo_aepo_decisions")
PAPER = golden("paper_forms_own_reference")
LOSSES = golden("aepo_policy_loss")
CLOSE = {"atol": 5e-5, "rtol": 1e-4}

differences = st.floats(-5, 5)
seeds = st.integers(0, 10**6)
few = settings(max_examples=30, deadline=None)


# -- the released code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", DECISIONS["branch_table"]["rows"])
def test_official_single_decisions(row: dict[str, Any]) -> None:
    table = DECISIONS["branch_table"]
    probability = branch_probability(
        row["entropy_delta"],
        0.0,
        row["consecutive"],
        base=table["branch_probability"],
        weight=table["entropy_weight"],
        form="repo",
    )
    # The released code branches on large draws, this one on small draws; a tie is a matter of the last bit there.
    assert abs(1 - row["u"] - probability) < 1e-9 or branches(1 - row["u"], probability) == bool(row["aepo_branches"])


@pytest.mark.parametrize("case", DECISIONS["aepo_initial_rollouts"]["cases"], ids=lambda case: f"n{case['n']}")
def test_official_budget(case: dict[str, Any]) -> None:
    beta = DECISIONS["aepo_initial_rollouts"]["beta"]
    for root, steps, expected in zip(case["H_root"], case["step_entropies"], case["initial_rollouts"], strict=True):
        tool = sum(steps) / len(steps) if steps else root
        assert rollout_budget(root, tool, case["n"], beta=beta, form="repo") == expected


@pytest.mark.parametrize("case", RELEASED, ids=lambda case: f"seed{case['seed']}")
def test_official_loop(case: dict[str, Any]) -> None:
    """Play the recorded loop again, by its random numbers: who branches, and what is counted."""
    samples, initial = range(case["batch_size"]), case["initial_rollouts"]
    members = {sample: list(range(sample * initial, (sample + 1) * initial)) for sample in samples}
    consecutive = [0] * case["batch_size"]
    first: dict[int, float] = {}
    for step in case["trace"]:
        now = {int(index): entropy for index, entropy in step["entropy_now"].items()}
        for index, entropy in now.items():
            first.setdefault(index, entropy)
        draws = iter(step["random_draws_consumed"])
        made = [0] * case["batch_size"]
        new = []
        owner = {index: sample for sample in samples for index in members[sample]}
        in_order = dict.fromkeys(owner[index] for index in step["still_active_after_tools"])
        for sample in [*in_order, *(sample for sample in samples if sample not in in_order)]:
            active = [index for index in step["still_active_after_tools"] if owner[index] == sample]

            def probability(index: int, now: dict[int, float] = now, count: int = consecutive[sample]) -> float:
                return branch_probability(
                    now[index],
                    first[index],
                    count,
                    base=case["branch_probability"],
                    weight=case["entropy_weight"],
                    form="repo",
                )

            parents = choose_parents(
                active,
                probability,
                free=case["n"] - len(members[sample]),
                attempts=case["beam_size"] - 1,
                draw=lambda draws=draws: 1 - next(draws),  # type: ignore[misc]
            )
            new += parents
            root = not active and not parents and len(members[sample]) < case["n"]
            made[sample] = len(parents) + root
        assert next(draws, None) is None
        branched = [rollout for rollout in step["new_rollouts"] if not rollout["is_fresh_root"]]
        assert [rollout["tokens"][-2] - 1000 * step["iteration"] for rollout in branched] == new
        for rollout in step["new_rollouts"]:
            members[rollout["tokens"][0]].append(rollout["index"])
        assert [len(members[sample]) for sample in samples] == step["rollouts_per_sample"]
        consecutive = [count_consecutive(c, n, anywhere=any(made)) for c, n in zip(consecutive, made, strict=True)]
        for sample, count in step["consecutive_branches"].items():
            assert consecutive[int(sample)] == count
    assert {str(sample): members[sample] for sample in samples} == case["sample_to_indices"]


def loss_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return log-probabilities, old ones, advantages, entropies and mask; each (B, T)."""
    names = ("log_prob", "old_log_prob", "advantages", "entropy", "response_mask")
    return tuple(torch.tensor(LOSSES["inputs"][name]) for name in names)  # type: ignore[return-value]


def case_name(case: dict[str, Any]) -> str:
    switches = case["enable_entropy_balanced_clipping"], case["enable_entropy_balanced_advantage"]
    return f"{switches}-{case['loss_agg_mode']}-{case['clip_high']}-{case.get('entropy', '')}"


@pytest.mark.parametrize("case", [c for c in LOSSES["cases"] if "grad_log_prob" in c and not c.get("note")])
def test_official_loss_and_gradient(case: dict[str, Any]) -> None:
    logprobs, old, advantages, entropy, mask = loss_inputs()
    logprobs.requires_grad_()
    entropy.requires_grad_()
    if case["enable_entropy_balanced_advantage"]:
        advantages = entropy_aware(advantages, entropy, mask)
    function = balanced_clip if case["enable_entropy_balanced_clipping"] else policy_loss.clipped
    bounds = {name: case[name] for name in ("clip_low", "clip_high")} | {"dual_clip": case["clip_ratio_c"]}
    losses = function(logprobs, old, advantages, mask, **bounds)
    loss = policy_loss.aggregate(losses, mask, case["loss_agg_mode"])
    torch.testing.assert_close(float(loss.detach()), case["loss"], **CLOSE)
    loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor(case["grad_log_prob"]), **CLOSE)
    assert entropy.grad is None and case["grad_entropy"] == "none"
    metrics = policy_loss.clip_metrics(logprobs.detach(), old, advantages, mask, **bounds)
    official = {"clip_fraction": "pg_clipfrac", "dual_clip_fraction": "pg_clipfrac_lower", "kl": "ppo_kl"}
    for name, key in official.items():
        torch.testing.assert_close(float(metrics[name]), case[key], **CLOSE)


def test_without_entropies_the_factor_is_left_out_as_the_released_scripts_do() -> None:
    case = next(case for case in LOSSES["cases"] if case.get("entropy", "given") is None)
    logprobs, old, advantages, _, mask = loss_inputs()
    loss = policy_loss.aggregate(balanced_clip(logprobs, old, advantages, mask), mask, case["loss_agg_mode"])
    torch.testing.assert_close(float(loss), case["loss"], **CLOSE)


def test_constant_entropies_change_nothing_where_the_released_code_scales_their_dust() -> None:
    case = next(case for case in LOSSES["cases"] if "entropy_constant" in case)
    logprobs, old, advantages, entropy, mask = loss_inputs()
    constant = torch.full_like(entropy, case["entropy_constant"])
    assert torch.equal(entropy_aware(advantages, constant, mask), advantages)
    scaled = policy_loss.aggregate(policy_loss.clipped(logprobs, old, 1.2 * advantages, mask), mask, "token-mean")
    assert float(scaled) == pytest.approx(case["loss"], rel=2e-3)


# -- the paper's formulas ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PAPER["aepo_branch_probability_paper"])
def test_probability_of_the_paper(case: dict[str, float]) -> None:
    # One note has the penalty grow by the weight itself with every branch.
    found = branch_probability(
        case["delta_h"], 0.0, int(case["l"]), base=case["alpha"], weight=case["gamma"], penalty=case["gamma"]
    )
    assert found == pytest.approx(case["P"], abs=1e-9)


@pytest.mark.parametrize("case", PAPER["aepo_budget_paper"])
def test_budget_of_the_paper(case: dict[str, float]) -> None:
    found = rollout_budget(case["H_root"], case["H_tool_avg"], int(case["k"]), beta=case["beta"])
    assert abs(found - case["m_real"]) <= 0.5


# -- what must always hold ---------------------------------------------------------------------------------------------


@few
@given(differences, differences, differences, st.integers(1, 40))
def test_the_budget_rises_with_the_question_and_stays_in_its_bounds(
    one: float, two: float, tool: float, total: int
) -> None:
    low, high = sorted((one, two))
    assert 1 <= rollout_budget(low, tool, total) <= rollout_budget(high, tool, total) <= total
    assert rollout_budget(tool, tool, 2 * total) == total


def test_a_budget_needs_a_group_and_bears_any_entropy() -> None:
    assert (rollout_budget(1e9, 0, 7), rollout_budget(-1e9, 0, 7)) == (7, 1)
    with pytest.raises(TrainingError, match="group_size"):
        rollout_budget(0, 0, 0)


@few
@given(differences, differences, st.integers(0, 30))
def test_the_penalty_only_lowers_and_in_full_forbids(entropy: float, initial: float, consecutive: int) -> None:
    for form in ("paper", "repo"):
        now, later = (
            branch_probability(entropy, initial, count, form=form) for count in (consecutive, consecutive + 1)
        )
        assert 0 <= later <= now <= 1
        assert branch_probability(entropy, initial, 20, form=form) == 0


@few
@given(differences, differences)
def test_without_a_penalty_it_is_arpos_probability(entropy: float, initial: float) -> None:
    expected = arpo_probability(entropy, initial)
    assert branch_probability(entropy, initial, 9, penalty=0) == expected
    assert branch_probability(entropy, initial, 0, form="repo") == pytest.approx(expected)


def test_the_released_threshold_at_its_ends() -> None:
    assert branch_probability(-9, 0, 5, base=0, form="repo") == 1
    draws = random.Random(0)
    for base in (0.2, 0.8):
        expected = branch_probability(0.6, 0.1, 3, base=base, form="repo")
        hits = sum((draws.random() + 0.2 * 0.5) * 0.85 >= base for _ in range(20000)) / 20000
        assert hits == pytest.approx(expected, abs=0.02)


def random_tokens(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(3, 9, generator=generator) - 0.5
    logprobs = old + torch.randn(3, 9, generator=generator)
    mask = torch.randint(0, 2, (3, 9), generator=generator).float()
    return logprobs, old, torch.randn(3, 9, generator=generator), mask


def gradient(function: Any, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    leaf = tensors[0].clone().requires_grad_()
    losses = function(leaf, *tensors[1:])
    losses.sum().backward()
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


@few
@given(seeds)
def test_the_loss_is_ppos_and_so_is_its_gradient_but_above_the_clip(seed: int) -> None:
    logprobs, old, advantages, mask = random_tokens(seed)
    ours, our_gradient = gradient(balanced_clip, logprobs, old, advantages, mask)
    theirs, their_gradient = gradient(policy_loss.clipped, logprobs, old, advantages, mask)
    torch.testing.assert_close(ours, theirs)
    ratio = (logprobs - old).exp()
    above = (advantages > 0) & (ratio > 1.2) & mask.bool()
    torch.testing.assert_close(our_gradient[~above], their_gradient[~above])
    torch.testing.assert_close(our_gradient[above], -1.2 * advantages[above])
    assert (their_gradient[above] == 0).all() and (our_gradient[mask == 0] == 0).all()
    below = (advantages < 0) & (ratio < 0.8) & mask.bool()
    assert (our_gradient[below] == 0).all()


@few
@given(seeds, st.floats(0, 1))
def test_the_factor_has_mean_one_and_looks_at_generated_tokens_only(seed: int, weight: float) -> None:
    entropy, _, advantages, mask = random_tokens(seed)
    chosen = mask.bool()
    if chosen.sum() < 2:
        return
    factor = entropy_aware(torch.ones_like(advantages), entropy, mask, weight=weight)
    assert factor[chosen].mean() == pytest.approx(1, abs=1e-5)
    elsewhere = torch.where(chosen, entropy, 1e3)
    assert torch.equal(
        entropy_aware(advantages, entropy, mask, weight=weight),
        entropy_aware(advantages, elsewhere, mask, weight=weight),
    )
    assert torch.equal(entropy_aware(advantages, entropy, mask, weight=0.0), advantages)


@few
@given(seeds)
def test_masked_positions_never_matter(seed: int) -> None:
    results = []
    for rubbish in (0.0, float("nan"), float("inf")):
        made = random_tokens(seed)
        mask = made[3]
        logprobs, old, advantages = (torch.where(mask.bool(), part, rubbish) for part in made[:3])
        aware = entropy_aware(advantages, logprobs, mask)
        results.append((*gradient(balanced_clip, logprobs, old, aware, mask), aware[mask.bool()]))
    for other in results[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(other, results[0], strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    fine, mask, broken = torch.zeros(1, 3), torch.ones(1, 3), torch.tensor([[0.0, bad, 1.0]])
    for arguments, what in (
        ((broken, fine, fine), "A log-probability"),
        ((fine, broken, fine), "A log-probability"),
        ((fine, fine, broken), "An advantage"),
    ):
        with pytest.raises(TrainingError, match=f"{what} is not finite"):
            balanced_clip(*arguments, mask)
    with pytest.raises(TrainingError, match="An advantage is not finite"):
        entropy_aware(broken, fine, mask)
    with pytest.raises(TrainingError, match="An entropy is not finite"):
        entropy_aware(fine, broken, mask)


def test_one_token_alone_keeps_its_advantage() -> None:
    mask = torch.tensor([[0.0, 1.0, 0.0]])
    advantages = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.equal(entropy_aware(advantages, torch.rand(1, 3), mask), advantages)


# -- the method --------------------------------------------------------------------------------------------------------


def test_the_method_at_its_identity_is_its_base() -> None:
    base = grpo(group_size=6, entropy_coefficient=0.01)
    same = aepo(base, initial=6, dynamic_budget=False, clipping=False, advantage_weight=0.0)
    assert not same.rollout.branches  # type: ignore[attr-defined]
    assert replace(same, name=base.name, rollout=base.rollout) == base


def test_the_method_balances_rollout_clip_and_advantages() -> None:
    base = grpo(group_size=6, clip_high=0.28, entropy_coefficient=0.01)
    made = aepo(base, attribution="hard", penalty=0.1, beta=2.0, rule="repo", initial=2)
    assert made.rollout == BalancedBranching(6, 2, dynamic_budget=True, beta=2.0, penalty=0.1, rule="repo")
    assert made.losses == (BalancedPolicyLoss(0.2, 0.28, 3.0), base.losses[1])
    assert made.advantages == (*base.advantages, SharedPrefixAttribution(), EntropyAwareAdvantage(0.2))


def test_a_base_without_a_clipped_loss_cannot_be_balanced() -> None:
    base = replace(grpo(), losses=())
    with pytest.raises(ConfigError, match="clipping=False"):
        aepo(base)
    assert aepo(base, clipping=False).losses == ()
    with pytest.raises(ConfigError, match="penalty"):
        aepo(grpo(), penalty=-1)
    with pytest.raises(ConfigError, match="rule"):
        aepo(grpo(), rule="mine")  # type: ignore[arg-type]


def test_without_budget_and_penalty_the_rollouts_are_arpos() -> None:
    balanced = BalancedBranching(group_size=8, initial=3, dynamic_budget=False, penalty=0.0)
    groups = timeless(collected(balanced))
    assert groups == timeless(collected(EntropyBranching(group_size=8, initial=3)))
    assert any(trajectory.parent_id for group in groups for trajectory in group.trajectories)


@pytest.mark.parametrize("rule", ["paper", "repo"])
def test_the_budget_follows_the_first_look_and_chains_tire(rule: Any) -> None:
    strategy = BalancedBranching(group_size=8, rule=rule, base=0.9 if rule == "paper" else 0.1, penalty=0.3)
    for group in collected(strategy):
        first = group.trajectories[0]
        numbers = [
            segment_entropy(first.entropies[turn.start : turn.end], vocabulary=257, tokens=20) for turn in first.turns
        ]
        tool = numbers if rule == "repo" else numbers[1:]
        budget = rollout_budget(numbers[0], sum(tool) / len(tool), 8, form=rule)
        roots = [each for each in group.trajectories if each.parent_id is None]
        assert len(group.trajectories) == 8 and len(roots) >= budget
        assert not any(each.parent_id == first.id for each in group.trajectories)
        for child in (each for each in group.trajectories if each.parent_id):
            now, start, given_ = (
                float(child.metadata[name]) for name in ("branch_entropy", "initial_entropy", "branch_probability")
            )
            possible = [
                branch_probability(now, start, row, base=strategy.base, penalty=0.3, form=rule) for row in range(9)
            ]
            assert any(abs(given_ - value) < 1e-5 for value in possible)
    assert strategy.metrics()["branches"] > 0


def test_a_threshold_is_held_against_the_penalised_probability() -> None:
    chance = aepo(grpo(), threshold=0.5, penalty=0.25).rollout._chance  # type: ignore[attr-defined]
    assert [chance(1.0, 0.0, row) for row in range(4)] == [1, 1, 0, 0]
    assert chance(0.0, 0.0, 0) == 0


def test_a_first_look_that_failed_divides_the_budget_evenly() -> None:
    strategy = BalancedBranching(group_size=8)
    assert (strategy._budget([]), strategy._budget([0.4])) == (4, 4)
    assert strategy._budget([9.0, 0.1]) == 8 and strategy._budget([0.0, 9.0, 9.0]) == 1


def test_losses_and_stages_read_the_batch() -> None:
    batch = make_batch([trajectory(3, 4, seed=number) for number in range(2)], [1.0, 0.0], [0, 0])
    batch.advantages = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0))
    logprobs = batch.old_logprobs + 0.5
    expected = balanced_clip(logprobs, batch.old_logprobs, batch.advantages, batch.mask, clip_high=0.28)
    loss = BalancedPolicyLoss(clip_high=0.28)
    progress = Progress(0, 1)
    assert torch.equal(loss(batch, logprobs, batch.entropies, progress), expected)
    assert float(loss.metrics(batch, logprobs, batch.entropies)["clip_fraction"]) > 0
    aware = EntropyAwareAdvantage(0.5)(batch, batch.advantages)
    assert torch.equal(aware, entropy_aware(batch.advantages, batch.entropies, batch.mask, weight=0.5))
