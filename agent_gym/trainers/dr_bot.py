"""Dr.BoT: the strong baseline under SPEAR, a handful of habits that keep agents from collapsing.

No division by the group's standard deviation, a wide clip range, the sum over tokens divided by a constant, and two
filters: groups that teach little and trajectories that went wrong are not trained on.

Source: Qin et al., "SPEAR: Learn the Ropes, Then Trust the Wins", 2025; SPEAR (repository), RayPPOTrainer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agent_gym.errors import ConfigError
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.grpo import ClippedPolicyLoss, GroupAdvantage
from agent_gym.trajectory import Group, Trajectory, Turn


def most_varied(rewards: Tensor, groups: Tensor, *, share: float = 0.75) -> Tensor:
    """Choose the groups whose rewards differ most: int(share * number of groups) of them, but at least one.

    Of groups that differ equally the first are chosen. The released code also cuts the rows that are left to a power of
    two at random; this does not.

    Args:
        rewards: (N,) one a trajectory.
        groups: (N,) integer ids.
        share: In (0, 1]; 1 keeps all.

    Returns:
        (N,) bool, True for the members of a chosen group.

    Source: SPEAR, RayPPOTrainer._filter_rollout (type "std"; population standard deviation).
    """
    ids, index = groups.unique(return_inverse=True)
    deviations = torch.stack([rewards[index == number].double().std(correction=0) for number in range(len(ids))])
    kept = deviations.argsort(descending=True, stable=True)[: max(1, int(share * len(ids)))]
    return torch.isin(index, kept)


def is_repetitive(token_ids: Sequence[int], *, length: int = 20, times: int = 10) -> bool:
    """Whether some run of `length` tokens occurs at least `times` times, overlaps included."""
    runs = Counter(tuple(token_ids[start : start + length]) for start in range(len(token_ids) - length + 1))
    return max(runs.values(), default=0) >= times


@dataclass(frozen=True, slots=True)
class VariedGroups:
    """A row filter: trains on the `share` of groups whose rewards differ most, see `most_varied`."""

    share: float = 0.75

    def __call__(self, groups: Sequence[Group], rewards: list[list[float]]) -> list[list[bool]]:
        """Return for each group which of its valid trajectories are trained on."""
        numbers = torch.tensor([number for number, own in enumerate(rewards) for _ in own], dtype=torch.long)
        if len(numbers) == 0:
            return [[] for _ in rewards]
        flat = torch.tensor([reward for own in rewards for reward in own])
        kept = iter(most_varied(flat, numbers, share=self.share).tolist())
        return [[next(kept) for _ in own] for own in rewards]


@dataclass(frozen=True, slots=True)
class SoundTrajectories:
    """A row filter: does not train on trajectories that are over-long, incomplete or repetitive.

    Over-long: ended by the limit on tokens. Incomplete: the last turn was cut off, or no action could be read from it.
    Repetitive: some turn is, see `is_repetitive`; that an agent does the same in many turns is no such case.
    """

    length: int = 20
    times: int = 10

    def __call__(self, groups: Sequence[Group], rewards: list[list[float]]) -> list[list[bool]]:
        """Return for each group which of its valid trajectories are trained on."""
        return [[self._is_sound(trajectory) for trajectory in group.valid] for group in groups]

    def _is_sound(self, trajectory: Trajectory) -> bool:
        overlong = trajectory.metadata.get("truncated_by") == "tokens"
        last = trajectory.turns[-1] if trajectory.turns else None
        incomplete = last is None or last.finish_reason == "length" or not last.action
        return not (overlong or incomplete or any(self._repeats(trajectory, turn) for turn in trajectory.turns))

    def _repeats(self, trajectory: Trajectory, turn: Turn) -> bool:
        return is_repetitive(trajectory.token_ids[turn.start : turn.end], length=self.length, times=self.times)


def dr_bot(
    base: Algorithm,
    *,
    share: float = 0.75,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    loss_scale: float = 1024.0,
) -> Algorithm:
    """Put Dr.BoT under an algorithm.

    Group advantages are not divided by the standard deviation, the plain clipped loss gets a wide range, and losses
    are summed up by "seq-mean-token-sum-norm". GiGPO's own division stays, as in the released code.

    Args:
        base: What is changed. A penalty on the divergence from a reference stays, while Dr.BoT's own recipe has none.
        share: Of groups that are trained on, see `most_varied`.
        clip_low: Lower clip range.
        clip_high: Upper clip range.
        dual_clip: Bound of the ratio where the advantage is negative.
        loss_scale: What the sum of all tokens' losses is divided by, where the base has no such constant.

    Raises:
        ConfigError: The share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ConfigError(f"Dr.BoT trains on a share of the groups, in (0, 1]: it cannot be {share}.")
    advantages = tuple(
        replace(stage, normalize_std=False) if isinstance(stage, GroupAdvantage) else stage for stage in base.advantages
    )
    losses = tuple(
        replace(term, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
        if isinstance(term, ClippedPolicyLoss)
        else term
        for term in base.losses
    )
    return replace(
        base,
        name=f"{base.name}+dr-bot",
        advantages=advantages,
        losses=losses,
        filters=(*base.filters, VariedGroups(share), SoundTrajectories()),
        aggregation="seq-mean-token-sum-norm",
        loss_scale=loss_scale if base.loss_scale is None else base.loss_scale,
    )
