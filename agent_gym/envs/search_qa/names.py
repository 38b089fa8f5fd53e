"""Invented names: of people, towns, companies, books, rivers and provinces; none is given twice.

The splits of a world have disjoint names, so that nothing that was learnt by heart on one helps on another.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Final

_WOMEN: Final = (
    *("Ada", "Alba", "Cara", "Celia", "Della", "Edda", "Enid", "Fay", "Flora", "Gita", "Greta", "Hanna", "Ida"),
    *("Iris", "Jana", "Kira", "Lena", "Lina", "Mara", "Mina", "Nadia", "Nora", "Olga", "Petra", "Pia", "Rhea"),
    *("Rosa", "Selma", "Tara", "Tilda", "Ursa", "Vera", "Willa"),
)
_MEN: Final = (
    *("Aron", "Basil", "Bela", "Bruno", "Dario", "Emil", "Felix", "Hugo", "Igor", "Ivo", "Joel", "Lars", "Leo"),
    *("Luca", "Milo", "Nils", "Oscar", "Otto", "Quinn", "Rolf", "Ruben", "Sven", "Theo"),
)
_FAMILY: Final = (
    (
        *("Bar", "Bel", "Cor", "Dun", "Fen", "Gar", "Hal", "Kel", "Lor", "Mar", "Nor", "Ost", "Pel", "Ros"),
        *("Sel", "Tor"),
    ),
    (
        *("an", "bek", "dal", "der", "fold", "gren", "ham", "lin", "mann", "ner", "quist", "rick", "son"),
        *("ton", "vik", "wick"),
    ),
)
_TOWN: Final = (
    (
        *("Ash", "Birch", "Brack", "Cliff", "Dove", "Elm", "Fair", "Gold", "Hart", "Iron", "King", "Lake"),
        *("Mill", "Oak"),
    ),
    (
        *("bridge", "brook", "bury", "dale", "field", "ford", "gate", "haven", "hurst", "low", "mere", "mouth"),
        *("stead", "well"),
    ),
)
_COMPANY: Final = (
    (
        *("Acorn", "Beacon", "Cobalt", "Comet", "Delta", "Falcon", "Garnet", "Harbor", "Juniper", "Lantern"),
        *("Maple", "Nimbus"),
    ),
    (
        *(" Foundry", " Glass", " Instruments", " Mills", " Optics", " Press", " Printing", " Railways"),
        *(" Shipping", " Tools"),
    ),
)
_BOOK: Final = (
    (
        *("The Broken", "The Distant", "The Empty", "The First", "The Frozen", "The Golden", "The Hidden"),
        *("The Last", "The Little", "The Long", "The Lost", "The Northern", "The Patient", "The Quiet"),
        *("The Second", "The Silent", "The Singing", "The Sleeping", "The Stone", "The Third", "The Wandering"),
        *("The White", "The Winter", "The Young"),
    ),
    (
        *(" Bell", " Bird", " Bridge", " Candle", " Captain", " Clock", " Door", " Garden", " Harbour"),
        *(" House", " Island", " Key", " Lamp", " Letter", " Map", " Mirror", " Mountain", " Orchard", " Road"),
        *(" Sailor", " Season", " Shore", " Spring", " Star", " Stranger", " Tower", " Valley", " Visitor"),
        *(" Voyage", " Window"),
    ),
)
_RIVER: Final = (
    ("Al", "Br", "Dr", "Is", "Mol", "Or", "Sal", "Tam", "Ver", "Wil"),
    ("a", "ane", "ena", "er", "une", "we"),
)
_PROVINCE: Final = (
    ("Bor", "Cal", "East", "Gal", "High", "Low", "Mer", "North", "South", "Ver", "West", "Zel"),
    ("land", "mark", "moor", "shire", "vale", "wold"),
)


class Names:
    """Names for one world.

    Args:
        seed: Decides which names a split gets.
        part: Which split, from 0.
        parts: How many splits there are.
        number: Which of the worlds of that split, which choose from the same names.
    """

    def __init__(self, seed: int, part: int, parts: int, number: int = 0) -> None:
        self._seed, self._part, self._parts, self._number = seed, part, parts, number

    def families(self) -> list[str]:
        """Return all family names."""
        return self._share(_joined(_FAMILY), "family")

    def people(self, count: int) -> list[str]:
        """Return names of people; several share a family name, as people do."""
        full = [f"{given} {family}" for family in self.families() for given in (*_WOMEN, *_MEN)]
        random.Random(f"{self._seed}/{self._part}/people/{self._number}").shuffle(full)
        return _first(full, count, "people")

    def towns(self, count: int) -> list[str]:
        """Return names of towns."""
        return _first(self._share(_joined(_TOWN), "town"), count, "towns")

    def companies(self, count: int) -> list[str]:
        """Return names of companies."""
        return _first(self._share(_joined(_COMPANY), "company"), count, "companies")

    def books(self, count: int) -> list[str]:
        """Return titles of books."""
        return _first(self._share(_joined(_BOOK), "book"), count, "books")

    def rivers(self, count: int) -> list[str]:
        """Return names of rivers."""
        return _first(self._share(_joined(_RIVER), "river"), count, "rivers")

    def provinces(self, count: int) -> list[str]:
        """Return names of provinces."""
        return _first(self._share(_joined(_PROVINCE), "province"), count, "provinces")

    def _share(self, names: Iterator[str], kind: str) -> list[str]:
        """Return the split's part of all names of a kind, in the world's own order."""
        shuffled = list(names)
        random.Random(f"{self._seed}/{kind}").shuffle(shuffled)
        part = shuffled[self._part :: self._parts]
        random.Random(f"{self._seed}/{kind}/{self._number}").shuffle(part)
        return part


def pronoun(person: str) -> str:
    """Return "She" or "He", by the given name."""
    return "She" if person.partition(" ")[0] in _WOMEN else "He"


def _joined(syllables: tuple[Sequence[str], Sequence[str]]) -> Iterator[str]:
    return (first + second for first, second in itertools.product(*syllables))


def _first(names: list[str], count: int, kind: str) -> list[str]:
    if count > len(names):
        raise ValueError(f"There are names for {len(names)} {kind} at most, not for {count}.")
    return names[:count]
