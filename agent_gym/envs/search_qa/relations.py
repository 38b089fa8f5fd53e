"""What the pages of a generated world say: relations, and the sentences, phrases and questions that express them.

Sentences are read back by the same templates that they are written with, see `Relation.read`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

_REFERENCE: Final = "She|He|It|The book|The company|The town"
"""What a page may call its subject after the first sentence."""


@dataclass(frozen=True)
class Relation:
    """Something that holds between a subject and exactly one other thing."""

    name: str
    subject: str
    """The kind of its subject: "person", "town" ..."""
    object: str
    """The kind of what it leads to; "year", "river" and "province" have no pages."""
    phrase: str
    """What it leads to, as a noun phrase about a subject {s}."""
    question: str
    """Asks for it, of a subject {s}."""
    sentences: tuple[str, ...]
    """What a page may say: of a subject {s} and what it leads to {o}."""

    def read(self, page: str, subject: str) -> str | None:
        """Return what a page about a subject says that this relation leads to; None where it does not say."""
        for pattern in self._patterns:
            found = re.search(pattern.format(re.escape(subject)), page)
            if found:
                return found["o"]
        return None

    @cached_property
    def _patterns(self) -> list[str]:
        """Return a regular expression for each sentence, with a gap for the subject's name."""
        value = r"\d{4}" if self.object == "year" else r"[A-Z][\w' ]*?"
        patterns = []
        for sentence in self.sentences:
            subject = f"(?:{{}}|{_REFERENCE})" if sentence.startswith("{s}") else "{}"
            # The braces of a quantifier would be taken for gaps.
            escaped = re.escape(sentence).replace(r"\{o\}", f"(?P<o>{value})".replace("{", "{{").replace("}", "}}"))
            patterns.append(r"(?:^|(?<=[\s.]))" + escaped.replace(r"\{s\}", subject))
        return patterns


RELATIONS: Final = {
    relation.name: relation
    for relation in (
        Relation(
            "author",
            "book",
            "person",
            "the author of {s}",
            "Who wrote {s}?",
            ("{s} was written by {o}.", "{s} is a novel by {o}.", "The author of {s} is {o}."),
        ),
        Relation(
            "published",
            "book",
            "year",
            "the year in which {s} appeared",
            "In which year did {s} appear?",
            ("{s} was first published in {o}.", "{s} appeared in {o}."),
        ),
        Relation(
            "birthplace",
            "person",
            "town",
            "the town where {s} was born",
            "In which town was {s} born?",
            ("{s} was born in {o}.", "{s} is a native of {o}.", "The birthplace of {s} is {o}."),
        ),
        Relation(
            "birth year",
            "person",
            "year",
            "the year in which {s} was born",
            "In which year was {s} born?",
            ("{s} was born in the year {o}.", "The year of birth of {s} is {o}."),
        ),
        Relation(
            "employer",
            "person",
            "company",
            "the company that employs {s}",
            "For which company does {s} work?",
            ("{s} works for {o}.", "{s} is employed by {o}.", "{s} has a post at {o}."),
        ),
        Relation(
            "founder",
            "company",
            "person",
            "the founder of {s}",
            "Who founded {s}?",
            ("{s} was founded by {o}.", "The founder of {s} is {o}.", "{s} owes its existence to {o}."),
        ),
        Relation(
            "seat",
            "company",
            "town",
            "the town where {s} is based",
            "In which town is {s} based?",
            ("{s} is based in {o}.", "{s} has its head office in {o}."),
        ),
        Relation(
            "established",
            "company",
            "year",
            "the year in which {s} was established",
            "In which year was {s} established?",
            ("{s} was established in {o}.", "{s} has existed since {o}."),
        ),
        Relation(
            "province",
            "town",
            "province",
            "the province of {s}",
            "In which province does {s} lie?",
            ("{s} lies in the province of {o}.", "{s} belongs to the province of {o}."),
        ),
        Relation(
            "river",
            "town",
            "river",
            "the river that flows through {s}",
            "Which river flows through {s}?",
            ("{s} stands on the river {o}.", "{s} lies on both banks of the {o}."),
        ),
        Relation(
            "mayor",
            "town",
            "person",
            "the mayor of {s}",
            "Who is the mayor of {s}?",
            ("The mayor of {s} is {o}.", "{s} is governed by {o}."),
        ),
    )
}
"""By name."""

BEGINNINGS: Final[Mapping[str, Sequence[str]]] = {
    "person": ("{s} is a collector of old maps.", "{s} is known for long walks.", "{s} is a keen player of chess."),
    "book": ("{s} is a book of nine chapters.", "{s} is read in many schools.", "{s} is a story of two friends."),
    "company": ("{s} is a firm of good name.", "{s} is a family business.", "{s} is known for its summer feast."),
    "town": ("{s} is a town with a market.", "{s} is known for its old walls.", "{s} is a quiet place."),
}
"""First sentences of a page, by the kind of its subject."""

ASIDES: Final[Mapping[str, Sequence[str]]] = {
    "person": ("{s} once gave a speech in {town}.", "{s} is a friend of {person}."),
    "book": ("{s} is dedicated to {person}.", "{s} was filmed in {town}."),
    "company": ("{s} pays for a choir in {town}.", "{s} once hired {person} as an adviser."),
    "town": ("A statue of {person} stands by the church of {s}.", "{s} is a twin town of {town}."),
}
"""Sentences that answer no question but mention others, so that a search finds more than it should."""
