"""The loss of a critic, a token: plain tensors, no configuration objects."""

import torch
from torch import Tensor

from agent_gym.trainers.checks import require_finite
from agent_gym.trainers.policy_loss import masked_mean


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float = 0.5, factor: float = 0.5
) -> Tensor:
    """Squared errors of a critic, the larger of two: as it is, and with its change since the batch began bounded.

    Args:
        values: (B, T) of the critic; the gradient flows through these.
        old_values: (B, T) before the update.
        returns: (B, T) to be learnt.
        mask: (B, T), 1 on tokens that the model generated; losses elsewhere are 0.
        clip: How far a value may move from its old one before its error counts as if it had not.
        factor: Of the squares; older copies of verl have 1.

    Returns:
        Losses (B, T).

    Raises:
        TrainingError: A value or a return is not finite.

    Source: Schulman et al., PPO's reference implementation (openai/baselines); verl, compute_value_loss.
    """
    require_finite("value", values.detach(), mask)
    require_finite("return", returns, mask)
    plain, bounded = _squared_errors(values, old_values, returns, mask, clip)
    return factor * torch.maximum(plain, bounded)


def value_metrics(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float = 0.5
) -> dict[str, Tensor]:
    """How good a critic is, as means over the mask; arguments as in `value_loss`.

    Returns:
        Scalars: "value_clip_fraction" (the bounded error is the larger one), "value_error" (mean of squared errors).
    """
    plain, bounded = _squared_errors(values, old_values, returns, mask, clip)
    return {
        "value_clip_fraction": masked_mean((bounded > plain).float(), mask),
        "value_error": masked_mean(plain, mask),
    }


def _squared_errors(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    kept = mask.bool()
    values, old, targets = (torch.where(kept, each, 0.0) for each in (values, old_values, returns))
    near = torch.maximum(torch.minimum(values, old + clip), old - clip)
    return (values - targets) ** 2, (near - targets) ** 2
