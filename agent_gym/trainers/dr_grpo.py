"""Dr. GRPO: GRPO without what makes long answers and hard or easy tasks count differently.

Advantages are not divided by the group's standard deviation, and losses are summed up over tokens and divided by a
constant instead of by lengths.

Source: Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective", 2025, section 3.2.
"""

from dataclasses import replace
from typing import Any

from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.bases import extends
from agent_gym.trainers.grpo import grpo


@extends(grpo, without=("normalize_std", "aggregation"))
def dr_grpo(*, loss_scale: float = 1024.0, **options: Any) -> Algorithm:
    """The base.

    Args:
        loss_scale: What the sum of all tokens' losses is divided by; constant, so that no step counts more because its
            longest episode is shorter. About the tokens that an episode may have; the paper has the limit on answers.
        **options: Those of `grpo`.
    """
    base = grpo(normalize_std=False, aggregation="seq-mean-token-sum-norm", loss_scale=loss_scale, **options)
    return replace(base, name="dr-grpo")
