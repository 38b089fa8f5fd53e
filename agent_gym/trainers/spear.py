"""SPEAR: self-imitation with a curriculum.

Good trajectories of earlier steps are trained on again, judged by what is usual now; at first the agent is paid for
using its tools, and the weight moves from the one to the other over training. Tokens whose covariance with the
advantage is large are left out at random, so that entropy does not collapse.

Source: Qin et al., "SPEAR: Learn the Ropes, Then Trust the Wins: Self-imitation with Progressive Exploration for
Agentic Reinforcement Learning", 2025 (arXiv 2509.22601); released code TencentYoutuResearch/SPEAR.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.rollout.seeds import derive_seed
from agent_gym.trainers import policy_loss
from agent_gym.trainers.algorithm import Algorithm, LossTerm, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.dr_bot import dr_bot as with_dr_bot
from agent_gym.trainers.grpo import ClippedPolicyLoss, EntropyBonus
from agent_gym.trainers.replay_buffer import ReplayBuffer, recalibrate
from agent_gym.trainers.self_imitation import Mode, SelfImitation
from agent_gym.trajectory import Group, Trajectory

__all__ = [
    "ClipCovLoss",
    "ReplayBuffer",
    "SelfImitation",
    "ToolReward",
    "imitation_weight",
    "recalibrate",
    "spear",
    "tool_call_reward",
    "tool_reward_weight",
]

Keeping = Literal["continuous", "released"]
ToolForm = Literal["turns", "calls", "qwen3"]
ToolSchedule = Literal["none", "constant", "cosine"]


def imitation_weight(step: int, warmup: int, *, coefficient: float = 1.0) -> float:
    """Return the weight of the self-imitation loss: 0 at first, rising along a cosine to the coefficient.

    gamma(t) = coefficient (1 - cos(pi t / warmup)) / 2 up to t = warmup, the coefficient from there on.

    Args:
        step: t; the first step of a run is 1.
        warmup: Steps until the weight is the coefficient; 0 for at once.
        coefficient: The final weight.

    Raises:
        ConfigError: The warm-up is negative.

    Source: SPEAR, eq. of gamma; SPEAR (repository), update_policy.
    """
    _check_horizon("warmup", warmup)
    if step >= warmup:
        return coefficient
    return coefficient * (1 - math.cos(math.pi * step / warmup)) / 2


def tool_reward_weight(step: int, decay: int) -> float:
    """Return the weight of the reward for tool calls: 1 at first, falling along a cosine to 0.

    mu(t) = (1 + cos(pi t / decay)) / 2 up to t = decay, 0 from there on.

    Args:
        step: t; the first step of a run is 1.
        decay: Steps until the weight is 0; 0 for at once.

    Raises:
        ConfigError: The decay is negative.

    Source: SPEAR, eq. of mu; SPEAR (repository), reward functions (mode "cosine").
    """
    _check_horizon("tool_decay", decay)
    if step >= decay:
        return 0.0
    return (1 + math.cos(math.pi * step / decay)) / 2


def tool_call_reward(calls: int, *, solved: bool = False, form: ToolForm = "calls") -> float:
    """Return what an episode's tool calls are worth, in [0, 1]: 0.1 each, at most 1.

    Args:
        calls: Turns that called a tool; all turns in the form "turns".
        solved: Whether the outcome is above 0; read by the form "qwen3" alone.
        form: "calls" (mathematics) and "turns" (agent environments, where each turn acts) pay for each; "qwen3" pays
            for each where the task was not solved, and 1 for any where it was.

    Source: SPEAR (repository), recipe/spear/reward.py (two functions) and agent_system/reward_manager/episode.py.
    """
    if form == "qwen3" and solved:
        return float(calls > 0)
    return min(0.1 * calls, 1.0)


def _check_horizon(name: str, steps: int) -> None:
    if steps < 0:
        raise ConfigError(f"The option {name!r} of spear counts steps: it cannot be {steps}.")


class ToolReward:
    """Adds what a trajectory's tool calls are worth to the reward of its last turn; the weight falls over training.

    A reward function that is its own controller: between the steps it learns which one comes next.

    Args:
        schedule: "cosine", see `tool_reward_weight`, or "constant" (the weight stays 1).
        decay: Steps until the weight of "cosine" is 0.
        form: See `tool_call_reward`.
        coefficient: Factor on all of it. The released code pays at most 1 beside a reward of 10 for success in agent
            environments and of 1 in mathematics.
    """

    def __init__(
        self, *, schedule: ToolSchedule = "cosine", decay: int = 200, form: ToolForm = "turns", coefficient: float = 1.0
    ) -> None:
        self.schedule = schedule
        self.decay = decay
        self.form = form
        self.coefficient = coefficient
        self._step = 1

    @property
    def weight(self) -> float:
        """The weight in the step that comes next, coefficient included."""
        constant = self.schedule == "constant"
        return self.coefficient * (1.0 if constant else tool_reward_weight(self._step, self.decay))

    def __call__(self, group: Group, rewards: list[list[float]]) -> list[list[float]]:
        """Return the rewards a turn of each valid trajectory of the group."""
        return [
            [*row[:-1], row[-1] + self.weight * self._worth(trajectory)] if row else []
            for trajectory, row in zip(group.valid, rewards, strict=True)
        ]

    def update(self, progress: Progress, batch: Batch, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Go on to the next step; log the weight of the one just made."""
        logged = {"tool_reward_weight": self.weight}
        self._step = progress.step + 2
        return logged

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the next step, from 1."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._step = int(state["step"])

    def _worth(self, trajectory: Trajectory) -> float:
        counted = (self.form == "turns" or turn.tool_calls > 0 for turn in trajectory.turns)
        return tool_call_reward(sum(counted), solved=trajectory.reward > 0, form=self.form)


