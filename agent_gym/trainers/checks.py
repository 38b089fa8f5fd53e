"""What must hold of numbers before anything is trained on them."""

import torch
from torch import Tensor

from agent_gym.errors import TrainingError

REMEDIES = {
    "reward": "look at the environment's rewards and at the reward functions",
    "value": "lower the critic's learning rate",
    "log-probability": "lower the learning rate, or sample with a lower top_p or at a temperature nearer to 1",
    "reference log-probability": "look at the model that training began with",
    "entropy": "look at the model's logits",
    "advantage": "look at the rewards and at the stages that change advantages",
    "return": "look at the rewards, and lower the critic's learning rate",
}
"""What may be NaN or infinite, and what to do about it."""


def require_finite(what: str, values: Tensor, mask: Tensor | None = None) -> None:
    """Refuse numbers that are NaN or infinite.

    Args:
        what: Their name, a key of `REMEDIES`.
        values: Any shape.
        mask: Of the same shape; only values where it is 1 count. Everything, if not given.

    Raises:
        TrainingError: One of them is not finite.
    """
    finite = torch.isfinite(values)
    if not (finite if mask is None else finite | ~mask.bool()).all():
        article = "An" if what[0] in "aeiou" else "A"
        raise TrainingError(f"{article} {what} is not finite: {REMEDIES[what]}.")
