"""What an update computes: streams of rows that share their losses, and what their micro-batches add up to."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from agent_gym.trainers.algorithm import LossTerm
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.policy_loss import Aggregation
from agent_gym.trainers.processes import Processes, added


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows of one update that share their losses."""

    batch: Batch
    useful: Tensor
    """Rows of the batch that have to be computed."""
    losses: tuple[LossTerm, ...]
    modes: tuple[Aggregation, ...]
    """How each term is summed up."""
    weights: dict[Aggregation, Tensor]
    """(B, T) what each token weighs in that sum."""
    prefix: str
    """Of the metrics' names."""
    noted: tuple[Tensor, Tensor] | None
    """Where log-ratios are written, (B, T) of the step's batch, and which rows of it these are."""


@dataclass(slots=True)
class Sums:
    """What the micro-batches of an update add up to, on one process."""

    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums over tokens."""
    tokens: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By the prefix of the metrics that speak of them."""
    read: int = 0
    """Tokens that went through the model, where prefixes are shared."""
    length: int = 0
    """Tokens of the rows, then."""

    def add(self, prefix: str, loss: float, metrics: Mapping[str, Tensor], count: float) -> None:
        """Add a micro-batch."""
        self.loss += loss
        self.tokens[prefix] += count
        for name, value in metrics.items():
            self.metrics[prefix + name] += float(value) * count

    def means(self, processes: Processes) -> dict[str, float]:
        """Return what to log of the sums of all processes."""
        parts = processes.all(self)
        tokens = added([part.tokens for part in parts])
        means = {"loss": sum(part.loss for part in parts)}
        for name, total in added([part.metrics for part in parts]).items():
            prefix = "replay_" if name.startswith("replay_") else ""
            means[name] = total / max(tokens.get(prefix, 0.0), 1.0)
        length = sum(part.length for part in parts)
        if length:
            means["tokens_spared"] = 1 - sum(part.read for part in parts) / length
        return means
