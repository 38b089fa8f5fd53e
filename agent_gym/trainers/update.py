"""Optimiser steps from a batch: mini-batches, micro-batches of similar length, losses, clipping."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agent_gym.errors import TrainingError
from agent_gym.rollout.seeds import derive_seed
from agent_gym.trainers import deepspeed
from agent_gym.trainers.algorithm import Algorithm, LossTerm, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.micro_batches import by_length, by_likeness, cut, end_to_end, in_parts, runs, shares
from agent_gym.trainers.mismatch import mismatch_metrics
from agent_gym.trainers.optimizers import Name, make_optimizer
from agent_gym.trainers.policy_loss import token_weights
from agent_gym.trainers.processes import Processes, alone
from agent_gym.trainers.rowwise import for_each_row
from agent_gym.trainers.scorer import Packing, TokenScorer
from agent_gym.trainers.shared_prefix import unique_tokens
from agent_gym.trainers.streams import Stream, Sums
from agent_gym.trainers.trained import Trained

_NOT_FINITE = "The loss is not finite: lower the learning rate, or look for log-probabilities that are not."


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """How a batch becomes optimiser steps."""

    optimizer: Name = "adamw"
    learning_rate: float = 1e-6
    updates_per_step: int = 1
    """Mini-batches that a step's batch is cut into; one optimiser step each."""
    mini_batch_rows: int | None = None
    """Instead: how many rows a mini-batch has, at most."""
    micro_batch_tokens: int = 16384
    """Tokens, padding included, that go through the model at once."""
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    temperature: float = 1.0
    """That of sampling."""
    final_learning_rate: float = 1.0
    """The learning rate falls to this share of itself over the run."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How it falls."""
    warmup: float = 0.0
    """Share of the run in which the learning rate rises to its full height first."""
    share_prefixes: bool = False
    """Compute what the trajectories of a group begin with in common once, see `shared_prefix`."""
    pack: Packing = "auto"
    """Lay rows end to end instead of padding them, see `TokenScorer`."""
    importance: Literal["off", "token", "turn"] = "off"
    """Whose ratios the losses are multiplied by, see `mismatch.importance_ratios`."""
    importance_cap: float = 2.0
    """Largest such factor."""


