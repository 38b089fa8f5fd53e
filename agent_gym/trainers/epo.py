"""EPO: an entropy bonus that holds each token's entropy in a corridor around the mean of the steps before.

Multi-turn training with a sparse reward first lets entropy run away in the early turns and then locks what came of it
in. EPO keeps the bonus and takes it back on tokens whose entropy leaves the corridor, the more so in the early steps.

Source: Xu et al., "EPO: Entropy-Regularized Policy Optimization for LLM Agents Reinforcement Learning", 2025
(arXiv 2509.22576), version 2; repository WujiangXu/EPO. Where the two differ, both are here under names of their own.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agent_gym.errors import ConfigError, TrainingError, UnknownIdError

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
        ConfigError: "left_zeros" without `max_turns`.

    Source: the paper's cumulative window; WujiangXu/EPO, RayPPOTrainer.fit.
    """

    def __init__(
        self, *, reference: Reference = "step", missing: Missing = "nan", max_turns: int | None = None
    ) -> None:
        if reference not in get_args(Reference):
            raise UnknownIdError.of("reference of EPO", reference, get_args(Reference))
        if missing not in get_args(Missing):
            raise UnknownIdError.of("padding of EPO's reference", missing, get_args(Missing))
        if missing == "left_zeros" and max_turns is None:
            raise ConfigError("EPO's missing='left_zeros' needs max_turns, the number of turns that it pads to.")
        self.per_turn = reference == "per_turn"
        self.missing = missing
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
        if self.missing == "left_zeros" and self.per_turn:
            width = self.max_turns or width
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
    known = (turns >= 0) & (turns < len(reference))
    return torch.where(known, reference[turns.clamp(0, len(reference) - 1)], math.nan)
