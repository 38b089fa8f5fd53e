"""The replay buffer: the official code's bookkeeping, and what must hold of any history."""

import io
from dataclasses import fields
from typing import Any

import pytest
import torch
from helpers import golden, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agent_gym.errors import ConfigError, TrainingError
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.replay_buffer import Draw, ReplayBuffer, join, recalibrate

GOLDEN = golden("spear_replay_and_recalibration")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FEW = settings(max_examples=30, deadline=None)


def rows(rewards: list[float], advantages: list[float] | None = None, *, size: int = 4, seed: int = 0) -> Batch:
    """Return one row a reward, in groups of `size`; advantages default to reward - mean of the group."""
    made = [trajectory(2 + number % 3, 1 + number % 4, seed=seed + number) for number in range(len(rewards))]
    batch = make_batch(made, rewards, [number // size for number in range(len(rewards))])
    values = torch.tensor(advantages) if advantages is not None else centred(batch.rewards, batch.groups)
    batch.advantages = values.unsqueeze(1) * batch.mask
    return batch


def centred(rewards: Tensor, groups: Tensor) -> Tensor:
    return torch.stack(
        [reward - rewards[groups == group].mean() for reward, group in zip(rewards, groups, strict=True)]
    )


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kept(buffer: ReplayBuffer) -> list[float]:
    """Return the rewards in the buffer, oldest first."""
    return [float(reward) for batch in buffer.rows for reward in batch.rewards]


# -- the official code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["recalibrated_advantage"]["cases"])
def test_official_recalibration(case: dict[str, Any]) -> None:
    given_ = GOLDEN["recalibrated_advantage"]
    mask = torch.tensor(given_["response_mask"])
    rewards = torch.tensor(given_["token_level_rewards"]).sum(1)
    mean, std = torch.tensor([case["baseline_mean"]]), torch.tensor([case["baseline_std"]])
    found = recalibrate(rewards, mean, deviations=std if case["norm_adv_by_std_in_grpo"] else None)
    torch.testing.assert_close(found.unsqueeze(1) * mask, torch.tensor(case["advantages"]), **CLOSE)


def official(simulation: dict[str, Any]) -> ReplayBuffer:
    weight = simulation["weight_decay_trajectory_replay"]
    return ReplayBuffer(
        size=simulation["buffer_size"],
        baseline_size=simulation["baseline_buffer_size"],
        max_age=simulation["tolerate_steps"],
        age_from="newest",
        release="overfull",
        spread="sample" if simulation["tree"] == "verl" else "population",
        normalize_std=simulation["norm_adv_by_std_in_grpo"],
        stored_weight=weight if 0 < weight <= 1 else None,
    )


def official_batch(step: dict[str, Any], names: dict[str, int]) -> Batch:
    """Return the step's rows; the first token of each is the number of its official id."""
    given_ = step["batch"]
    groups = sorted(set(given_["uid"]))
    batch = rows(given_["outcome_reward"], given_["advantages_row"])
    batch.groups = torch.tensor([groups.index(name) for name in given_["uid"]])
    for row, name in enumerate(given_["traj_uid"]):
        batch.input_ids[row, 0] = names.setdefault(name, len(names))
    return batch


@pytest.mark.parametrize("simulation", GOLDEN["simulations"], ids=lambda s: f"{s['tree']}-{s['seed']}")
def test_official_simulation(simulation: dict[str, Any]) -> None:
    buffer, names = official(simulation), {}  # type: ReplayBuffer, dict[str, int]
    for step in simulation["trace"]:
        assert buffer.replayable() == step["size_before"]
        replay = step.get("replay", {})
        draw = buffer.draw(step["step"], generator=chance(replay.get("torch_manual_seed", 0)))
        assert (draw is not None) == step["full"]
        if replay:
            check_replay(draw, replay, names)
        buffer.add(official_batch(step, names), step["step"], allowed=torch.tensor(step["batch"]["has_tool_call"]))
        check_bookkeeping(buffer, step, names)


def check_replay(draw: Draw | None, replay: dict[str, Any], names: dict[str, int]) -> None:
    assert draw is not None
    assert draw.rows.input_ids[:, 0].tolist() == [names[name] for name in replay["traj_uid"]]
    for row, (values, mask) in enumerate(zip(replay["advantages"], replay["response_mask"], strict=True)):
        expected = torch.tensor(values)[torch.tensor(mask).bool()][0]
        ours = draw.rows.advantages[row][draw.rows.mask[row].bool()]
        torch.testing.assert_close(ours, expected.expand_as(ours), **CLOSE)
    assert (draw.rows.advantages[~draw.rows.mask.bool()] == 0).all()


def check_bookkeeping(buffer: ReplayBuffer, step: dict[str, Any], names: dict[str, int]) -> None:
    state = buffer.state_dict()
    found = {str(each["step"]): each["rows"]["input_ids"][:, 0].tolist() for each in state["stored"]}
    assert found == {key: [names[name] for name in ids] for key, ids in step["kept_traj_uid_by_step"].items()}
    assert [each["step"] for each in state["history"]] == step["baseline_history_steps"]
    newest = state["history"][-1]
    torch.testing.assert_close(newest["means"].float(), torch.tensor(step["group_means"]), **CLOSE)
    torch.testing.assert_close(newest["deviations"].float(), torch.tensor(step["group_stds"]), **CLOSE)
    assert float(buffer.baselines.median()) <= step["median_of_history"] + 1e-6
    assert float(buffer.baselines.quantile(0.5)) == pytest.approx(step["median_of_history"], abs=1e-6)
    assert buffer.replayable() == step["size_after"]


def test_where_the_official_code_crashes_only_rows_above_the_baseline_are_replayed() -> None:
    simulation = next(each for each in GOLDEN["simulations"] if each["tree"] == "verl-agent")
    buffer, names, draws = official(simulation), {}, 0  # type: ReplayBuffer, dict[str, int], int
    for step in simulation["trace"]:
        draw = buffer.draw(step["step"], generator=chance())
        if "replay_error" in step:
            assert draw is not None and len(draw.rows) == simulation["buffer_size"]
            assert (draw.rows.advantages[draw.rows.mask.bool()] > 0).all()
            draws += 1
        buffer.add(official_batch(step, names), step["step"])
    assert draws == 2


# -- recalibration -------------------------------------------------------------------------------------------------

REWARDS = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=8)


@FEW
@given(rewards=REWARDS, means=REWARDS, shift=st.floats(0.125, 2, width=32))
def test_differences_are_those_of_rewards_and_a_higher_baseline_lowers_all(
    rewards: list[float], means: list[float], shift: float
) -> None:
    values, baselines = torch.tensor(rewards), torch.tensor(means)
    found = recalibrate(values, baselines)
    torch.testing.assert_close(found - found[0], values - values[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(recalibrate(values, baselines + shift), found - shift, atol=1e-5, rtol=1e-5)


def test_without_a_history_nothing_can_be_judged() -> None:
    with pytest.raises(TrainingError, match="no baseline"):
        recalibrate(torch.ones(2), torch.zeros(0))
    assert ReplayBuffer().draw(0, generator=chance()) is None


# -- what goes in, what comes out ----------------------------------------------------------------------------------


def test_rows_with_a_positive_advantage_are_kept_and_those_above_the_baseline_replayed() -> None:
    buffer = ReplayBuffer()
    buffer.add(rows([1.0, 0, 0, 0, 5, 4, 3, 4]), 0)
    assert kept(buffer) == [1, 5]
    draw = buffer.draw(1, generator=chance())
    assert draw is not None
    # Group means 0.25 and 4: the median is 2.125.
    assert draw.rows.rewards.tolist() == [5.0]
    assert draw.rows.advantages[0][draw.rows.mask[0].bool()].tolist() == [2.875] * int(draw.rows.mask[0].sum())
    assert draw.ages.tolist() == [1]


@pytest.mark.parametrize("above", [0, 1])
def test_a_reward_equal_to_the_baseline_or_above_it_by_rounding_alone_is_not_replayed(above: int) -> None:
    batch = rows([0.9] * 3, [1.0] * 3, size=3)
    for _ in range(above):
        batch.rewards[2] = torch.nextafter(batch.rewards[2], torch.tensor(1.0))
    buffer = ReplayBuffer()
    buffer.add(batch, 0)
    assert len(buffer) == 3
    assert buffer.draw(1, generator=chance()) is None


def test_a_rising_baseline_takes_rows_out() -> None:
    buffer = ReplayBuffer()
    buffer.add(rows([1.0, 0, 0, 0]), 0)
    assert buffer.replayable() == 1
    buffer.add(rows([2.0] * 4), 1)
    buffer.add(rows([2.0] * 4), 2)
    assert len(buffer) == 1 and buffer.replayable() == 0


def test_everything_of_a_row_comes_back() -> None:
    batch = rows([1.0, 0, 0, 0, 1, 1, 0, 0])
    batch.weights = 0.5 * batch.mask
    buffer = ReplayBuffer()
    buffer.add(batch, 0)
    draw = buffer.draw(1, generator=chance())
    assert draw is not None
    for ours, theirs in zip(range(3), (0, 4, 5), strict=True):
        length = int(batch.lengths[theirs])
        for name in ("input_ids", "mask", "old_logprobs", "entropies", "turns", "weights", "token_rewards"):
            assert torch.equal(getattr(draw.rows, name)[ours, :length], getattr(batch, name)[theirs, :length]), name
    batch.old_logprobs.fill_(7)
    assert not (draw.rows.old_logprobs == 7).any() and not (buffer.rows[0].old_logprobs == 7).any()


def test_the_wider_batch_sets_the_width_and_numbers_never_meet() -> None:
    narrow, wide = rows([1.0, 0, 0, 0]), rows([1.0, 0, 0, 0], seed=9)
    wide = join([wide, make_batch([trajectory(9, 9, seed=3)], [0.0], [0])])
    both = join([narrow, wide])
    assert both.mask.shape == (9, wide.mask.shape[1])
    width = narrow.mask.shape[1]
    assert (both.turns[:4, width:] == -1).all() and (both.nodes[:4, width:] == -1).all()
    assert (both.mask[:4, width:] == 0).all() and (both.input_ids[:4, width:] == 0).all()
    assert both.groups.tolist() == [0] * 4 + [1] * 4 + [2]
    assert both.trajectories.tolist() == list(range(9))
    for name in ("nodes", "states"):
        numbers = [set(part.unique().tolist()) - {-1} for part in getattr(both, name).split([4, 4, 1])]
        assert not numbers[0] & numbers[1] and not numbers[1] & numbers[2]


def test_turns_of_one_trajectory_count_once_in_the_baseline() -> None:
    batch = rows([1.0, 1, 1, 0])
    batch.trajectories = torch.tensor([0, 0, 0, 1])
    buffer = ReplayBuffer()
    buffer.add(batch, 0)
    assert buffer.baselines.tolist() == [0.5]


def test_rows_that_a_filter_took_out_are_not_kept_but_count_in_the_baseline() -> None:
    batch = rows([4.0, 0, 0, 0])
    batch.mask[0] = 0
    buffer = ReplayBuffer()
    buffer.add(batch, 0)
    assert buffer.baselines.tolist() == [1.0] and len(buffer) == 0


@pytest.mark.parametrize("spoil", ["rewards", "advantages"])
def test_what_is_not_finite_is_refused(spoil: str) -> None:
    batch = rows([1.0, 0, 0, 0])
    getattr(batch, spoil)[0] = float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        ReplayBuffer().add(batch, 0)


@pytest.mark.parametrize("values", [{"size": 0}, {"baseline_size": 0}, {"max_age": 0}])
def test_sizes_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        ReplayBuffer(**values)  # type: ignore[arg-type]


# -- bounds --------------------------------------------------------------------------------------------------------

HISTORIES = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=4), min_size=1, max_size=8)


@FEW
@given(history=HISTORIES, size=st.integers(1, 6), max_age=st.integers(1, 4), limit=st.integers(1, 9))
def test_no_history_exceeds_the_size_the_age_or_the_limit(
    history: list[list[float]], size: int, max_age: int, limit: int
) -> None:
    buffer = ReplayBuffer(size=size, max_age=max_age, baseline_size=3)
    for step, rewards in enumerate(history):
        draw = buffer.draw(step, generator=chance(step), limit=limit)
        if draw is not None:
            assert len(draw.rows) <= min(size, limit)
            assert (draw.rows.advantages[draw.rows.mask.bool()] > 0).all()
            assert int(draw.ages.min()) >= 1 and int(draw.ages.max()) <= max_age
        buffer.add(rows(rewards), step)
        assert len(buffer) <= size
        assert len(buffer.baselines) <= 3 + 1


def test_first_in_first_out() -> None:
    buffer = ReplayBuffer(size=3)
    buffer.add(rows([1.0, 1.1, 0, 0]), 0)
    buffer.add(rows([1.2, 1.3, 0, 0]), 1)
    assert kept(buffer) == pytest.approx([1.1, 1.2, 1.3])


@pytest.mark.parametrize(("age_from", "left"), [("now", 0), ("newest", 1)])
def test_steps_that_store_nothing_age_the_rows_unless_age_is_from_the_newest(age_from: Any, left: int) -> None:
    buffer = ReplayBuffer(max_age=2, age_from=age_from)
    buffer.add(rows([1.0, 0, 0, 0]), 0)
    for step in (1, 2, 3):
        buffer.add(rows([0.0] * 4), step)
    assert len(buffer) == left
    assert (buffer.draw(9, generator=chance()) is None) == (left == 0)


@pytest.mark.parametrize("age_from", ["now", "newest"])
def test_rows_of_just_the_greatest_age_are_still_replayed(age_from: Any) -> None:
    buffer = ReplayBuffer(max_age=2, age_from=age_from)
    for step in (0, 1, 2, 3):
        if step == 2:
            draw = buffer.draw(step, generator=chance())
            assert draw is not None and draw.ages.tolist() == [2, 1]
        buffer.add(rows([1.0, 0, 0, 0]), step)
    ages = [4 - each["step"] for each in buffer.state_dict()["stored"]]
    # Released code: the newest of the rows was that of step 2 when those of step 3 came in.
    assert ages == ([3, 2, 1] if age_from == "now" else [4, 3, 2, 1])


def test_stored_rows_hold_no_more_memory_than_their_own() -> None:
    batch = join([rows([1.0, 0, 0, 0]), make_batch([trajectory(50, 50, seed=3)], [0.0], [0])])
    buffer = ReplayBuffer()
    buffer.add(batch, 0)
    for field in fields(Batch):
        stored = getattr(buffer.rows[0], field.name)
        assert stored.untyped_storage().nbytes() == stored.numel() * stored.element_size(), field.name


# -- resuming ------------------------------------------------------------------------------------------------------


def test_a_buffer_that_was_saved_goes_on_with_the_same_numbers() -> None:
    one = ReplayBuffer(size=5, fingerprint="llama, 64 tokens")
    for step in range(3):
        one.add(rows([1.0, 0.5, 0, 0, 1, 1, 0, step]), step)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two = ReplayBuffer(size=5, fingerprint="llama, 64 tokens")
    two.load_state_dict(torch.load(file, weights_only=True))
    for step in range(3, 6):
        draws = [buffer.draw(step, generator=chance(step), limit=2) for buffer in (one, two)]
        assert draws[0] is not None and draws[1] is not None
        for field in fields(Batch):
            assert torch.equal(getattr(draws[0].rows, field.name), getattr(draws[1].rows, field.name)), field.name
        for buffer in (one, two):
            buffer.add(rows([step / 2, 0.5, 0, 0]), step)


def test_a_buffer_of_another_model_is_refused_and_the_message_names_both() -> None:
    full = ReplayBuffer(fingerprint="llama, 64 tokens")
    full.add(rows([1.0, 0, 0, 0]), 0)
    other = ReplayBuffer(fingerprint="qwen3, 151936 tokens")
    with pytest.raises(TrainingError, match=r"llama, 64 tokens.*qwen3, 151936 tokens"):
        other.load_state_dict(full.state_dict())
    assert len(other) == 0
