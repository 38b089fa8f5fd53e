"""What a step's groups teach: rewards, filters, advantages, optimiser steps, critic, replay, controllers, in order.

The trainer collects and keeps; whoever has groups from elsewhere can learn from them with this alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agent_gym.engines.adapters import StartingAdapter, has_adapters
from agent_gym.errors import TrainingError
from agent_gym.rollout.seeds import derive_seed
from agent_gym.trainers import deepspeed, sharding
from agent_gym.trainers.algorithm import Algorithm, Progress
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.critic import Critic
from agent_gym.trainers.dropping import drawing_from
from agent_gym.trainers.mismatch import importance_ratios, mismatch_metrics, weight_metrics
from agent_gym.trainers.processes import Processes, alone
from agent_gym.trainers.reference import Reference
from agent_gym.trainers.signals import Signals, StepSignals
from agent_gym.trainers.update import Updater, UpdateSettings
from agent_gym.trajectory import Group


class Learner:
    """Trains a model with an algorithm.

    Args:
        model: The policy; trained in place.
        algorithm: What to optimise.
        settings: How a batch becomes optimiser steps.
        seed: Of the order of rows and of dropout; the step's number is mixed in.
        reference: The policy as it was before training; needed where the algorithm `needs_reference`.
        processes: Those that train together, each with the same groups; this one alone if not given.
        shard: Spread the model, and what is made of it, over the processes.
        record_signals: Whether `signals` is filled in each step.
        proximal: Whether ratios start from what the model says before the first update, and not from what the engine
            said: where the engine is another implementation, or its weights are older. So it is, too, where the
            settings correct for the difference.

    Raises:
        TrainingError: The algorithm needs a reference, and there is none.
        ConfigError: The model cannot be spread over processes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        algorithm: Algorithm,
        settings: UpdateSettings,
        *,
        seed: int = 0,
        reference: PreTrainedModel | StartingAdapter | None = None,
        processes: Processes | None = None,
        shard: bool = False,
        record_signals: bool = False,
        proximal: bool = False,
    ) -> None:
        self.algorithm = algorithm
        self.seed = seed
        self.record_signals = record_signals
        self.proximal = proximal or settings.importance != "off"
        self.signals: Signals = {}
        """What the last step made of each token, see `agent_gym.trainers.signals`."""
        processes = processes or alone()
        if shard:
            sharding.check(
                adapters=has_adapters(model),
                critic=algorithm.critic is not None,
                reference=algorithm.needs_reference,
            )
        if shard and deepspeed.is_used(processes.accelerator):
            deepspeed.check(
                optimizer=settings.optimizer, adapters=has_adapters(model), critic=algorithm.critic is not None
            )
        if algorithm.needs_reference and reference is None:
            raise TrainingError(
                f"The algorithm {algorithm.name!r} compares with a reference policy: hand in a copy of the model."
            )
        self.critic = None
        if algorithm.critic is not None:
            # It copies the model as it is, so it comes before the model is wrapped.
            self.critic = Critic(
                model,
                algorithm.critic,
                processes=processes,
                micro_batch_tokens=settings.micro_batch_tokens,
                shard=shard,
            )
        self.reference = (
            Reference(
                reference,
                temperature=settings.temperature,
                micro_batch_tokens=settings.micro_batch_tokens,
                processes=processes,
                shard=shard,
            )
            if algorithm.needs_reference and reference is not None
            else None
        )
        if algorithm.replay is not None:
            algorithm.replay.bind(_kind(model))
        self.updater = Updater(model, settings, processes=processes, shard=shard)

    def learn(self, groups: Sequence[Group], progress: Progress) -> dict[str, float]:
        """Make the optimiser steps that a step's groups give rise to.

        Returns:
            What to log.

        Raises:
            TrainingError: No episode is valid, or something is not finite; the weights are as they were.
        """
        processes = self.updater.processes
        # Each process drops other units of other rows.
        chance = derive_seed(self.seed, progress.step, "dropout", processes.rank)
        with drawing_from(chance, processes.accelerator.device):
            return self._learn(groups, progress)

    def _learn(self, groups: Sequence[Group], progress: Progress) -> dict[str, float]:
        batch, kept, estimated = self._prepare(groups, progress)
        replay = self.algorithm.replay
        replayed = replay.sample(progress) if replay is not None else None
        ratios = torch.zeros_like(batch.mask) if self.record_signals else None
        metrics = self.updater.step(
            batch,
            self.algorithm,
            progress,
            seed=self.seed,
            replay=replayed,
            log_ratios=ratios,
            measured=self.proximal,
        )
        if ratios is not None:
            rows = [trajectory for group in groups for trajectory in group.valid]
            self.signals = StepSignals(self.algorithm, batch, estimated, ratios).by_episode(rows)
        metrics |= self._mismatch(batch)
        # The entropy of the log is that of sampling; the update's own has seen fewer rows.
        metrics.pop("entropy", None)
        if self.algorithm.filters:
            metrics["trained_share"] = kept
        if self.critic is not None:
            metrics |= self.critic.step(batch, progress, seed=derive_seed(self.seed, progress.step, "critic"))
        if replay is not None:
            metrics |= replay.add(batch, progress)
        for controller in self.algorithm.controllers:
            metrics |= controller.update(progress, batch, metrics)
        return metrics

    def batch(self, groups: Sequence[Group], progress: Progress) -> tuple[Batch, float]:
        """Return the step's rows, advantages filled, and the share of valid trajectories that are trained on."""
        batch, kept, _ = self._prepare(groups, progress)
        return batch, kept

    def _prepare(self, groups: Sequence[Group], progress: Progress) -> tuple[Batch, float, Tensor]:
        """Return what `batch` does, and the advantages as the first stage estimated them."""
        shaped = [self.algorithm.shape_rewards(group) for group in groups]
        rows = [trajectory for group in groups for trajectory in group.valid]
        if not rows:
            first = groups[0].trajectories[0].error if groups and groups[0].trajectories else "nothing was collected"
            raise TrainingError(
                f"All episodes of step {progress.step + 1} failed; the first said: {str(first).removesuffix('.')}."
            )
        numbers = [number for number, group in enumerate(groups) for _ in group.valid]
        rewards = [reward for group in shaped for reward in group]
        failed = [trajectory for group in groups for trajectory in group.trajectories if trajectory.error is not None]
        batch = make_batch(rows, rewards, numbers, relatives=failed)
        kept = self.algorithm.keep(groups, [[sum(reward) for reward in group] for group in shaped])
        flags = torch.tensor([flag for group in kept for flag in group], dtype=batch.mask.dtype)
        batch.mask = batch.mask * flags[batch.trajectories].unsqueeze(1)
        if self.proximal:
            batch.old_logprobs = self.updater.logprobs(batch)
            batch.importance = self._ratios(batch).clamp(max=self.updater.settings.importance_cap)
        if self.critic is not None:
            batch.values = self.critic.values(batch)
        if self.reference is not None:
            batch.ref_logprobs = self.reference.logprobs(batch)
        estimated = self.algorithm.fill(batch)
        return batch, float(flags.mean()), estimated

    def _ratios(self, batch: Batch) -> Tensor:
        """Return the importance ratio of each token, (B, T); 1 where nothing is corrected."""
        level = self.updater.settings.importance
        if level == "off":
            return torch.ones_like(batch.mask)
        return importance_ratios(
            batch.old_logprobs,
            batch.sampled_logprobs,
            batch.mask,
            level,
            turns=batch.turns,
            trajectories=batch.trajectories,
        )

    def _mismatch(self, batch: Batch) -> dict[str, float]:
        """Return what there is to log of the difference between the policies; the update tells it where it is small."""
        if not self.proximal:
            return {}
        metrics = mismatch_metrics(batch.old_logprobs, batch.sampled_logprobs, batch.mask)
        if self.updater.settings.importance != "off":
            metrics |= weight_metrics(self._ratios(batch), batch.mask, self.updater.settings.importance_cap)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimiser, the algorithm and the critic."""
        return {
            "optimizer": self.updater.state_dict(),
            "algorithm": self.algorithm.state_dict(),
            "critic": self.critic.state_dict() if self.critic is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.updater.load_state_dict(state["optimizer"])
        self.algorithm.load_state_dict(state["algorithm"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])


def _kind(model: PreTrainedModel) -> str:
    """Return what two models have in common whose log-probabilities can be compared."""
    config = model.config.get_text_config()
    return f"{config.model_type}, {config.vocab_size} tokens, {config.hidden_size} x {config.num_hidden_layers}"
