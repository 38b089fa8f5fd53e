"""ARPO: branch where the model becomes uncertain after it has read what the environment answered.

A group begins with fewer episodes than it shall have. Where the entropy of a generation has risen against the first
one of its episode, the episode is likely to branch there; the branches share what lies before, so that the same number
of trajectories costs fewer turns. The advantages are those of the base algorithm.

Source: Dong et al., "Agentic Reinforced Policy Optimization", arXiv 2507.19849; repository RUC-NLPIR/ARPO.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from agent_gym.engines.base import Engine
from agent_gym.env import TextEnv
from agent_gym.errors import ConfigError, TrainingError
from agent_gym.rollout.branching import BranchPlan, Timing, branch_metrics, check_forks, grow_groups
from agent_gym.rollout.collect import Collector, OnEpisode
from agent_gym.trainers.algorithm import Algorithm, IndependentRollouts
from agent_gym.trainers.bases import played_by, player
from agent_gym.trainers.batch import Batch
from agent_gym.trajectory import Group

EntropyForm = Literal["mean", "sum"]
Attribution = Literal["soft", "hard"]


def branch_probability(entropy: float, initial_entropy: float, *, base: float = 0.5, weight: float = 0.2) -> float:
    """Probability that a rollout branches: base + weight * (entropy - initial entropy), kept in [0, 1].

    Paper and released code agree on the number. The released code draws with it ("u - weight * difference <= base", u
    uniform), and so do the strategies here; the paper branches where it exceeds a threshold, see
    `EntropyBranching.threshold`.

    Args:
        entropy: Of the segment that decides, see `segment_entropy`.
        initial_entropy: Of the first segment of the rollout.
        base: Probability at equal entropies.
        weight: What a difference of 1 adds.

    Source: ARPO, section 3.2 (alpha = base, beta = weight); vLLMRolloutWithTools.generate_sequences.
    """
    return clamped(base + weight * (entropy - initial_entropy))


def segment_entropy(
    entropies: Sequence[float], *, vocabulary: int, tokens: int = 20, form: EntropyForm = "mean"
) -> float:
    """How uncertain the model was at the beginning of a segment, in units of ln(vocabulary).

    Args:
        entropies: (n,) entropy in nats of each token of the segment; 0 comes out where there is none.
        vocabulary: Number of tokens that the entropies are over: the vocabulary, or k where they were estimated from
            the k most probable ones. At least 2.
        tokens: So many tokens at most, from the first one.
        form: "mean" over those tokens, in [0, 1]: segments of different lengths can be compared. "sum" is what the
            released code does, of entropies as in `truncated_entropy` and with the size of the vocabulary.

    Raises:
        TrainingError: The vocabulary has fewer than 2 tokens, or an entropy is not finite.

    Source: ARPO, section 3.1; vLLMRolloutWithTools._calc_entropy.
    """
    if vocabulary < 2:
        raise TrainingError(f"A vocabulary of {vocabulary} leaves nothing to be uncertain about: it takes at least 2.")
    first = entropies[:tokens]
    total = math.fsum(first)
    if not math.isfinite(total):
        raise TrainingError("An entropy of the sampling is not finite: look at the model's logits.")
    count = len(first) if form == "mean" else 1
    return total / max(count, 1) / math.log(vocabulary)


def truncated_entropy(logprobs: Sequence[float]) -> float:
    """Entropy in nats of what is known of a distribution, - sum p ln p over the given log-probabilities.

    Not renormalised: the part that is not known is taken to be nothing. The released code has the 10 most probable
    tokens of each position (and the sampled one), and puts those of 20 positions in one list, which sums up the same.

    Source: vLLMRolloutWithTools._calc_entropy.
    """
    return -math.fsum(math.exp(logprob) * logprob for logprob in logprobs)


def shared_prefix_attribution(advantages: Tensor, nodes: Tensor, mask: Tensor) -> Tensor:
    """Hard attribution: a token that several rows share gets the mean of their advantages.

    What all rows of a token get together stays the same. With the default, "soft" attribution (each row keeps its own)
    the gradient is the same at a ratio of 1 when losses are summed over tokens; the two differ by clipping and by the
    means over rows.

    Args:
        advantages: (B, T).
        nodes: (B, T) number of each token in the branch tree: equal where rows share the token and all before it.
        mask: (B, T), 1 on tokens that the model generated; others keep what they have.

    Returns:
        Advantages (B, T).

    Source: ARPO, section 3.3, "hard advantage estimation"; not in the released code.
    """
    chosen = mask.bool()
    values = advantages[chosen]
    _, index = nodes[chosen].unique(return_inverse=True)
    size = int(index.max()) + 1 if index.numel() else 0
    sums = values.new_zeros(size).index_add_(0, index, values)
    counts = values.new_zeros(size).index_add_(0, index, torch.ones_like(values))
    shared = advantages.clone()
    shared[chosen] = (sums / counts)[index]
    return shared


def clamped(value: float) -> float:
    """Return the nearest number in [0, 1]."""
    return min(max(value, 0.0), 1.0)


@dataclass
class EntropyBranching:
    """The rollout strategy of ARPO: groups that branch where the entropy has risen.

    A group has exactly `group_size` trajectories in the end: where nobody plays any more and places are left, a fresh
    episode begins. With `initial` = `group_size` or `width` = 1 nothing branches, and the group is that of
    `IndependentRollouts`.

    Source: ARPO, section 3.1 and algorithm 1; vLLMRolloutWithTools.generate_sequences.
    """

    group_size: int = 16
    """Trajectories a task (M in the paper)."""
    initial: int = 8
    """Episodes that a group begins with (N)."""
    width: int = 2
    """How many ways an episode goes on from one turn at most (beam_size): itself and width - 1 branches."""
    base: float = 0.5
    """Probability to branch at an unchanged entropy."""
    weight: float = 0.2
    """What a rise of the entropy by ln(vocabulary) adds to it."""
    tokens: int = 20
    """Tokens of a generation that its entropy is measured on."""
    timing: Timing = "after"
    """ "after", the paper: the action that answers an observation is sampled first, and a branch leaves before it,
    compared with the first action of its root. "before", the released code: the action before the observation decides,
    a branch leaves after the observation, and is compared with its own first action."""
    form: EntropyForm = "mean"
    """See `segment_entropy`; "sum" is the released code's."""
    max_depth: int | None = None
    """Branches between a root and a leaf at most; None sets no limit."""
    threshold: float | None = None
    """Branch exactly where the probability exceeds it, in [0, 1), as the paper does (tau; its value was not found).
    None draws with the probability, as the released code does."""
    _metrics: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require(self.group_size >= 1, f"group_size must be at least 1, not {self.group_size}")
        require(1 <= self.initial <= self.group_size, f"initial must be in [1, group_size], not {self.initial}")
        require(self.width >= 1, f"width must be at least 1, not {self.width}")
        require(self.tokens >= 1, f"tokens must be at least 1, not {self.tokens}")
        require(self.timing in ("after", "before"), f'timing must be "after" or "before", not {self.timing!r}')
        require(self.form in ("mean", "sum"), f'form must be "mean" or "sum", not {self.form!r}')
        require(
            self.max_depth is None or self.max_depth >= 0, f"max_depth must not be negative, it is {self.max_depth}"
        )
        require(self.threshold is None or 0 <= self.threshold < 1, f"threshold must be in [0, 1), not {self.threshold}")

    async def collect(
        self, collector: Collector, task_ids: Sequence[str], *, seed: int, prefix: str, on_episode: OnEpisode | None
    ) -> list[Group]:
        """See `RolloutStrategy.collect`.

        Raises:
            ConfigError: The engine does not say how large its vocabulary is.
        """
        if self.branches:
            groups = await grow_groups(
                collector, task_ids, self.plan(collector.engine), seed=seed, prefix=prefix, on_episode=on_episode
            )
        else:
            independent = IndependentRollouts(self.group_size)
            groups = await independent.collect(collector, task_ids, seed=seed, prefix=prefix, on_episode=on_episode)
        self._metrics = branch_metrics(groups)
        return groups

    def check(self, env: TextEnv) -> None:
        """See `RolloutStrategy.check`: what branches needs an environment that forks."""
        if self.branches:
            check_forks(env)

    def metrics(self) -> Mapping[str, float]:
        """Return branches a group, and the share of all turns that branches did not have to take again."""
        return self._metrics

    @property
    def branches(self) -> bool:
        """Whether anything can branch."""
        return self.initial < self.group_size and self.width > 1 and self.max_depth != 0

    def plan(self, engine: Engine) -> BranchPlan:
        """Return how groups grow."""
        require(engine.vocabulary > 1, f"{type(engine).__name__} must say how large its vocabulary is")
        return BranchPlan(
            group_size=self.group_size,
            initial=self.initial,
            measure=partial(segment_entropy, vocabulary=engine.vocabulary, tokens=self.tokens, form=self.form),
            probability=self._chance,
            attempts=self.width - 1,
            timing=self.timing,
            max_depth=self.max_depth,
        )

    def _chance(self, entropy: float, initial_entropy: float, in_a_row: int) -> float:
        """Return the probability that the draw is made with: 0 or 1 where a threshold decides."""
        probability = self._probability(entropy, initial_entropy, in_a_row)
        return probability if self.threshold is None else float(probability > self.threshold)

    def _probability(self, entropy: float, initial_entropy: float, in_a_row: int) -> float:
        return branch_probability(entropy, initial_entropy, base=self.base, weight=self.weight)


