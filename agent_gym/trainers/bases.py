"""What the bases have in common: each is GRPO with some of its parts changed, and takes GRPO's other options, too."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

from agent_gym.errors import ConfigError
from agent_gym.trainers.algorithm import Algorithm, RolloutStrategy

Base = TypeVar("Base", bound=Callable[..., Algorithm])


def extends(other: Callable[..., Algorithm], *, without: Sequence[str] = ()) -> Callable[[Base], Base]:
    """Decorate a base that hands its `**options` on to another one: signature and docstring then name them, too.

    Args:
        other: The base that they go to.
        without: Options of `other` that are not for choice here.
    """

    def name_options(base: Base) -> Base:
        own = inspect.signature(base)
        named = [each for each in own.parameters.values() if each.kind is each.KEYWORD_ONLY]
        hidden = {*own.parameters, *without}
        passed = [each for each in inspect.signature(other).parameters.values() if each.name not in hidden]
        base.__signature__ = own.replace(parameters=[*named, *passed])  # type: ignore[attr-defined]
        base.__doc__ = _with_entries(base, other, {each.name for each in passed})
        return base

    return name_options


def _with_entries(base: Callable[..., Algorithm], other: Callable[..., Algorithm], names: set[str]) -> str:
    """Return a base's docstring with what another one's says of some arguments in the place of `**options`."""
    entries = re.finditer(r"^ {4}(\w+): .*(?:\n {8}.*)*", inspect.getdoc(other) or "", re.MULTILINE)
    told = "\n".join(entry[0] for entry in entries if entry[1] in names)
    return re.sub(r"^ {4}\*\*options: .*(?:\n {8}.*)*", lambda _: told, inspect.getdoc(base) or "", flags=re.MULTILINE)


def require_shares(**options: float) -> None:
    """Refuse options that are not from 0 to 1.

    Raises:
        ConfigError: One of them is not.
    """
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"The option {name!r} is a number from 0 to 1, not {value}.")


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
