"""Algorithms by name: a base, and methods on top of it, joined by "+" ("gigpo+epo+empg").

One's own are named by where they are ("my.py:my_method"): a function of keyword arguments alone is a base, one that
takes an algorithm first is a method.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agent_gym.errors import ConfigError, UnknownIdError, suggestion
from agent_gym.importing import load_object
from agent_gym.trainers.algorithm import Algorithm

BASES: Final[dict[str, str]] = {
    "grpo": "agent_gym.trainers.grpo:grpo",
    "dr-grpo": "agent_gym.trainers.dr_grpo:dr_grpo",
    "rloo": "agent_gym.trainers.rloo:rloo",
    "reinforce++": "agent_gym.trainers.reinforce:reinforce_plus_plus",
    "gigpo": "agent_gym.trainers.gigpo:gigpo",
    "dapo": "agent_gym.trainers.dapo:dapo",
    "ppo": "agent_gym.trainers.ppo:ppo",
}
"""Whole algorithms: functions of options alone."""

METHODS: Final[dict[str, str]] = {
    "arpo": "agent_gym.trainers.arpo:arpo",
    "empg": "agent_gym.trainers.empg:empg",
    "aepo": "agent_gym.trainers.aepo:aepo",
    "epo": "agent_gym.trainers.epo:epo",
    "spear": "agent_gym.trainers.spear:spear",
}
"""What is put on top of a base: functions of an algorithm and options. They are applied in this order, whatever that of
their names (one's own come last): attribution to branches comes before EMPG, and EMPG before AEPO's factor."""

DEFAULT_BASE: Final = "grpo"

_EXCLUDE: Final = {
    ("arpo", "aepo"): "AEPO branches by itself: leave 'arpo' out",
}
_PULL_APART: Final = {
    ("empg", "aepo"): (
        "EMPG damps what is learned from uncertain turns and AEPO's factor amplifies it: set aepo.advantage_weight=0, "
        "or leave one of them out."
    ),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A base or a method, and how it is called."""

    name: str
    build: Callable[..., Algorithm]
    options: Mapping[str, inspect.Parameter]
    is_base: bool

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring of its file, on one line."""
        text = inspect.getdoc(inspect.getmodule(self.build)) or ""
        return " ".join(text.split("\n\n")[0].split())


def piece(name: str) -> Piece:
    """Return a base or a method, by its name or its place.

    Raises:
        UnknownIdError: There is none of that name.
    """
    where = BASES.get(name) or METHODS.get(name) or name
    if ":" not in where:
        raise UnknownIdError.of("algorithm", name, [*BASES, *METHODS])
    build = load_object(where, "algorithm", "function")
    parameters = inspect.signature(build).parameters
    options = {key: value for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    return Piece(name, build, options, is_base=len(options) == len(parameters))


def parse(name: str) -> list[Piece]:
    """Return the pieces of a name like "gigpo+epo": the base first, the methods in the order that they are applied in.

    Raises:
        UnknownIdError: A piece is not known.
        ConfigError: The pieces do not go together.
    """
    # "reinforce++" ends in what joins names.
    names = [part.replace("\0", "++") for part in name.replace("++", "\0").split("+")]
    pieces = [piece(part.strip()) for part in names]
    given = [each.name for each in pieces]
    if len(set(given)) != len(given):
        raise ConfigError(f"The algorithm {name!r} names a piece twice: name each once.")
    bases = [each for each in pieces if each.is_base]
    if len(bases) > 1:
        raise ConfigError(
            f"The algorithm {name!r} has {len(bases)} bases ({', '.join(base.name for base in bases)}): choose one; "
            f"the methods {', '.join(METHODS)} can be put on top of it."
        )
    for pair, reason in _EXCLUDE.items():
        if set(pair) <= set(given):
            raise ConfigError(f"The algorithm {name!r} cannot be built: {reason}.")
    order = list(METHODS)
    last = len(order)
    methods = [each for each in pieces if not each.is_base]
    methods.sort(key=lambda each: order.index(each.name) if each.name in order else last)
    return [bases[0] if bases else piece(DEFAULT_BASE), *methods]


def make_algorithm(name: str, options: Mapping[str, Any] | None = None) -> Algorithm:
    """Compose an algorithm.

    Args:
        name: A base, a method (on top of GRPO), or several joined by "+".
        options: Arguments of the pieces. One that several pieces take is written with the piece's name before it
            ("epo.gamma"), which always works.

    Raises:
        UnknownIdError: A piece is not known.
        ConfigError: The pieces do not go together, no piece takes an option, or not that value.
    """
    pieces = parse(name)
    given = _shared_out(name, pieces, options or {})
    try:
        algorithm = pieces[0].build(**given[pieces[0].name])
        for method in pieces[1:]:
            algorithm = method.build(algorithm, **given[method.name])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The algorithm {name!r} does not take these options: {error}.") from error
    names = {each.name for each in pieces}
    notes = tuple(note for pair, note in _PULL_APART.items() if set(pair) <= names and _acts(pair, given))
    return replace(algorithm, name=name, notes=(*algorithm.notes, *notes))


def _acts(pair: tuple[str, str], given: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the second of a pair really does what the first one works against."""
    return bool(given[pair[1]].get("advantage_weight", True))


def _shared_out(name: str, pieces: Sequence[Piece], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of each piece."""
    given: dict[str, dict[str, Any]] = {each.name: {} for each in pieces}
    for key, value in _flat(options, given).items():
        owner, dot, option = key.rpartition(".")
        takers = [each for each in pieces if option in each.options and (not dot or each.name == owner)]
        if not takers:
            known = sorted({f"{each.name}.{name}" if dot else name for each in pieces for name in each.options})
            raise ConfigError(f"Unknown option {key!r} of the algorithm {name!r}{suggestion(key, known)}")
        if len(takers) > 1:
            choices = " or ".join(f"{each.name}.{option}" for each in takers)
            raise ConfigError(f"The option {key!r} of the algorithm {name!r} could be {choices}: write one of these.")
        given[takers[0].name][option] = value
    return given


def _flat(options: Mapping[str, Any], pieces: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under dotted names, whether {"epo.gamma": 2} or {"epo": {"gamma": 2}} was written."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if key in pieces and isinstance(value, Mapping):
            flat |= {f"{key}.{option}": each for option, each in value.items()}
        else:
            flat[key] = value
    return flat
