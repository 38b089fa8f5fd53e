"""The slots of an algorithm: a method of one's own fills them and nothing else changes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers import WordEnv, run, small_llama, trajectory
from torch import Tensor

from agent_gym.engines.base import Sampling
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.rollout.chat import ByteChat
from agent_gym.rollout.collect import Collector
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.trainers.algorithm import Algorithm, IndependentRollouts, Progress
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.policy_loss import Aggregation
from agent_gym.trainers.update import Updater, UpdateSettings
from agent_gym.trajectory import Group


class Counting:
    """A controller that counts its updates."""

    def __init__(self) -> None:
        self.seen = 0

    def update(self, progress: Progress, batch: Batch, metrics: Mapping[str, float]) -> Mapping[str, float]:
        self.seen += 1
        return {"seen": float(self.seen)}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Keeping(Counting):
    """A replay that trains on the rows of the step before once more."""

    def __init__(self, mode: Literal["alternate", "summed"] = "alternate") -> None:
        super().__init__()
        self.mode = mode
        self.last: Batch | None = None

    def bind(self, fingerprint: str) -> None:
        pass

    def sample(self, progress: Progress) -> Batch | None:
        return self.last

    def add(self, batch: Batch, progress: Progress) -> Mapping[str, float]:
        self.seen += len(batch)
        self.last = batch
        return {"replay_rows": float(self.seen)}


class Imitate:
    """A loss term of one's own: minus the log-probability, weighted by how far training has come."""

    needs_entropy_gradient = False
    needs_every_row = False
    aggregation: Aggregation | None = None

    def __call__(self, batch: Batch, logprobs: Tensor, entropy: Tensor, progress: Progress) -> Tensor:
        return -logprobs * progress.step / progress.total_steps

    def metrics(self, batch: Batch, logprobs: Tensor, entropy: Tensor) -> Mapping[str, Tensor]:
        return {"imitation": (-logprobs * batch.mask).sum() / batch.mask.sum()}


def groups() -> list[Group]:
    made = [trajectory(3, 2, seed=number, reward=float(number == 1)) for number in range(4)]
    made[3].error = "broke"
    return [Group("g", "made", made)]


def test_reward_functions_are_chained_over_the_members_that_did_not_fail() -> None:
    def every_turn_costs(group: Group, rewards: list[list[float]]) -> list[list[float]]:
        return [[reward - 0.1 for reward in row] for row in rewards]

    def double(group: Group, rewards: list[list[float]]) -> list[list[float]]:
        return [[2 * reward for reward in row] for row in rewards]

    [group] = groups()
    assert grpo().shape_rewards(group) == [[0, 0], [0, 1], [0, 0]]
    shaped = replace(grpo(), rewards=(every_turn_costs, double)).shape_rewards(group)
    assert np.allclose(shaped, [[-0.2, -0.2], [-0.2, 1.8], [-0.2, -0.2]])


def test_a_trajectory_that_one_filter_takes_out_is_out() -> None:
    def only(*kept: bool) -> Any:
        return lambda groups, rewards: [list(kept) for _ in groups]

    algorithm = replace(grpo(), filters=(only(True, True, False), only(True, False, True)))
    assert algorithm.keep(groups(), [[0.0, 1.0, 0.0]]) == [[True, False, False]]
    assert grpo().keep(groups(), [[0.0, 1.0, 0.0]]) == [[True, True, True]]


def test_advantage_stages_run_in_their_order_and_never_touch_masked_positions() -> None:
    def spread(batch: Batch, so_far: Tensor) -> Tensor:
        return so_far + torch.ones_like(so_far)

    def double(batch: Batch, so_far: Tensor) -> Tensor:
        return so_far * 2

    def fill(*stages: Any) -> Batch:
        batch = make_batch(groups()[0].valid, [0, 1, 0], [0, 0, 0])
        replace(grpo(), advantages=(*grpo().advantages, *stages)).fill(batch)
        return batch

    base, one, two = fill(), fill(spread, double), fill(double, spread)
    torch.testing.assert_close(one.advantages, (base.advantages + 1) * 2 * base.mask)
    torch.testing.assert_close(two.advantages, (base.advantages * 2 + 1) * base.mask)


def test_weight_functions_multiply_and_the_denominator_stays() -> None:
    def halve(batch: Batch) -> Tensor:
        return torch.full_like(batch.mask, 0.5)

    def loss_of(*weights: Any) -> float:
        model = small_llama()
        algorithm = Algorithm("own", advantages=grpo().advantages, losses=(Imitate(),), weights=weights)
        batch = make_batch(groups()[0].valid, [0, 1, 0], [0, 0, 0])
        algorithm.fill(batch)
        return Updater(model, UpdateSettings()).step(batch, algorithm, Progress(1, 1), seed=0)["loss"]

    assert loss_of(halve) == pytest.approx(loss_of() / 2, rel=1e-5)
    assert loss_of(halve, halve) == pytest.approx(loss_of() / 4, rel=1e-5)


def test_a_loss_term_of_ones_own_sees_the_progress_and_is_logged() -> None:
    algorithm = replace(grpo(), losses=(*grpo().losses, Imitate()))
    losses = []
    for number in (0, 5, 10):
        batch = make_batch(groups()[0].valid, [0, 1, 0], [0, 0, 0])
        algorithm.fill(batch)
        metrics = Updater(small_llama(), UpdateSettings()).step(batch, algorithm, Progress(number, 10), seed=0)
        losses.append(metrics["loss"])
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
    assert losses[2] - losses[0] == pytest.approx(metrics["imitation"], rel=1e-3)


def test_the_state_of_controllers_and_replay_goes_through_the_algorithm() -> None:
    def make() -> Algorithm:
        return replace(grpo(), controllers=(Counting(), Counting()), replay=Keeping())

    algorithm = make()
    batch = make_batch(groups()[0].valid, [0, 1, 0], [0, 0, 0])
    algorithm.controllers[1].update(Progress(0, 1), batch, {})
    assert algorithm.replay is not None and algorithm.replay.add(batch, Progress(0, 1)) == {"replay_rows": 3}
    twin = make()
    twin.load_state_dict(algorithm.state_dict())
    assert twin.state_dict() == {"controllers": [{"seen": 0}, {"seen": 1}], "replay": {"seen": 3}}
    assert grpo().state_dict() == {"controllers": [], "replay": None}
    grpo().load_state_dict(grpo().state_dict())


def test_independent_rollouts_play_so_many_episodes_a_task() -> None:
    collector = Collector(WordEnv, ScriptedEngine(["apple"]), ByteChat(), EpisodeSettings(Sampling(9)))
    seen = []
    made = run(IndependentRollouts(3).collect(collector, ["apple", "dish"], seed=0, prefix="p", on_episode=seen.append))
    assert [[member.success for member in group.trajectories] for group in made] == [[True] * 3, [False] * 3]
    assert len(seen) == 6
