"""What an evaluation may use up: tokens, dollars and seconds, counted as its episodes end."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from agent_gym.config import LimitsSection
from agent_gym.errors import ConfigError
from agent_gym.rollout.collect import Job
from agent_gym.rollout.spending import spent_on
from agent_gym.trajectory import Trajectory

_INSTEAD: Final = "limit tokens or seconds instead (--max-tokens-total, --max-seconds)."
_NO_PRICE: Final = f"limits.cost needs a model with a price, and {{model}} does not say what it costs: {_INSTEAD}"
_NO_USAGE: Final = (
    "limits.cost cannot be kept: the server of {model} does not say how many tokens it has read and generated, so that "
    f"what they cost is not known; {_INSTEAD}"
)


@dataclass(frozen=True, slots=True)
class UsedUp:
    """A limit that was reached."""

    limit: str
    """Its name in the configuration: "tokens", "cost" or "seconds"."""
    words: str
    more: float
    """A limit with which the run goes on: as much again."""


class Budget:
    """Lets episodes begin until something is used up.

    Tokens and dollars are those of the whole run, whatever sitting used them; seconds are those of this sitting. Once
    tokens or dollars are used up no further episode begins, and those in flight are finished: they have been paid for.

    Args:
        limits: What may be used up.
        tokens: What earlier sittings have read and generated.
        cost: What they have cost.
        clock: Tells seconds.
    """

    def __init__(
        self,
        limits: LimitsSection,
        *,
        tokens: int = 0,
        cost: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._began = clock()
        self.tokens = tokens
        self.cost = cost

    @property
    def used_up(self) -> "UsedUp | None":
        """What is used up; None while there is something left of everything."""
        limits = self._limits
        if limits.tokens is not None and self.tokens >= limits.tokens:
            return UsedUp("tokens", f"{self.tokens:,} of {limits.tokens:,} tokens", 2 * self.tokens)
        if limits.cost is not None and self.cost >= limits.cost:
            return UsedUp("cost", f"{_dollars(self.cost)} of {_dollars(limits.cost)} dollars", 2 * self.cost)
        if limits.seconds is not None and self._clock() - self._began >= limits.seconds:
            return UsedUp("seconds", f"{limits.seconds:g} seconds", 2 * limits.seconds)
        return None

    @property
    def seconds_left(self) -> float | None:
        """How long this sitting may still take; None where there is no limit."""
        if self._limits.seconds is None:
            return None
        return max(0.0, self._limits.seconds - (self._clock() - self._began))

    def admit(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Yield jobs while there is something left."""
        for job in jobs:
            if self.used_up:
                return
            yield job

    def count(self, trajectory: Trajectory) -> None:
        """Count what an episode has used up."""
        tokens, cost = spent_on(trajectory)
        self.tokens += tokens
        self.cost += cost

    def check(self, trajectory: Trajectory) -> None:
        """See that what an episode has used up is known.

        Raises:
            ConfigError: Dollars are limited, and the episode has no cost.
        """
        about = trajectory.metadata
        if self._limits.cost is not None and trajectory.turns and "cost" not in about:
            # A server without a price is not asked at all.
            sentence = _NO_USAGE if "token_counts" in about else _NO_PRICE
            raise ConfigError(sentence.format(model=about.get("model", "this model")))


def _dollars(amount: float) -> str:
    """Return an amount to the cent, or what there is below a dollar with the digits that count."""
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.3g}"


def refuse_what_costs_nothing(limits: LimitsSection, model: str) -> None:
    """See that no dollars are limited where none are ever counted.

    Raises:
        ConfigError: They are.
    """
    if limits.cost is not None:
        raise ConfigError(_NO_PRICE.format(model=model))