class Updater:
    """Owns the optimiser.

    Args:
        model: The policy; trained in place.
        settings: How to train.
        processes: Those that train together, each with the same batches; this one alone if not given.
        shard: Spread the model over them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: UpdateSettings,
        *,
        processes: Processes | None = None,
        shard: bool = False,
    ) -> None:
        self.settings = settings
        self.processes = processes or alone()
        self.device = self.processes.accelerator.device
        scorer = TokenScorer(
            model, temperature=settings.temperature, share_prefixes=settings.share_prefixes, pack=settings.pack
        )
        self.packs = scorer.packs

        def optimizer(_: nn.Module) -> torch.optim.Optimizer:
            return make_optimizer(
                settings.optimizer,
                model,
                learning_rate=settings.learning_rate,
                betas=settings.betas,
                weight_decay=settings.weight_decay,
                copies=not (shard and deepspeed.is_used(self.processes.accelerator)),
            )

        self.trained = Trained(scorer, optimizer, self.processes, shard=shard)
        self.optimizer = self.trained.optimizer

    @property
    def scorer(self) -> Any:
        """What scores rows without gradient, on this process alone unless the model is spread over several."""
        return self.trained.plain

    def step(
        self,
        batch: Batch,
        algorithm: Algorithm,
        progress: Progress,
        *,
        seed: int,
        replay: Batch | None = None,
        log_ratios: Tensor | None = None,
        measured: bool = False,
    ) -> dict[str, float]:
        """Train on a batch whose advantages are filled.

        Rows whose advantages are all 0 are left out where no loss asks for them: they would add nothing but cost.

        Args:
            batch: Rows of this step.
            algorithm: What to optimise.
            progress: Where training stands.
            seed: Of the order of rows.
            replay: Rows of earlier steps, trained on as `algorithm.replay.mode` says.
            log_ratios: (B, T) is written, where given: each token's log-probability when it was trained on, minus
                the batch's old one; rows that are left out stay as they are.
            measured: The caller knows how far the policy is from what sampled.

        Returns:
            Means over the step's updates: loss, entropy, grad_norm, kl, clip fractions, and so on; and how far the
            policy before the first update is from what sampled, on the rows of that update that were computed, or on
            one micro-batch where none were, see `mismatch.mismatch_metrics`.

        Raises:
            TrainingError: A loss or gradient is not finite; the weights are as they were before that update.
        """
        self._set_learning_rate(progress)
        updates = self._updates(len(batch))
        metrics: dict[str, list[float]] = defaultdict(list)
        ratios = torch.zeros_like(batch.mask) if log_ratios is None else log_ratios
        mismatch: dict[str, float] = {}
        parts = cut(len(batch), updates, derive_seed(seed, progress.step))
        mixed = replay is not None and algorithm.replay is not None and algorithm.replay.mode == "summed"
        replayed = []
        if replay is not None:
            # Where they are mixed in, every update has some of them.
            count = updates if mixed else self._updates(len(replay))
            replayed = cut(len(replay), count, derive_seed(seed, progress.step, "replay"))
        for number, rows in enumerate(parts):
            streams = [self._stream(batch, rows, algorithm.losses, algorithm, "", ratios)]
            computed = rows[streams[0].useful]
            if replay is not None and mixed and number < len(replayed):
                streams.append(self._stream(replay, replayed[number], algorithm.replay_losses, algorithm, "replay_"))
            if number == 0 and not len(computed) and not measured:
                mismatch = self._sampled_mismatch(batch)
            self._note(metrics, self._update(streams, progress))
            if number == 0 and len(computed):
                mismatch = _mismatch(batch.select(computed), ratios[computed])
        if replay is not None and not mixed:
            for rows in replayed:
                stream = self._stream(replay, rows, algorithm.replay_losses, algorithm, "replay_")
                self._note(metrics, self._update([stream], progress))
        metrics["updates"] = [float(len(metrics.get("grad_norm", ())))]
        return {name: math.fsum(values) / len(values) for name, values in metrics.items()} | mismatch

    def logprobs(self, batch: Batch) -> Tensor:
        """Return the log-probabilities (B, T) of what was generated, by the model as it is now; 0 elsewhere."""
        self.trained.module.eval()
        logprobs = for_each_row(
            batch,
            lambda part: self.scorer(part.input_ids, part.mask, False, part.groups, part.lengths)[0],
            self.processes,
            tokens=self.settings.micro_batch_tokens,
        )
        self.trained.settle()
        return logprobs

    def _sampled_mismatch(self, batch: Batch) -> dict[str, float]:
        """Return the mismatch on the first micro-batch of rows; those count, too, that a filter has left out."""
        part = batch.select(next(in_parts(batch.lengths, torch.arange(len(batch)), self.settings.micro_batch_tokens)))
        part.mask = (part.versions >= 0).to(part.mask.dtype)
        return mismatch_metrics(self.logprobs(part), part.sampled_logprobs, part.mask)

    def _updates(self, rows: int) -> int:
        size = self.settings.mini_batch_rows
        return self.settings.updates_per_step if size is None else max(1, -(-rows // size))

    @staticmethod
    def _note(metrics: dict[str, list[float]], update: Mapping[str, float]) -> None:
        for name, value in update.items():
            metrics[name].append(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state."""
        return self.trained.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.trained.load_state_dict(state)

    def _stream(
        self,
        batch: Batch,
        rows: Tensor,
        losses: Sequence[LossTerm],
        algorithm: Algorithm,
        prefix: str = "",
        log_ratios: Tensor | None = None,
    ) -> Stream:
        """Prepare the rows of one update: what each token weighs follows from all of them, on all processes."""
        part = batch.select(rows)
        weights = {}
        for mode in {term.aggregation or algorithm.aggregation for term in losses}:
            # The constant must not depend on how a batch was cut.
            scale = float(batch.mask.shape[1]) if algorithm.loss_scale is None else algorithm.loss_scale
            spread, total = token_weights(
                part.mask, mode, scale=scale, turns=part.turns, trajectories=part.trajectories
            )
            weights[mode] = spread / total
        useful = torch.ones(len(part), dtype=torch.bool)
        if not any(term.needs_every_row or term.needs_entropy_gradient for term in losses):
            useful = (part.advantages != 0).any(1)
        modes = tuple(term.aggregation or algorithm.aggregation for term in losses)
        noted = None if log_ratios is None else (log_ratios, rows)
        return Stream(part, useful.nonzero().squeeze(1), tuple(losses), modes, weights, prefix, noted)

    def _update(self, streams: Sequence[Stream], progress: Progress) -> dict[str, float]:
        """Make one optimiser step; none where no row of any stream matters."""
        shared = self._shared_out(streams)
        longest = max(map(len, shared))
        if not longest:
            return {}
        parts = shared[self.processes.rank]
        sums = Sums()
        self.trained.module.train()
        self.optimizer.zero_grad()
        for number, (stream, rows) in enumerate(parts):
            last = number == longest - 1
            with self.trained.forwarding(last=last):
                loss, part_metrics, count = self._loss(stream, rows, progress)
                if not torch.isfinite(loss) and self.processes.count == 1:
                    raise TrainingError(_NOT_FINITE)
                self.trained.backward(loss, last=last)
            sums.add(stream.prefix, float(loss.detach()), part_metrics, count)
            if self.settings.share_prefixes:
                part = stream.batch.select(rows)
                sums.read += unique_tokens(part.input_ids, part.lengths, part.groups)
                sums.length += int(part.lengths.sum())
        for number in range(len(parts), longest):
            self._idle(streams[0].batch, last=number == longest - 1)
        self.trained.agree()
        means = sums.means(self.processes)
        self._share_ratios(streams)
        if not math.isfinite(means["loss"]):
            raise TrainingError(_NOT_FINITE)
        norm = self.trained.clip(self.settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingError("The gradient is not finite: lower the learning rate or max_grad_norm.")
        self.optimizer.step()
        return {"loss": means["loss"], "grad_norm": float(norm)} | means

    def _shared_out(self, streams: Sequence[Stream]) -> list[list[tuple[Stream, Tensor]]]:
        """Return the micro-batches of each process: rows of similar length, about as many tokens for each process.

        Where prefixes are shared, the rows of a group stay together.
        """
        shared: list[list[tuple[Stream, Tensor]]] = [[] for _ in range(self.processes.count)]
        tokens = self.settings.micro_batch_tokens
        for stream in streams:
            lengths = stream.batch.lengths
            if self.settings.share_prefixes:
                rows = by_likeness(stream.batch, stream.useful)
                own = [in_parts(lengths, part, tokens) for part in runs(lengths, rows, self.processes.count)]
            else:
                parted = end_to_end if self.packs else by_length
                own = [parted(lengths, part, tokens) for part in shares(lengths, stream.useful, len(shared))]
            for mine, parts in zip(shared, own, strict=True):
                mine += [(stream, rows) for rows in parts]
        return shared

    def _idle(self, batch: Batch, *, last: bool) -> None:
        """Go through the model with a weightless row, because another process has one micro-batch more."""
        two = batch.input_ids[:1, :2].to(self.device)
        mask = torch.tensor([[0.0, 1.0]], device=self.device)
        with self.trained.forwarding(last=last):
            logprobs, _ = self.trained.module(two, mask)
            self.trained.backward(logprobs.sum() * 0, last=last)

    def _share_ratios(self, streams: Sequence[Stream]) -> None:
        """Put together what each process has noted of its rows."""
        for stream in streams:
            if stream.noted is not None and self.processes.count > 1:
                ratios, origins = stream.noted
                rows = origins[stream.useful]
                ratios[rows] = self.processes.sum(ratios[rows])

    def _loss(self, stream: Stream, rows: Tensor, progress: Progress) -> tuple[Tensor, dict[str, Tensor], float]:
        """Return the loss of a micro-batch, what to log, and the number of tokens that it speaks of."""
        device = self.device
        part = stream.batch.select(rows).to(device)
        gradient = any(term.needs_entropy_gradient for term in stream.losses)
        logprobs, entropy = self.trained.module(part.input_ids, part.mask, gradient, part.groups, part.lengths)
        factors = part.weights * part.importance
        metrics: dict[str, Tensor] = {}

        def summed() -> Tensor:
            loss: Tensor = logprobs.new_zeros(())
            for term, mode in zip(stream.losses, stream.modes, strict=True):
                weights = stream.weights[mode][rows, : part.mask.shape[1]].to(device)
                values = torch.where(part.mask.bool(), term(part, logprobs, entropy, progress) * factors, 0.0)
                loss = loss + (values * weights).sum()
                with torch.no_grad():
                    metrics.update(term.metrics(part, logprobs, entropy))
            return loss

        loss = self.trained.spared(logprobs, summed)
        with torch.no_grad():
            count = part.mask.sum().clamp(min=1)
            metrics["entropy"] = entropy.detach().sum() / count
            if stream.noted is not None:
                ratios, origins = stream.noted
                ratios[origins[rows], : part.mask.shape[1]] = ((logprobs - part.old_logprobs) * part.mask).cpu()
        return loss, metrics, float(part.mask.sum())

    def _set_learning_rate(self, progress: Progress) -> None:
        share = learning_rate_share(self.settings, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * share


def learning_rate_share(settings: UpdateSettings, progress: Progress) -> float:
    """Return the share of its full height that the learning rate has in a step."""
    done = progress.step / max(progress.total_steps, 1)
    if done < settings.warmup:
        return (progress.step + 1) / (settings.warmup * progress.total_steps + 1)
    fallen = (done - settings.warmup) / max(1 - settings.warmup, 1e-9)
    if settings.schedule == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return 1 - (1 - settings.final_learning_rate) * fallen


def _mismatch(batch: Batch, log_ratios: Tensor) -> dict[str, float]:
    """Return how far the policy that an update began with is from what sampled its rows.

    Args:
        batch: The rows, B of them.
        log_ratios: (B, any) each token's log-probability in the update minus its old one.
    """
    proximal = batch.old_logprobs + log_ratios[:, : batch.mask.shape[1]]
    return mismatch_metrics(proximal, batch.sampled_logprobs, batch.mask)
