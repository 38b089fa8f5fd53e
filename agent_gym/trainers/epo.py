"""EPO: an entropy bonus that holds each token's entropy in a corridor around the mean of the steps before.

Multi-turn training with a sparse reward first lets entropy run away in the early turns and then locks what came of it
in. EPO keeps the bonus and takes it back on tokens whose entropy leaves the corridor, the more so in the early steps.

Source: Xu et al., "EPO: Entropy-regularized Policy Optimization for LLM Agents Reinforcement Learning", 2025
(arXiv 2509.22576), version 2; repository WujiangXu/EPO. Where the two differ, both are here under names of their own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agent_gym.errors import ConfigError, TrainingError, UnknownIdError
from agent_gym.trainers.algorithm import Algorithm, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.grpo import EntropyBonus
from agent_gym.trainers.policy_loss import Aggregation

Form = Literal["hinge", "indicator"]
Schedule = Literal["paper", "repo"]
Reference = Literal["step", "per_turn"]
Missing = Literal["nan", "left_zeros"]


def corridor_penalty(
    entropy: Tensor,
    reference: Tensor | float,
    *,
    low: float = 0.0,
    high: float = 2.0,
    form: Form = "hinge",
    penalty: float = 1.0,
) -> Tensor:
    """How far each token's entropy lies outside [low * reference, high * reference].

    Args:
        entropy: (B, T) in nats; with "hinge" the gradient flows through it.
        reference: Mean entropy of earlier steps, constant; a number, or one a token (B, T). Where it is not above 0
            or not known (NaN) there is no corridor, and the penalty is 0.
        low: Lower bound, a factor of the reference.
        high: Upper bound, likewise.
        form: "hinge" (the paper, version 2): the distance to the corridor, so that the gradient is -1 below, 0
            inside and +1 above. "indicator" (the released code): 1 outside and on the bounds, 0 inside; that has
            **no gradient**, so it moves the logged loss and trains nothing.
        penalty: Factor on either.

    Returns:
        Penalties (B, T).

    Raises:
        UnknownIdError: No such form.

    Source: the paper's L_smooth; WujiangXu/EPO, generate_entropy_penalty.
    """
    reference = torch.as_tensor(reference, dtype=entropy.dtype, device=entropy.device)
    known = reference > 0
    reference = torch.where(known, reference, 0.0)
    if form == "hinge":
        distance = torch.relu(low * reference - entropy) + torch.relu(entropy - high * reference)
    elif form == "indicator":
        fixed = entropy.detach()
        distance = 1.0 - ((low * reference < fixed) & (fixed < high * reference)).to(entropy.dtype)
    else:
        raise UnknownIdError.of("form of EPO's penalty", form, get_args(Form))
    return torch.where(known, penalty * distance, 0.0)


def phase_weight(step: int, total_steps: int, *, gamma: float = 3.0, form: Schedule = "paper") -> float:
    """How much the penalty weighs in a step.

    Args:
        step: From 0; one beyond the horizon counts as the last.
        total_steps: The horizon K.
        gamma: How fast "paper" falls; "repo" has its own constants.
        form: "paper": 1 + exp(-gamma step / floor(K / 2)), from 2 down to almost 1. "repo" (the released code):
            1 - 0.2 (1 - exp(-2 step / h)) up to h = floor(K / 2), and 0.8 exp(-3 (step - h) / (K - h)) after it, from 1
            to 0.83, a jump, and from 0.8 to 0.04.

    Raises:
        TrainingError: There is no horizon.
        UnknownIdError: No such form.

    Source: the paper's beta_k; WujiangXu/EPO, _calculate_epoch_based_entropy_weight.
    """
    if total_steps < 1:
        raise TrainingError("EPO's schedule needs a horizon: set the number of training steps to at least 1.")
    done, half = min(max(step, 0), total_steps), total_steps // 2
    if form == "paper":
        return 1.0 + math.exp(-gamma * done / max(half, 1))
    if form == "repo":
        if done <= half:
            return 1.0 - 0.2 * (1.0 - math.exp(-2.0 * done / max(half, 1)))
        return 0.8 * math.exp(-3.0 * (done - half) / (total_steps - half))
    raise UnknownIdError.of("schedule of EPO", form, get_args(Schedule))


class EntropyHistory:
    """The mean entropies of the steps made so far, and the reference that follows from them: their mean.

    Before the first step there is none, and nothing is penalised.

    Args:
        reference: "step" (the paper): one number a step, the mean over all tokens that the model generated.
            "per_turn" (the released code): one a turn and step, so that each turn has a corridor of its own.
        missing: What stands for the turns that a step did not reach. "nan": they are left out of the mean.
            "left_zeros" (the released code): a shorter step is padded with zeros *on the left*, which moves its turns
            to the wrong places and pulls the reference of the early ones down; a longer one loses its first turns.
        max_turns: The number of turns that "left_zeros" pads to.

    Raises:
        UnknownIdError: No such `reference` or `missing`.
        ConfigError: "left_zeros" without `max_turns` or the other way round, or with "step".

    Source: the paper's cumulative window; WujiangXu/EPO, RayPPOTrainer.fit.
    """

    def __init__(
        self, *, reference: Reference = "step", missing: Missing = "nan", max_turns: int | None = None
    ) -> None:
        if reference not in get_args(Reference):
            raise UnknownIdError.of("reference of EPO", reference, get_args(Reference))
        if missing not in get_args(Missing):
            raise UnknownIdError.of("padding of EPO's reference", missing, get_args(Missing))
        if (missing == "left_zeros") != (max_turns is not None) or (max_turns is not None and reference == "step"):
            raise ConfigError(
                "EPO's missing='left_zeros' and max_turns, the number of turns that it pads to, come together and with "
                "reference='per_turn'."
            )
        self.per_turn = reference == "per_turn"
        self.max_turns = max_turns
        self._steps: list[list[float]] = []

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._steps)

    def measure(self, entropies: Tensor, mask: Tensor, turns: Tensor) -> list[float]:
        """Return what `append` takes: the mean entropy of a step, or of each of its turns.

        Args:
            entropies: (B, T) of the policy that sampled the step, in nats.
            mask: (B, T), 1 on tokens that the model generated.
            turns: (B, T) the number of the turn that each of them is in.

        Returns:
            One number, or one a turn (NaN for a turn without tokens); none where the mask is empty.

        Raises:
            TrainingError: An entropy is not finite.
        """
        kept = mask.bool()
        values = entropies[kept].double()
        if not torch.isfinite(values).all():
            raise TrainingError("An entropy of the sampling policy is not finite: look at the model's logits.")
        if len(values) == 0:
            return []
        places = turns[kept] if self.per_turn else torch.zeros_like(turns[kept])
        means: list[float] = (torch.bincount(places, values) / torch.bincount(places)).tolist()
        return means

    def append(self, means: Sequence[float]) -> None:
        """Add a finished step; one without tokens (no means) adds nothing."""
        if means:
            self._steps.append(list(means))

    def reference(self, *, current: Sequence[float] = ()) -> Tensor | None:
        """Return the mean over the steps: (), or (turns,) in double precision; None before the first step.

        Args:
            current: A step that counts although it has not been appended. The released code counts the step that is
                being trained on; the paper does not.
        """
        steps = [*self._steps, current] if current else self._steps
        if not steps:
            return None
        width = max(map(len, steps))
        if self.max_turns is not None:
            width = self.max_turns
            steps = [[0.0] * (width - len(means)) + list(means[-width:]) for means in steps]
        table = torch.tensor([[*means, *[math.nan] * (width - len(means))] for means in steps], dtype=torch.float64)
        mean = table.nanmean(0)
        return mean if self.per_turn else mean[0]

    def state_dict(self) -> dict[str, Any]:
        """Return the steps as plain numbers, None for turns without tokens."""
        return {"steps": [[None if math.isnan(value) else value for value in means] for means in self._steps]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._steps = [[math.nan if value is None else value for value in means] for means in state["steps"]]


def token_reference(reference: Tensor, turns: Tensor) -> Tensor:
    """Spread a reference over tokens.

    Args:
        reference: (), or (turns,) one a turn.
        turns: (B, T) the turn of each token, -1 where the model generated none.

    Returns:
        The reference itself, or (B, T) with NaN for turns that it does not know.
    """
    if reference.dim() == 0:
        return reference
    reference = reference.to(turns.device)
    known = (turns >= 0) & (turns < len(reference))
    return torch.where(known, reference[turns.clamp(0, len(reference) - 1)], math.nan)


class Corridor:
    """Where a step's entropies should stay: watches the steps as a controller, judges tokens for the loss.

    Args:
        history: The steps before.
        low: Lower bound, a factor of the reference.
        high: Upper bound, likewise.
        form: See `corridor_penalty`.
        schedule: See `phase_weight`.
        gamma: Likewise.
        count_current: Let the step that is trained on count in its own reference, as the released code does; `watch`
            then has to be one of the advantage stages.
    """

    def __init__(
        self,
        history: EntropyHistory,
        *,
        low: float = 0.0,
        high: float = 2.0,
        form: Form = "hinge",
        schedule: Schedule = "paper",
        gamma: float = 3.0,
        count_current: bool = False,
    ) -> None:
        self.history = history
        self.low = low
        self.high = high
        self.form = form
        self.schedule = schedule
        self.gamma = gamma
        self.count_current = count_current
        self._current: list[float] = []

    def watch(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Note the entropies of the step that is about to be trained on; the advantages (B, T) stay as they are."""
        self._current = self.history.measure(batch.entropies, batch.mask, batch.turns)
        return so_far

    def penalty(self, entropy: Tensor, turns: Tensor) -> Tensor:
        """Return `corridor_penalty` (B, T) for tokens of these turns (B, T); 0 while there is no reference."""
        reference = self._reference()
        if reference is None:
            return torch.zeros_like(entropy)
        return corridor_penalty(
            entropy, token_reference(reference, turns), low=self.low, high=self.high, form=self.form
        )

    def weight(self, progress: Progress) -> float:
        """Return the schedule's weight of the penalty."""
        return phase_weight(progress.step, progress.total_steps, gamma=self.gamma, form=self.schedule)

    def update(self, progress: Progress, batch: Batch, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Take the step just made into the history; log where its corridor was and how many tokens lay outside."""
        reference = self._reference()
        logged = {"corridor_weight": self.weight(progress)}
        if reference is not None:
            middle = float(reference.nanmean())
            bounds = token_reference(torch.where(reference > 0, reference, math.nan), batch.turns)
            logged |= {
                "entropy_reference": middle,
                "corridor_low": self.low * middle,
                "corridor_high": self.high * middle,
                "below_corridor": _share(batch.entropies < self.low * bounds, batch.mask),
                "above_corridor": _share(batch.entropies > self.high * bounds, batch.mask),
            }
        self.history.append(self.history.measure(batch.entropies, batch.mask, batch.turns))
        return logged

    def state_dict(self) -> dict[str, Any]:
        """Return the history."""
        return self.history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.history.load_state_dict(state)

    def _reference(self) -> Tensor | None:
        return self.history.reference(current=self._current if self.count_current else ())


def _share(chosen: Tensor, mask: Tensor) -> float:
    return float((chosen & mask.bool()).sum() / mask.sum().clamp(min=1))


@dataclass(frozen=True, slots=True)
class SmoothedEntropyBonus:
    """- coefficient * (entropy - weight of the step * smoothing * penalty)."""

    corridor: Corridor
    coefficient: float
    smoothing: float
    aggregation: Aggregation | None
    needs_entropy_gradient: bool = True
    needs_every_row: bool = True

    def __call__(self, batch: Batch, logprobs: Tensor, entropy: Tensor, progress: Progress) -> Tensor:
        """Return losses (B, T)."""
        size = self.smoothing * self.corridor.weight(progress)
        return -self.coefficient * (entropy - size * self.corridor.penalty(entropy, batch.turns))

    def metrics(self, batch: Batch, logprobs: Tensor, entropy: Tensor) -> Mapping[str, Tensor]:
        """Nothing to add: the corridor logs itself."""
        return {}


def epo(
    base: Algorithm,
    *,
    coefficient: float = 0.001,
    smoothing: float = 0.1,
    low: float = 0.0,
    high: float = 2.0,
    gamma: float = 3.0,
    form: Form = "hinge",
    schedule: Schedule = "paper",
    reference: Reference = "step",
    missing: Missing = "nan",
    max_turns: int | None = None,
    count_current: bool = False,
    bonus_aggregation: Aggregation | None = "turn-mean",
) -> Algorithm:
    """Add EPO's entropy bonus to an algorithm. The defaults are the paper's; the released code's are named.

    Args:
        base: What is added to; it must not have an entropy bonus of its own.
        coefficient: The paper's lambda, of the bonus and the penalty together. 0 trains exactly like the base, and
            logs the corridor.
        smoothing: The paper's alpha, of the penalty: 0.1 for ALFWorld, 0.05 for ScienceWorld. 0 leaves a plain bonus.
        low: The corridor's lower bound, a factor of the mean entropy of the steps before.
        high: Its upper bound.
        gamma: How fast the paper's schedule falls.
        form: "hinge", or "indicator" as in the released code, which has no gradient; see `corridor_penalty`.
        schedule: "paper" or "repo"; see `phase_weight`.
        reference: "step", or "per_turn" as in the released code; see `EntropyHistory`.
        missing: "nan", or "left_zeros" as in the released code; likewise.
        max_turns: Turns that "left_zeros" pads to; likewise.
        count_current: Let a step count in its own reference, as in the released code.
        bonus_aggregation: The mean over tokens, turns and trajectories ("turn-mean"); the released code takes
            "token-mean". None for that of the base.

    Raises:
        ConfigError: A number is out of range, or the base has an entropy bonus.
        UnknownIdError: No such form, schedule, reference or padding.
    """
    _check(base, coefficient=coefficient, smoothing=smoothing, low=low, high=high, gamma=gamma)
    for kind, name, known in (("form of EPO's penalty", form, Form), ("schedule of EPO", schedule, Schedule)):
        if name not in get_args(known):
            raise UnknownIdError.of(kind, name, get_args(known))
    corridor = Corridor(
        EntropyHistory(reference=reference, missing=missing, max_turns=max_turns),
        low=low,
        high=high,
        form=form,
        schedule=schedule,
        gamma=gamma,
        count_current=count_current,
    )
    bonus = (SmoothedEntropyBonus(corridor, coefficient, smoothing, bonus_aggregation),) if coefficient else ()
    return replace(
        base,
        name=f"{base.name}+epo",
        advantages=(*base.advantages, corridor.watch) if count_current else base.advantages,
        losses=(*base.losses, *bonus),
        controllers=(*base.controllers, corridor),
    )


def _check(base: Algorithm, *, coefficient: float, smoothing: float, low: float, high: float, gamma: float) -> None:
    for name, value in (("coefficient", coefficient), ("smoothing", smoothing), ("low", low), ("gamma", gamma)):
        if not value >= 0:
            raise ConfigError(f"EPO's {name} is {value}: it cannot be negative.")
    if not low < high:
        raise ConfigError(f"EPO's corridor runs from {low} to {high} times the reference: low must be below high.")
    if coefficient and any(isinstance(term, EntropyBonus) for term in base.losses):
        raise ConfigError(
            f"The algorithm {base.name!r} has an entropy bonus of its own, and EPO brings one: leave "
            "entropy_coefficient at 0 and set EPO's coefficient."
        )
