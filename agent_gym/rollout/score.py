"""What a set of episodes adds up to."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from agent_gym.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Score:
    """Summary of episodes; failed ones are counted apart and enter no mean."""

    episodes: int
    successes: int
    failed: int
    success_rate: float
    """Successes among the episodes that did not fail; NaN where all did."""
    reward: float
    turns: float
    invalid_actions: float
    """Share of turns."""
    entropy: float
    """Mean over generated tokens, in nats."""
    generated_tokens: int
    retried: int = 0
    """Episodes that were played once more because their worker had died or hung."""

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def score(trajectories: Sequence[Trajectory]) -> Score:
    """Summarise episodes."""
    valid = [trajectory for trajectory in trajectories if trajectory.error is None]
    turns = [turn for trajectory in valid for turn in trajectory.turns]
    tokens = sum(sum(trajectory.action_mask) for trajectory in valid)
    nan = float("nan")
    return Score(
        episodes=len(trajectories),
        successes=sum(trajectory.success for trajectory in valid),
        failed=len(trajectories) - len(valid),
        retried=sum("retried" in trajectory.metadata for trajectory in trajectories),
        success_rate=sum(trajectory.success for trajectory in valid) / len(valid) if valid else nan,
        reward=statistics.fmean(trajectory.reward for trajectory in valid) if valid else nan,
        turns=len(turns) / len(valid) if valid else nan,
        invalid_actions=sum(turn.invalid_action for turn in turns) / len(turns) if turns else nan,
        entropy=sum(sum(trajectory.entropies) for trajectory in valid) / tokens if tokens else nan,
        generated_tokens=tokens,
    )
