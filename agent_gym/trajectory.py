"""Turn, Trajectory and Group: what happened in an episode, in text and in tokens.

Plain records without behaviour that needs a model: everything later (rewards, advantages, storage, the viewer)
reads them and nothing rewrites the token ids.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Turn:
    """One observation and the action that answered it."""

    observation: str
    """The text that the agent saw before acting."""
    text: str
    """What the model generated, as text."""
    action: str
    """What was handed to the environment."""
    start: int
    """Offset in `Trajectory.token_ids` of the first generated token."""
    end: int
    """Offset just after the last generated token."""
    context_start: int = 0
    """Offset of the first token of the prompt that this turn was generated from. 0 where the prompts grow by appending;
    where each turn has a prompt of its own, they stand one after the other in `Trajectory.token_ids`."""
    reward: float = 0.0
    invalid_action: bool = False
    tool_calls: int = 0
    """Calls of tools that the turn made, where the environment counts them."""
    finish_reason: str = "stop"
    engine_version: int = 0
    """Version of the weights that generated the tokens."""
    engine_seconds: float = 0.0
    env_seconds: float = 0.0
    prompt_tokens: int = 0
    """Tokens that the model read for this turn, its whole prompt; 0 where nobody counted."""
    generated_tokens: int = 0
    """Tokens that it generated, as its server counts them; 0 means those of the ids."""


@dataclass(slots=True)
class Trajectory:
    """The record of one episode.

    `token_ids`, `action_mask`, `logprobs` and `entropies` have one entry a token, T in all. Token ids are those that
    the engine received and returned; they are never made again from text.
    """

    task_id: str
    env_id: str = ""
    id: str = ""
    group_id: str = ""
    seed: int = 0
    goal: str = ""
    turns: list[Turn] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    action_mask: list[int] = field(default_factory=list)
    """1 on tokens that the model generated, 0 on everything else."""
    logprobs: list[float] = field(default_factory=list)
    """Natural log-probability of each generated token under the policy that sampled it; 0 elsewhere."""
    entropies: list[float] = field(default_factory=list)
    """Entropy in nats of the distribution that each generated token was drawn from; 0 elsewhere."""
    final_observation: str = ""
    success: bool = False
    score: float = 0.0
    terminated: bool = False
    truncated: bool = False
    error: str | None = None
    """Why the episode failed, if it did; a failed episode is data, and never counts as a wrong answer."""
    parent_id: str | None = None
    branch_turn: int | None = None
    """The turn before which this trajectory left its parent."""
    branch_offset: int | None = None
    """Leading tokens that it shares with its parent."""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def reward(self) -> float:
        """Sum of the rewards of all turns."""
        return sum(turn.reward for turn in self.turns)

    @property
    def own_turns(self) -> list[Turn]:
        """The turns that this episode took itself; those before were its parent's."""
        return self.turns[self.branch_turn or 0 :]

    @property
    def ended(self) -> bool:
        """Whether the environment or a limit ended the episode."""
        return self.terminated or self.truncated

    @property
    def entropy(self) -> float:
        """Mean entropy in nats over the generated tokens; 0 where nothing was generated."""
        count = sum(self.action_mask)
        return sum(self.entropies) / count if count else 0.0

    def append_context(self, token_ids: Sequence[int]) -> None:
        """Append tokens that the model did not generate (prompt, observation, template)."""
        zeros = [0.0] * len(token_ids)
        self.token_ids.extend(token_ids)
        self.action_mask.extend([0] * len(token_ids))
        self.logprobs.extend(zeros)
        self.entropies.extend(zeros)

    def append_action(self, token_ids: Sequence[int], logprobs: Sequence[float], entropies: Sequence[float]) -> None:
        """Append the tokens of one generation.

        Raises:
            ValueError: The three sequences differ in length.
        """
        if not len(token_ids) == len(logprobs) == len(entropies):
            raise ValueError(
                f"A generation of {len(token_ids)} tokens came with {len(logprobs)} log-probabilities and "
                f"{len(entropies)} entropies."
            )
        self.token_ids.extend(token_ids)
        self.action_mask.extend([1] * len(token_ids))
        self.logprobs.extend(logprobs)
        self.entropies.extend(entropies)


@dataclass(slots=True)
class Group:
    """The trajectories of one task that are compared with each other."""

    id: str
    task_id: str
    trajectories: list[Trajectory] = field(default_factory=list)

    @property
    def valid(self) -> list[Trajectory]:
        """The trajectories that did not fail."""
        return [trajectory for trajectory in self.trajectories if trajectory.error is None]

    @property
    def success_rate(self) -> float:
        """Share of successes among the trajectories that did not fail; NaN where all failed."""
        valid = self.valid
        return statistics.fmean(trajectory.success for trajectory in valid) if valid else float("nan")