@dataclass(frozen=True, slots=True)
class ClipCovLoss:
    """`policy_loss.clip_cov`; the tokens that are left out follow from the seed, the stream and the step."""

    ratio: float
    low: float
    high: float
    clip_low: float = 0.2
    clip_high: float = 0.28
    stream: Literal["policy", "replay"] = "policy"
    seed: int = 0
    needs_entropy_gradient: bool = False
    needs_every_row: bool = True
    aggregation: policy_loss.Aggregation | None = None

    def __call__(self, batch: Batch, logprobs: Tensor, entropy: Tensor, progress: Progress) -> Tensor:
        """Return losses (B, T)."""
        return policy_loss.clip_cov(
            logprobs,
            batch.old_logprobs,
            batch.advantages,
            batch.mask,
            ratio=self.ratio,
            low=self.low,
            high=self.high,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            generator=torch.Generator().manual_seed(derive_seed(self.seed, "clip-cov", self.stream, progress.step)),
        )

    def metrics(self, batch: Batch, logprobs: Tensor, entropy: Tensor) -> Mapping[str, Tensor]:
        """Return clip fractions and KL; how many tokens are left out does not depend on which."""
        return policy_loss.clip_cov_metrics(
            logprobs,
            batch.old_logprobs,
            batch.advantages,
            batch.mask,
            ratio=self.ratio,
            low=self.low,
            high=self.high,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )


