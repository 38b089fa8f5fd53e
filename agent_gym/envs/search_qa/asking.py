"""Questions about a generated world, each with one answer: chains of relations, and comparisons of two things."""

import operator
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agent_gym.envs.search_qa.relations import RELATIONS
from agent_gym.envs.search_qa.world import World

_SHARE: Final = 0.1
"""Comparisons for each question that is a chain."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Relations to follow from a name, one after the other."""

    start: str
    relations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its answer, and how one comes to it."""

    text: str
    answer: str
    chains: tuple[Chain, ...]
    """One; or two, whose ends a question that is answered by yes or no compares."""

    @property
    def hops(self) -> int:
        """How many facts it takes."""
        return sum(len(chain.relations) for chain in self.chains)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Asks of two things whether what the same relation leads to compares in some way."""

    relation: str
    question: str
    """Of two subjects {a} and {b}."""
    holds: Callable[[str, str], bool]


COMPARISONS: Final = (
    Comparison("birthplace", "Were {a} and {b} born in the same town?", operator.eq),
    Comparison("established", "Was {a} established before {b}?", operator.lt),
)


def ask_all(world: World, hops: Sequence[int], rng: random.Random) -> list[Asked]:
    """Return the questions about a world that take so many hops, in an order that mixes them."""
    asked = [question for count in hops for question in _chains(world, count)]
    if 2 in hops:
        asked += _comparisons(world, int(_SHARE * len(asked)), rng)
    rng.shuffle(asked)
    return list({question.text: question for question in asked}.values())


def _chains(world: World, hops: int) -> Iterator[Asked]:
    for kind, names in world.things.items():
        for relations in _paths(kind, hops):
            for name in names:
                answer = follow(world, Chain(name, relations))
                if answer is not None:
                    yield Asked(_worded(name, relations), answer, (Chain(name, relations),))


def _paths(kind: str, hops: int) -> Iterator[tuple[str, ...]]:
    """Return the chains of relations that can be followed from a kind of thing."""
    for relation in RELATIONS.values():
        if relation.subject != kind:
            continue
        if hops == 1:
            yield (relation.name,)
        else:
            yield from ((relation.name, *rest) for rest in _paths(relation.object, hops - 1))


def follow(world: World, chain: Chain) -> str | None:
    """Return where a chain ends; None where it comes back to where it has been."""
    seen = [chain.start]
    for relation in chain.relations:
        seen.append(world.facts[relation, seen[-1]])
    return seen[-1] if len(set(seen)) == len(seen) else None


def lookups(world: World, asked: Asked) -> tuple[str, ...]:
    """Return the things on whose pages the facts stand that a question takes, in order."""
    names = []
    for chain in asked.chains:
        subject = chain.start
        for relation in chain.relations:
            names.append(subject)
            subject = world.facts[relation, subject]
    return tuple(names)


def _worded(name: str, relations: Sequence[str]) -> str:
    subject = name
    for relation in relations[:-1]:
        subject = RELATIONS[relation].phrase.format(s=subject)
    return RELATIONS[relations[-1]].question.format(s=subject)


def _comparisons(world: World, count: int, rng: random.Random) -> Iterator[Asked]:
    """Make questions that are answered by yes and by no, as often as the world allows."""
    for number in range(count):
        comparison = COMPARISONS[number % len(COMPARISONS)]
        names = world.things[RELATIONS[comparison.relation].subject]
        one = rng.choice(names)
        others = [name for name in names if name != one]
        wanted = rng.random() < 1 / 2
        fitting = [name for name in others if _holds(world, comparison, one, name) == wanted]
        two = rng.choice(fitting or others)
        answer = "yes" if _holds(world, comparison, one, two) else "no"
        chains = (Chain(one, (comparison.relation,)), Chain(two, (comparison.relation,)))
        yield Asked(comparison.question.format(a=one, b=two), answer, chains)


def _holds(world: World, comparison: Comparison, one: str, two: str) -> bool:
    return comparison.holds(world.facts[comparison.relation, one], world.facts[comparison.relation, two])


# -- the way back: from the words of a question to what must be looked up ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Understood:
    """What a question asks for."""

    chains: tuple[Chain, ...]
    comparison: Comparison | None = None

    def answer(self, ends: Sequence[str]) -> str:
        """Return the answer, from what the chains have led to."""
        if self.comparison is None:
            return ends[0]
        return "yes" if self.comparison.holds(ends[0], ends[1]) else "no"


def understand(question: str) -> Understood | None:
    """Return what a question asks for, from its words alone; None where it is worded otherwise."""
    for comparison in COMPARISONS:
        names = _gaps(comparison.question, question)
        if names is not None:
            chains = tuple(Chain(name, (comparison.relation,)) for name in names)
            return Understood(chains, comparison)
    for relation in RELATIONS.values():
        subject = _gaps(relation.question, question)
        if subject is not None:
            return Understood((_unfold(subject[0], (relation.name,)),))
    return None


def _unfold(subject: str, relations: tuple[str, ...]) -> Chain:
    """Take a noun phrase apart until a name is left."""
    for inner in RELATIONS.values():
        rest = _gaps(inner.phrase, subject)
        if rest is not None:
            return _unfold(rest[0], (inner.name, *relations))
    return Chain(subject, relations)


def _gaps(template: str, text: str) -> tuple[str, ...] | None:
    """Return what stands in the gaps of a template; None where the text is worded otherwise."""
    words = re.split(r"\{\w\}", template)
    found = re.fullmatch("(.+)".join(map(re.escape, words)), text)
    return found.groups() if found else None
