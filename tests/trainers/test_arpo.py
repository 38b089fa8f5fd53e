"""ARPO: the released code's numbers and decisions, and what must always hold."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import CountEnv, WordEnv, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from wavering import Wavering, collected, timeless

from agent_gym.errors import ConfigError, TrainingError
from agent_gym.rollout.branching import branches, choose_parents
from agent_gym.trainers import advantages, policy_loss
from agent_gym.trainers.algorithm import IndependentRollouts
from agent_gym.trainers.arpo import (
    EntropyBranching,
    SharedPrefixAttribution,
    arpo,
    branch_probability,
    segment_entropy,
    shared_prefix_attribution,
    truncated_entropy,
)
from agent_gym.trainers.batch import make_batch
from agent_gym.trainers.dapo import DynamicSampling, dapo
from agent_gym.trainers.grpo import GroupAdvantage, grpo
from agent_gym.trajectory import Trajectory

RELEASED = golden("arpo_aepo_branching")
DECISIONS = golden("arpo_aepo_decisions")["branch_table"]
HARD = golden("paper_forms_own_reference")["arpo_hard_attribution"]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}

differences = st.floats(-5, 5)
few = settings(max_examples=30, deadline=None)


# -- the released code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", RELEASED["calc_entropy"])
def test_official_entropy_of_a_list_of_log_probabilities(case: dict[str, Any]) -> None:
    assert truncated_entropy(case["logprobs"]) == pytest.approx(case["entropy"], abs=1e-9)


def test_the_sum_form_adds_up_what_the_released_code_puts_in_one_list() -> None:
    top = [[-0.4, -1.3, -2.5], [-0.1, -3.0, -4.0], [-0.7, -0.8, -5.0]]
    tokens = [truncated_entropy(logprobs) for logprobs in top]
    found = segment_entropy(tokens, vocabulary=1000, tokens=2, form="sum")
    assert found == pytest.approx(truncated_entropy(top[0] + top[1]) / math.log(1000))


@pytest.mark.parametrize("row", DECISIONS["rows"])
def test_official_single_decisions(row: dict[str, Any]) -> None:
    probability = branch_probability(
        row["entropy_delta"], 0.0, base=DECISIONS["branch_probability"], weight=DECISIONS["entropy_weight"]
    )
    assert branches(row["u"], probability) == bool(row["arpo_branches"])


@pytest.mark.parametrize("case", RELEASED["arpo"], ids=lambda case: f"seed{case['seed']}")
def test_official_loop(case: dict[str, Any]) -> None:
    """Play the recorded loop again, by its random numbers: who branches, who begins anew, how many there are."""
    samples, initial = range(case["batch_size"]), case["initial_rollouts"]
    members = {sample: list(range(sample * initial, (sample + 1) * initial)) for sample in samples}
    first: dict[int, float] = {}
    for step in case["trace"]:
        now = {int(index): entropy for index, entropy in step["entropy_now"].items()}
        for index, entropy in now.items():
            first.setdefault(index, entropy)
        assert {str(index): first[index] for index in now} == step["entropy_initial"]
        draws = iter(step["random_draws_consumed"])
        active, new = list(step["still_active_after_tools"]), []

        def probability(index: int, now: dict[int, float] = now) -> float:
            return branch_probability(
                now[index], first[index], base=case["branch_probability"], weight=case["entropy_weight"]
            )

        owner = {index: sample for sample in samples for index in members[sample]}
        for sample in dict.fromkeys(owner[index] for index in active):
            parents = choose_parents(
                [index for index in active if owner[index] == sample],
                probability,
                free=case["n"] - len(members[sample]),
                attempts=case["beam_size"] - 1,
                draw=lambda draws=draws: next(draws),  # type: ignore[misc]
            )
            new += [(sample, parent) for parent in parents]
            members[sample] += [-1] * len(parents)
        going_on = {owner[index] for index in active} | {sample for sample, _ in new}
        roots = [s for s in samples if s not in going_on and len(members[s]) < case["n"]]
        for sample in roots:
            members[sample].append(-1)
        assert next(draws, None) is None
        expected = step["new_rollouts"]
        assert len(expected) == len(new) + len(roots)
        for rollout, (sample, parent) in zip(expected, new, strict=False):
            assert rollout["tokens"][0] == sample and not rollout["is_fresh_root"]
            assert rollout["tokens"][-2] == 1000 * step["iteration"] + parent
        for rollout, sample in zip(expected[len(new) :], roots, strict=True):
            assert rollout["tokens"] == [sample] and rollout["is_fresh_root"]
        for rollout in expected:
            place = members[rollout["tokens"][0]]
            place[place.index(-1)] = rollout["index"]
        assert [len(members[sample]) for sample in samples] == step["rollouts_per_sample"]
    assert {str(sample): members[sample] for sample in samples} == case["sample_to_indices"]
    assert [len(members[sample]) for sample in samples] == case["final_rollouts_per_sample"]


# -- probability and entropy -------------------------------------------------------------------------------------------


@few
@given(differences, differences, st.floats(0, 1))
def test_the_probability_rises_with_the_entropy_and_stays_one(one: float, two: float, base: float) -> None:
    low, high = sorted((one, two))
    below, above = (branch_probability(value, 0.3, base=base) for value in (low, high))
    assert 0 <= below <= above <= 1


@few
@given(differences, differences)
def test_without_weight_the_entropy_does_not_matter(entropy: float, initial: float) -> None:
    assert branch_probability(entropy, initial, base=0.3, weight=0.0) == 0.3


def test_what_cannot_be_and_what_must_be() -> None:
    assert not branches(0.0, 0.0) and branches(math.nextafter(1, 0), 1.0)


def test_the_mean_form_compares_segments_of_any_length() -> None:
    assert segment_entropy([math.log(50)] * 7, vocabulary=50) == pytest.approx(1.0)
    assert segment_entropy([math.log(50)] * 90, vocabulary=50) == pytest.approx(1.0)
    assert segment_entropy([1.0, 3.0, 99.0], vocabulary=10, tokens=2) == pytest.approx(2 / math.log(10))
    assert segment_entropy([], vocabulary=50) == segment_entropy([], vocabulary=50, form="sum") == 0.0


def test_entropies_that_say_nothing_are_refused() -> None:
    with pytest.raises(TrainingError, match="at least 2"):
        segment_entropy([1.0], vocabulary=1)
    with pytest.raises(TrainingError, match="not finite"):
        segment_entropy([1.0, math.nan], vocabulary=9)


# -- attribution -------------------------------------------------------------------------------------------------------


def test_hard_attribution_on_the_reference_tree() -> None:
    nodes = torch.tensor(HARD["node_id_per_position"])
    rewards = torch.tensor(HARD["rewards"])
    rows = advantages.grpo(rewards, torch.zeros(len(rewards), dtype=torch.long))
    torch.testing.assert_close(rows, torch.tensor(HARD["trajectory_advantage"]), **CLOSE)
    given_ = rows.unsqueeze(1).expand(nodes.shape)
    found = shared_prefix_attribution(given_, nodes, torch.ones(nodes.shape))
    torch.testing.assert_close(found, torch.tensor(HARD["advantages"]), **CLOSE)


@few
@given(st.integers(0, 10**6))
def test_attribution_keeps_the_sum_of_every_node_and_leaves_the_rest_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randint(0, 6, (4, 7), generator=generator)
    mask = torch.randint(0, 2, (4, 7), generator=generator).float()
    given_ = torch.randn(4, 7, generator=generator)
    found = shared_prefix_attribution(given_, torch.where(mask.bool(), nodes, -1), mask)
    assert torch.equal(found[mask == 0], given_[mask == 0])
    for node in range(6):
        place = (nodes == node) & mask.bool()
        torch.testing.assert_close(found[place].sum(), given_[place].sum())
        assert place.sum() == 0 or torch.allclose(found[place], found[place][0])


def test_tokens_that_nobody_shares_keep_their_advantages_bit_for_bit() -> None:
    given_ = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shared_prefix_attribution(given_, torch.arange(15).view(3, 5), torch.ones(3, 5)), given_)
    assert torch.equal(shared_prefix_attribution(given_, -torch.ones(3, 5), torch.zeros(3, 5)), given_)


def test_soft_and_hard_attribution_have_the_same_gradient_before_the_first_update() -> None:
    parameters = torch.randn(8, generator=torch.Generator().manual_seed(1))
    nodes = torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5], [6, 7, 0, 0]])
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    soft = torch.tensor([[1.0], [-0.25], [-0.75]]).expand(3, 4)
    gradients = []
    for chosen in (soft, shared_prefix_attribution(soft, nodes, mask)):
        leaf = parameters.clone().requires_grad_()
        losses = policy_loss.clipped(leaf[nodes], parameters[nodes], chosen, mask)
        losses.sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


# -- the method --------------------------------------------------------------------------------------------------------


def test_the_method_changes_the_rollout_and_nothing_else() -> None:
    base = grpo(group_size=6)
    made = arpo(base, initial=2, width=3, base_probability=0.4, weight=0.3, timing="before", entropy_form="sum")
    assert made.rollout == EntropyBranching(6, 2, 3, 0.4, 0.3, 20, "before", "sum")
    assert replace(made, name=base.name, rollout=base.rollout) == base
    assert arpo(base).rollout == EntropyBranching(group_size=6, initial=3)
    assert arpo(grpo(group_size=1)).rollout.initial == 1  # type: ignore[attr-defined]
    assert arpo(base, attribution="hard").advantages == (*base.advantages, SharedPrefixAttribution())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 9}, "initial must be in"),
        ({"initial": 0}, "initial must be in"),
        ({"width": 0}, "width"),
        ({"tokens": 0}, "tokens"),
        ({"timing": "never"}, "timing"),
        ({"entropy_form": "max"}, "form"),
        ({"max_depth": -1}, "max_depth"),
        ({"threshold": -0.1}, "threshold must be in"),
        ({"threshold": 1.0}, "threshold must be in"),
        ({"attribution": "harsh"}, "attribution"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arpo(grpo(group_size=4), **options)


def test_what_a_base_does_around_its_rollouts_stays() -> None:
    made = arpo(dapo(group_size=6), initial=2)
    assert made.rollout == DynamicSampling(EntropyBranching(group_size=6, initial=2))
    with pytest.raises(ConfigError, match="cannot be forked"):
        made.rollout.check(NeverForks())


def test_a_base_that_branches_already_is_refused() -> None:
    with pytest.raises(ConfigError, match="rollouts of its own"):
        arpo(arpo(grpo(group_size=4)))


@pytest.mark.parametrize("values", [{"initial": 6}, {"initial": 2, "width": 1}, {"initial": 2, "max_depth": 0}])
def test_where_nothing_can_branch_the_groups_are_those_of_independent_rollouts(values: dict[str, Any]) -> None:
    strategy = EntropyBranching(group_size=6, **values)
    assert timeless(collected(strategy)) == timeless(collected(IndependentRollouts(6)))
    assert strategy.metrics() == {"branches": 0, "turns_shared": 0}
    strategy.check(NeverForks())


def test_where_an_answer_is_a_single_turn_the_groups_are_those_of_independent_rollouts() -> None:
    strategy = EntropyBranching(group_size=6, initial=2)
    assert timeless(collected(strategy, WordEnv)) == timeless(collected(IndependentRollouts(6), WordEnv))


def test_branches_follow_from_entropy_and_save_turns() -> None:
    strategy = EntropyBranching(group_size=8, initial=3)
    groups = collected(strategy)
    assert [len(group.trajectories) for group in groups] == [8, 8]
    children = [each for group in groups for each in group.trajectories if each.parent_id]
    assert strategy.metrics()["branches"] == len(children) / 2 > 0
    assert 0 < strategy.metrics()["turns_shared"] < 1
    for child in children:
        now, first, given_ = (
            float(child.metadata[name]) for name in ("branch_entropy", "initial_entropy", "branch_probability")
        )
        assert given_ == pytest.approx(branch_probability(now, first), abs=1e-5)
        assert 0 <= now <= 4 / math.log(257)


def test_above_a_threshold_every_decision_is_a_branch_and_none_below_it() -> None:
    forks = {}
    for threshold in (0.0, 0.4, 0.5, 0.6, 0.99):
        strategy = EntropyBranching(group_size=40, initial=3, weight=0.5, threshold=threshold)
        groups = collected(strategy)
        assert [len(group.trajectories) for group in groups] == [40, 40]
        children = [each for group in groups for each in group.trajectories if each.parent_id]
        for child in children:
            now, first = (float(child.metadata[name]) for name in ("branch_entropy", "initial_entropy"))
            assert branch_probability(now, first, weight=0.5) > threshold - 1e-5
            assert child.metadata["branch_probability"] == "1"
        forks[threshold] = len(children)
    assert forks[0.0] > forks[0.5] > forks[0.99] == 0
    chance = arpo(grpo(), weight=0.2, threshold=0.5).rollout._chance  # type: ignore[attr-defined]
    assert [chance(now, 0.5, 0) for now in (0.4, 0.5, 0.6)] == [0, 0, 1]


def test_hard_attribution_on_groups_that_branched() -> None:
    groups = collected(EntropyBranching(group_size=8, initial=2))
    rows = [trajectory for group in groups for trajectory in group.trajectories]
    rewards = [float(number % 3) for number in range(len(rows))]
    batch = make_batch(rows, rewards, [number // 8 for number in range(len(rows))])
    soft = GroupAdvantage()(batch, batch.advantages)
    hard = SharedPrefixAttribution()(batch, soft)
    sharing = 0
    for position in range(rows[0].turns[0].start, batch.mask.shape[1]):
        for number in {row for row in range(len(rows)) if batch.mask[row, position]}:
            begun = rows[number].token_ids[: position + 1]
            same = [
                row
                for row, each in enumerate(rows)
                if batch.groups[row] == batch.groups[number] and kin(each, rows[number], rows, position)
            ]
            assert all(rows[row].token_ids[: position + 1] == begun for row in same)
            torch.testing.assert_close(hard[number, position], soft[same, position].mean())
            sharing += len(same) > 1
    assert sharing > 50
    torch.testing.assert_close(hard.sum(), soft.sum())


def kin(one: Trajectory, other: Trajectory, rows: list[Trajectory], position: int) -> bool:
    """Whether two trajectories have a token from one and the same draw: from the same ancestor."""
    return owner(one, rows, position) is owner(other, rows, position)


def owner(trajectory: Trajectory, rows: list[Trajectory], position: int) -> Trajectory:
    """Return the trajectory that drew a token first."""
    while trajectory.branch_offset is not None and position < trajectory.branch_offset:
        trajectory = next(each for each in rows if each.id == trajectory.parent_id)
    return trajectory


class NeverForks(CountEnv):
    def _copy(self) -> Any:
        raise NotImplementedError("no")


def test_what_branches_checks_the_environment_and_the_engine_first() -> None:
    with pytest.raises(ConfigError, match="NeverForks cannot be forked"):
        EntropyBranching(group_size=4, initial=2).check(NeverForks())
    EntropyBranching(group_size=4, initial=2).check(CountEnv())
    mute = Wavering()
    mute.vocabulary = 0
    with pytest.raises(ConfigError, match="vocabulary"):
        EntropyBranching().plan(mute)
