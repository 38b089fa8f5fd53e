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
    """Mean length of an episode, what a branch shares with its parent included."""
    invalid_actions: float
    """Share of turns."""
    entropy: float
    """Mean over generated tokens, in nats."""
    generated_tokens: int
    """Of the episodes that did not fail; what branches share counts once."""
    retried: int = 0
    """Episodes that were played once more because their worker had died or hung."""
    env_turns: int = 0
    """Turns that were really taken, in failed episodes, too: what branches share counts once."""
    tool_calls: int = 0
    """Calls of tools that were really made, likewise."""

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def score(trajectories: Sequence[Trajectory]) -> Score:
    """Summarise episodes."""
    valid = [trajectory for trajectory in trajectories if trajectory.error is None]
    own = [turn for trajectory in valid for turn in trajectory.own_turns]
    tokens = sum(sum(trajectory.action_mask[trajectory.branch_offset or 0 :]) for trajectory in valid)
    entropy = sum(sum(trajectory.entropies[trajectory.branch_offset or 0 :]) for trajectory in valid)
    nan = float("nan")
    return Score(
        episodes=len(trajectories),
        successes=sum(trajectory.success for trajectory in valid),
        failed=len(trajectories) - len(valid),
        retried=sum("retried" in trajectory.metadata for trajectory in trajectories),
        success_rate=sum(trajectory.success for trajectory in valid) / len(valid) if valid else nan,
        reward=statistics.fmean(trajectory.reward for trajectory in valid) if valid else nan,
        turns=statistics.fmean(len(trajectory.turns) for trajectory in valid) if valid else nan,
        invalid_actions=sum(turn.invalid_action for turn in own) / len(own) if own else nan,
        entropy=entropy / tokens if tokens else nan,
        generated_tokens=tokens,
        env_turns=sum(len(trajectory.own_turns) for trajectory in trajectories),
        tool_calls=sum(turn.tool_calls for trajectory in trajectories for turn in trajectory.own_turns),
    )
