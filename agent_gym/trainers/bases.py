"""What the bases have in common: each is GRPO with some of its parts changed, and takes GRPO's other options, too."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

from agent_gym.trainers.algorithm import Algorithm, RolloutStrategy

Base = TypeVar("Base", bound=Callable[..., Algorithm])


def extends(other: Callable[..., Algorithm], *, without: Sequence[str] = ()) -> Callable[[Base], Base]:
    """Decorate a base that hands its other keyword arguments on to another one, so that its signature names them.

    Args:
        other: The base that `**options` go to.
        without: Options of `other` that are not for choice here.
    """

    def name_options(base: Base) -> Base:
        own = inspect.signature(base)
        named = [each for each in own.parameters.values() if each.kind is each.KEYWORD_ONLY]
        hidden = {*own.parameters, *without}
        passed = [each for each in inspect.signature(other).parameters.values() if each.name not in hidden]
        base.__signature__ = own.replace(parameters=[*named, *passed])  # type: ignore[attr-defined]
        return base

    return name_options


@runtime_checkable
class AroundRollouts(Protocol):
    """A rollout strategy that lets another one play, and decides what becomes of it; a dataclass."""

    inner: RolloutStrategy


def player(base: Algorithm) -> RolloutStrategy:
    """Return the strategy that plays the episodes of an algorithm, whatever goes on around it."""
    strategy = base.rollout
    while isinstance(strategy, AroundRollouts):
        strategy = strategy.inner
    return strategy


def played_by(base: Algorithm, strategy: RolloutStrategy) -> Algorithm:
    """Let another strategy play the episodes of an algorithm; what goes on around it (dynamic sampling, say) stays."""

    def around(outer: RolloutStrategy) -> RolloutStrategy:
        if not isinstance(outer, AroundRollouts):
            return strategy
        wrapped: RolloutStrategy = replace(outer, inner=around(outer.inner))  # type: ignore[type-var]
        return wrapped

    return replace(base, rollout=around(base.rollout))