def spear(
    base: Algorithm,
    *,
    coefficient: float = 1.0,
    warmup: int = 200,
    mode: Mode = "summed",
    buffer_size: int = 2048,
    baseline_size: int = 10240,
    max_age: int = 5,
    replay_rows: int | None = None,
    keeping: Keeping = "continuous",
    normalize_replay: bool = False,
    stored_weight: float | None = None,
    tool_reward: ToolSchedule = "cosine",
    tool_decay: int = 200,
    tool_form: ToolForm = "turns",
    tool_coefficient: float = 1.0,
    clip_cov_ratio: float = 2e-4,
    clip_cov_low: float = 1.0,
    clip_cov_high: float = 5.0,
    replay_clip_cov_ratio: float = 0.02,
    replay_clip_cov_low: float = 2.0,
    replay_clip_cov_high: float = 60.0,
    dr_bot: bool = False,
    seed: int = 0,
) -> Algorithm:
    """Add self-imitation, a reward for tool calls and covariance clipping to an algorithm.

    With coefficient 0, tool_reward "none" and clip_cov_ratio 0 it trains exactly like the base. Bounds and horizons are
    the released code's for agent environments; its mathematics has bounds of (1, 40) for replay and a warm-up of 300.

    Args:
        base: What is added to; it must not replay on its own.
        coefficient: Final weight of self-imitation; 0 leaves it out.
        warmup: Steps until that weight, see `imitation_weight`. The released ALFWorld script means 100, and runs at
            200 for want of passing it on.
        mode: "summed" (paper) or "alternate" (released code), see `SelfImitation`.
        buffer_size: Most rows kept.
        baseline_size: Group means that the baseline is the median of.
        max_age: Steps that a row is kept.
        replay_rows: Most rows replayed in a step; None for as many as the step before has brought.
        keeping: "continuous" replays in each step; "released" is the released code: nothing until 1.5 times the
            buffer's size could be replayed, then a power of two, and the buffer is emptied; rows age by the newest step
            that left any.
        normalize_replay: Divide replayed advantages by the median of recent groups' standard deviations, as the
            released code does where the base divides.
        stored_weight: Replay the advantages of the time times this instead of recalibrated ones, in (0, 1]; an option
            of the released code.
        tool_reward: Schedule of the reward for tool calls: "cosine", "constant" or "none".
        tool_decay: Steps until the weight of "cosine" is 0.
        tool_form: "turns", "calls" or "qwen3", see `tool_call_reward`.
        tool_coefficient: Factor on that reward, see `ToolReward`.
        clip_cov_ratio: Share of tokens left out for their covariance, see `policy_loss.clip_cov`; 0 keeps the base's
            loss and its dual clip, in both streams.
        clip_cov_low: Lower bound of the covariance.
        clip_cov_high: Upper bound of the covariance.
        replay_clip_cov_ratio: The same for replayed rows; 0 takes the base's loss for them. The released mathematics
            code reads the three values above in their place, by an oversight.
        replay_clip_cov_low: Likewise.
        replay_clip_cov_high: Likewise.
        dr_bot: Put Dr.BoT under it, see `agent_gym.trainers.dr_bot`.
        seed: Of what is replayed and of what is left out.

    Raises:
        ConfigError: A number is out of range, or the base replays.
        UnknownIdError: No such mode, schedule or form.
    """
    _check_names(
        mode=(mode, Mode),
        keeping=(keeping, Keeping),
        tool_reward=(tool_reward, ToolSchedule),
        tool_form=(tool_form, ToolForm),
    )
    _check_horizon("warmup", warmup)
    _check_horizon("tool_decay", tool_decay)
    for name, value in (
        ("coefficient", coefficient),
        ("clip_cov_ratio", clip_cov_ratio),
        ("replay_clip_cov_ratio", replay_clip_cov_ratio),
    ):
        if not value >= 0:
            raise ConfigError(f"The option {name!r} of spear is {value}: it cannot be negative.")
    if replay_rows is not None and replay_rows < 1:
        raise ConfigError(f"spear cannot replay at most {replay_rows} rows: set coefficient to 0 to replay nothing.")
    if base.replay is not None:
        raise ConfigError(f"The algorithm {base.name!r} replays already: spear cannot be put on top of it.")
    base = with_dr_bot(base) if dr_bot else base
    covariance = ClipCovLoss(clip_cov_ratio, clip_cov_low, clip_cov_high, seed=seed)
    replayed = ClipCovLoss(replay_clip_cov_ratio, replay_clip_cov_low, replay_clip_cov_high, stream="replay", seed=seed)
    changed = replace(base, name=f"{base.name}+spear")
    if clip_cov_ratio:
        changed = _with_covariance_clipping(changed, covariance)
    if tool_reward != "none":
        paid = ToolReward(schedule=tool_reward, decay=tool_decay, form=tool_form, coefficient=tool_coefficient)
        changed = replace(changed, rewards=(*base.rewards, paid), controllers=(*base.controllers, paid))
    if coefficient:
        buffer = ReplayBuffer(
            size=buffer_size,
            baseline_size=baseline_size,
            max_age=max_age,
            age_from="now" if keeping == "continuous" else "newest",
            release="always" if keeping == "continuous" else "overfull",
            normalize_std=normalize_replay,
            stored_weight=stored_weight,
        )
        weight = partial(imitation_weight, warmup=warmup, coefficient=coefficient)
        changed = replace(
            changed,
            replay=SelfImitation(buffer, weight=weight, mode=mode, rows=replay_rows, seed=seed),
            replay_losses=_replay_losses(base, replayed if clip_cov_ratio and replay_clip_cov_ratio else None),
        )
    return changed


def _with_covariance_clipping(base: Algorithm, loss: ClipCovLoss) -> Algorithm:
    """Put covariance clipping in the place of the plain clipped loss, with its clip range."""
    if not any(isinstance(term, ClippedPolicyLoss) for term in base.losses):
        note = f"{base.name}: covariance clipping has no plain clipped loss to replace here, and is left out."
        return replace(base, notes=(*base.notes, note))
    return replace(base, losses=tuple(_ranged(loss, t) if isinstance(t, ClippedPolicyLoss) else t for t in base.losses))


def _replay_losses(base: Algorithm, loss: ClipCovLoss | None) -> tuple[LossTerm, ...]:
    """Return what is optimised on replayed rows: the policy's loss and an entropy bonus, and no KL to a reference."""
    plain = next((term for term in base.losses if isinstance(term, ClippedPolicyLoss)), ClippedPolicyLoss())
    bonus = [term for term in base.losses if isinstance(term, EntropyBonus)]
    return (plain if loss is None else _ranged(loss, plain), *bonus)


def _ranged(loss: ClipCovLoss, plain: ClippedPolicyLoss) -> ClipCovLoss:
    return replace(loss, clip_low=plain.clip_low, clip_high=plain.clip_high)


def _check_names(**options: tuple[str, Any]) -> None:
    for name, (value, known) in options.items():
        if value not in get_args(known):
            raise UnknownIdError.of(f"{name} of spear", value, get_args(known))
