"""SPEAR: self-imitation with a curriculum.

Good trajectories of earlier steps are trained on again, judged by what is usual now; at first the agent is paid for
using its tools, and the weight moves from the one to the other over training. Tokens whose covariance with the
advantage is large are left out at random, so that entropy does not collapse.

Source: Qin et al., "SPEAR: Learn the Ropes, Then Trust the Wins: Self-imitation with Progressive Exploration for
Agentic Reinforcement Learning", 2025 (arXiv 2509.22601); released code TencentYoutuResearch/SPEAR.
"""

import math
from typing import Literal

from agent_gym.errors import ConfigError
from agent_gym.trainers.replay_buffer import ReplayBuffer, recalibrate

__all__ = ["ReplayBuffer", "imitation_weight", "recalibrate", "tool_call_reward", "tool_reward_weight"]

ToolForm = Literal["turns", "calls", "qwen3"]


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
        calls: Tool calls; the episode's turns in the form "turns".
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
