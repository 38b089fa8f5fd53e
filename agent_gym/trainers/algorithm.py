"""An algorithm is a composition of slots; a method is one file that fills some of them.

Knows no model and no environment: the trainer walks through the slots in their order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from agent_gym.env import TextEnv
from agent_gym.rollout.collect import Collector, OnEpisode
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.policy_loss import Aggregation
from agent_gym.trajectory import Group

RewardFunction = Callable[[Group, list[list[float]]], list[list[float]]]
"""Takes a group and its valid members' rewards a turn so far, returns new ones. Runs before advantages."""

RowFilter = Callable[[Sequence[Group], list[list[float]]], list[list[bool]]]
"""Takes the step's groups and the reward of each of their valid members, returns which of these are trained on. The
others still count in what their group is compared with."""

AdvantageStage = Callable[[Batch, Tensor], Tensor]
"""Takes the whole batch and the advantages so far (B, T), returns new ones; the first one estimates. No gradient."""

WeightFunction = Callable[[Batch], Tensor]
"""Returns factors (B, T) for every loss; the denominators of the losses stay as they are. No gradient."""


class RolloutStrategy(Protocol):
    """Which episodes are run for a step, and where they branch."""

    async def collect(
        self, collector: Collector, task_ids: Sequence[str], *, seed: int, prefix: str, on_episode: OnEpisode | None
    ) -> list[Group]:
        """Return one group a task."""

    def check(self, env: TextEnv) -> None:
        """Look, before any step, whether the strategy can work with an environment.

        Raises:
            ConfigError: It cannot.
        """

    def metrics(self) -> Mapping[str, float]:
        """Return what there is to log of the last collection."""


@dataclass(slots=True)
class Progress:
    """Where training stands; steps count from 0."""

    step: int
    total_steps: int


class LossTerm(Protocol):
    """One summand of the loss."""

    @property
    def needs_entropy_gradient(self) -> bool:
        """Whether the term differentiates the entropy."""

    @property
    def needs_every_row(self) -> bool:
        """Whether rows whose advantages are all 0 matter: to this term's losses or to its means over the batch."""

    @property
    def aggregation(self) -> Aggregation | None:
        """How the term's losses become a number; None for the algorithm's way."""

    def __call__(self, batch: Batch, logprobs: Tensor, entropy: Tensor, progress: Progress) -> Tensor:
        """Return losses (B, T) of a micro-batch, coefficient included.

        Args:
            batch: The micro-batch.
            logprobs: (B, T) under the policy that is optimised, with gradient.
            entropy: (B, T), with gradient if the term asks for it.
            progress: Where training stands.
        """

    def metrics(self, batch: Batch, logprobs: Tensor, entropy: Tensor) -> Mapping[str, Tensor]:
        """Return means over the micro-batch's mask, for the log."""


class Controller(Protocol):
    """Moves coefficients between steps."""

    def update(self, progress: Progress, batch: Batch, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """See the batch and the metrics of the step just made; return what to log."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs; plain numbers, strings, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


class Replay(Protocol):
    """Keeps rows of earlier steps and trains on them again."""

    @property
    def mode(self) -> Literal["alternate", "summed"]:
        """Whether replayed rows get optimiser steps of their own after the others, or a summand in each one's loss."""

    def bind(self, fingerprint: str) -> None:
        """Hear, before anything else, which kind of model the rows belong to; rows of another kind are refused."""

    def sample(self, progress: Progress) -> Batch | None:
        """Return rows to train on in this step, advantages and weights filled; None for none."""

    def add(self, batch: Batch, progress: Progress) -> Mapping[str, float]:
        """See the rows of the step just made; return what to log."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs: tensors, plain numbers, strings, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


@dataclass(frozen=True, slots=True)
class IndependentRollouts:
    """The plain strategy: `group_size` episodes of each task, none of which branches."""

    group_size: int = 8

    async def collect(
        self, collector: Collector, task_ids: Sequence[str], *, seed: int, prefix: str, on_episode: OnEpisode | None
    ) -> list[Group]:
        """See `RolloutStrategy.collect`."""
        return await collector.groups(
            list(task_ids), size=self.group_size, seed=seed, prefix=prefix, on_episode=on_episode
        )

    def check(self, env: TextEnv) -> None:
        """Any environment will do."""

    def metrics(self) -> Mapping[str, float]:
        """There is nothing to add."""
        return {}


@dataclass(frozen=True, slots=True)
class CriticSettings:
    """How the critic of an actor-critic method is trained."""

    learning_rate: float = 1e-5
    clip: float = 0.5
    """How far a value may move from what it was when the batch began before its loss is cut off."""
    updates_per_step: int = 1
    """Parts that a step's batch is cut into; one optimiser step each."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises to its full size."""
    max_grad_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The slots; all optional but the advantages and the losses."""

    name: str
    advantages: tuple[AdvantageStage, ...]
    losses: tuple[LossTerm, ...]
    rollout: RolloutStrategy = field(default_factory=IndependentRollouts)
    rewards: tuple[RewardFunction, ...] = ()
    filters: tuple[RowFilter, ...] = ()
    weights: tuple[WeightFunction, ...] = ()
    controllers: tuple[Controller, ...] = ()
    replay: Replay | None = None
    replay_losses: tuple[LossTerm, ...] = ()
    """What is optimised on replayed rows."""
    aggregation: Aggregation = "token-mean"
    """How losses (B, T) become a number, see `policy_loss.aggregate`."""
    loss_scale: float | None = None
    """The constant of "seq-mean-token-sum-norm"."""
    needs_reference: bool = False
    """Whether `Batch.ref_logprobs` are asked for."""
    critic: CriticSettings | None = None
    """How the critic that fills `Batch.values` is trained, if there is one."""
    notes: tuple[str, ...] = ()
    """What whoever chose these pieces should know."""

    @property
    def needs_entropy_gradient(self) -> bool:
        """Whether some loss differentiates the entropy."""
        return any(term.needs_entropy_gradient for term in (*self.losses, *self.replay_losses))

    def shape_rewards(self, group: Group) -> list[list[float]]:
        """Return the rewards a turn of a group's valid trajectories, after the chain of reward functions."""
        rewards = [[turn.reward for turn in trajectory.turns] for trajectory in group.valid]
        for function in self.rewards:
            rewards = function(group, rewards)
        return rewards

    def keep(self, groups: Sequence[Group], rewards: list[list[float]]) -> list[list[bool]]:
        """Return which valid trajectories of each group all filters let pass; `rewards` has one number for each."""
        kept = [[True] * len(group.valid) for group in groups]
        for function in self.filters:
            kept = [
                [one and other for one, other in zip(*pair, strict=True)]
                for pair in zip(kept, function(groups, rewards), strict=True)
            ]
        return kept

    def fill(self, batch: Batch) -> Tensor:
        """Compute the batch's advantages and weights, in place; return what the first stage estimated, (B, T)."""
        estimated = batch.advantages
        for number, stage in enumerate(self.advantages):
            batch.advantages = stage(batch, batch.advantages) * batch.mask
            if number == 0:
                estimated = batch.advantages
        for function in self.weights:
            batch.weights = batch.weights * function(batch)
        return estimated

    def state_dict(self) -> dict[str, Any]:
        """Return the state of controllers and replay."""
        return {
            "controllers": [controller.state_dict() for controller in self.controllers],
            "replay": self.replay.state_dict() if self.replay else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for controller, saved in zip(self.controllers, state["controllers"], strict=True):
            controller.load_state_dict(saved)
        if self.replay is not None:
            self.replay.load_state_dict(state["replay"])
