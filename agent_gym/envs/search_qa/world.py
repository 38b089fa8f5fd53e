"""A generated world: people, towns, companies and books that never were, what holds between them, and its pages."""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agent_gym.envs.questions.sources import SPLITS
from agent_gym.envs.search_qa.names import Names, pronoun
from agent_gym.envs.search_qa.relations import ASIDES, BEGINNINGS, RELATIONS

MOST_PEOPLE: Final = 240
"""For more there are not enough titles of books."""
_YEARS: Final = {"birth year": (1900, 1969), "published": (1970, 2019), "established": (1930, 2009)}
_ASIDE: Final = 0.5
"""How often a page has a sentence that is beside the point."""
_PRONOUN: Final = 0.5
"""How often a page calls its subject by a pronoun where it could."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page about one thing."""

    title: str
    text: str


@dataclass(frozen=True)
class World:
    """What there is, and what holds. Shared, and never changed.

    Everything has a name of its own, so that a name stands for the thing.
    """

    things: dict[str, tuple[str, ...]]
    """Names by kind: "person", "book", "company", "town"."""
    facts: dict[tuple[str, str], str]
    """What a relation leads to, by its name and the subject's."""
    pages: tuple[Page, ...]


@lru_cache(maxsize=64)
def make_world(split: str, seed: int = 0, people: int = MOST_PEOPLE, number: int = 0) -> World:
    """Return a world of a split; the splits of a seed share no name.

    Args:
        split: "train", "valid" or "test".
        seed: Another seed is another world.
        people: How many people there are, at most 240; there are as many books, and fewer towns and companies.
        number: Which of the worlds of the split; they share names, and other things hold in each.
    """
    names = Names(seed, SPLITS.index(split), len(SPLITS), number)
    things = {
        "person": tuple(names.people(people)),
        "book": tuple(names.books(people)),
        "company": tuple(names.companies(max(2, people // 6))),
        "town": tuple(names.towns(max(2, people // 4))),
    }
    values = {**things, "river": tuple(names.rivers(20)), "province": tuple(names.provinces(20))}
    rng = random.Random(f"{seed}/{split}/{number}/facts")
    facts = {}
    for relation in RELATIONS.values():
        for subject in things[relation.subject]:
            if relation.object == "year":
                facts[relation.name, subject] = str(rng.randint(*_YEARS[relation.name]))
            else:
                facts[relation.name, subject] = rng.choice(values[relation.object])
    pages = tuple(_page(kind, name, things, facts, rng) for kind, names in things.items() for name in names)
    return World(things, facts, pages)


def _page(
    kind: str, name: str, things: dict[str, tuple[str, ...]], facts: dict[tuple[str, str], str], rng: random.Random
) -> Page:
    """Write a page: a beginning, and then what is known and perhaps an aside, in any order."""
    rest = [
        (rng.choice(relation.sentences), facts[relation.name, name])
        for relation in RELATIONS.values()
        if relation.subject == kind
    ]
    if rng.random() < _ASIDE:
        rest.append((rng.choice(ASIDES[kind]), ""))
    rng.shuffle(rest)
    reference = pronoun(name) if kind == "person" else rng.choice(("It", f"The {kind}"))
    sentences = [rng.choice(BEGINNINGS[kind]).format(s=name)]
    for sentence, value in rest:
        subject = reference if sentence.startswith("{s}") and rng.random() < _PRONOUN else name
        others = {other: rng.choice(things[other]) for other in ("person", "town")}
        sentences.append(sentence.format(s=subject, o=value, **others))
    return Page(name, " ".join(sentences))