@dataclass(frozen=True, slots=True)
class SharedPrefixAttribution:
    """`shared_prefix_attribution` on the batch's branch tree."""

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return advantages (B, T)."""
        return shared_prefix_attribution(so_far, batch.nodes, batch.mask)


def arpo(
    base: Algorithm,
    *,
    initial: int | None = None,
    width: int = 2,
    base_probability: float = 0.5,
    weight: float = 0.2,
    tokens: int = 20,
    timing: Timing = "after",
    entropy_form: EntropyForm = "mean",
    max_depth: int | None = None,
    threshold: float | None = None,
    attribution: Attribution = "soft",
) -> Algorithm:
    """Let the rollouts of an algorithm branch; the size of its groups stays.

    Args:
        base: Any algorithm that compares the members of a group.
        initial: Episodes that a group begins with; None is half of it. The size of the group leaves the base as it is.
        width: See `EntropyBranching.width`.
        base_probability: Probability to branch at an unchanged entropy.
        weight: What a rise of the entropy adds to it.
        tokens: Tokens of a generation that its entropy is measured on.
        timing: See `EntropyBranching.timing`.
        entropy_form: See `segment_entropy`.
        max_depth: Branches between a root and a leaf at most.
        threshold: Branch where the probability exceeds it (the paper) instead of with it (the released code).
        attribution: "soft" leaves each trajectory its own advantage on what it shares; "hard" gives what is shared the
            mean of those that share it.

    Raises:
        ConfigError: An option is out of range, or the base branches already.
    """
    size = group_size_of(base)
    rollout = EntropyBranching(
        group_size=size,
        initial=max(1, size // 2) if initial is None else initial,
        width=width,
        base=base_probability,
        weight=weight,
        tokens=tokens,
        timing=timing,
        form=entropy_form,
        max_depth=max_depth,
        threshold=threshold,
    )
    return replace(
        played_by(base, rollout),
        name=f"{base.name}+arpo",
        advantages=(*base.advantages, *attribution_stages(attribution)),
    )


def attribution_stages(attribution: Attribution) -> tuple[SharedPrefixAttribution, ...]:
    """Return what an attribution adds to the stages of the advantages.

    Raises:
        ConfigError: There is no such attribution.
    """
    require(attribution in ("soft", "hard"), f'attribution must be "soft" or "hard", not {attribution!r}')
    return (SharedPrefixAttribution(),) if attribution == "hard" else ()


def group_size_of(base: Algorithm) -> int:
    """Return how many trajectories the base compares with each other.

    Raises:
        ConfigError: Its rollouts are something else than independent already.
    """
    rollout = player(base)
    if not isinstance(rollout, IndependentRollouts):
        raise ConfigError(
            f"{base.name} has rollouts of its own ({type(rollout).__name__}), which cannot branch by another rule: "
            "choose one of the two."
        )
    return rollout.group_size


def require(holds: bool, sentence: str) -> None:
    """Raise a `ConfigError` unless an option is in its range."""
    if not holds:
        raise ConfigError(f"Rollouts cannot branch like this: {sentence}.")
