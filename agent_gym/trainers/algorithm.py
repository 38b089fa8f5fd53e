"""An algorithm is a composition of seven slots; a method is one file that fills some of them.

Knows no model and no environment: the trainer walks through the slots in their order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from agent_gym.rollout.collect import Collector, OnEpisode
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.policy_loss import Aggregation
from agent_gym.trajectory import Group

RewardFunction = Callable[[Group, list[float]], list[float]]
"""Takes a group and its members' rewards so far, returns new ones. Runs before advantages; may drop nothing."""

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

    def update(self, progress: Progress, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """See the metrics of the step just made; return what to log."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs; plain numbers, strings, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


class Replay(Protocol):
    """Keeps groups of earlier steps and mixes them in."""

    def mix(self, groups: list[Group], progress: Progress) -> list[Group]:
        """See the groups of this step; return those to train on."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""

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


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The seven slots; all optional but the advantages and the losses."""

    name: str
    advantages: tuple[AdvantageStage, ...]
    losses: tuple[LossTerm, ...]
    rollout: RolloutStrategy = field(default_factory=IndependentRollouts)
    rewards: tuple[RewardFunction, ...] = ()
    weights: tuple[WeightFunction, ...] = ()
    controllers: tuple[Controller, ...] = ()
    replay: Replay | None = None
    aggregation: Aggregation = "token-mean"
    """How losses (B, T) become a number, see `policy_loss.aggregate`."""
    loss_scale: float | None = None
    """The constant of "seq-mean-token-sum-norm"."""

    @property
    def needs_entropy_gradient(self) -> bool:
        """Whether some loss differentiates the entropy."""
        return any(term.needs_entropy_gradient for term in self.losses)

    def shape_rewards(self, group: Group) -> list[float]:
        """Return the rewards of a group's valid trajectories, after the chain of reward functions."""
        rewards = [trajectory.reward for trajectory in group.valid]
        for function in self.rewards:
            rewards = function(group, rewards)
        return rewards

    def fill(self, batch: Batch) -> None:
        """Compute the batch's advantages and weights, in place."""
        for stage in self.advantages:
            batch.advantages = stage(batch, batch.advantages) * batch.mask
        for function in self.weights:
            batch.weights = batch.weights * function(batch)

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
