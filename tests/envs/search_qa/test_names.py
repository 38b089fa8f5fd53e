"""Invented names: different within a split, and between splits."""

import itertools

import pytest

from agent_gym.envs.search_qa.names import Names, pronoun

KINDS = {"people": 240, "towns": 60, "companies": 40, "books": 240, "rivers": 20, "provinces": 20}


@pytest.mark.parametrize(("kind", "count"), KINDS.items())
def test_no_name_is_given_twice_not_even_in_another_split(kind: str, count: int) -> None:
    parts = [getattr(Names(0, part, 3), kind)(count) for part in range(3)]
    assert all(len(set(part)) == count for part in parts)
    assert all(not set(one) & set(two) for one, two in itertools.combinations(parts, 2))


def test_no_name_is_a_part_of_another_of_its_kind() -> None:
    names = Names(0, 0, 3)
    for found in (names.people(240), names.books(240), names.companies(40)):
        assert not [(one, two) for one, two in itertools.permutations(found, 2) if one in two]


def test_the_seed_decides_the_names() -> None:
    assert Names(1, 0, 3).people(50) == Names(1, 0, 3).people(50) != Names(2, 0, 3).people(50)


def test_worlds_of_a_split_choose_from_the_same_names() -> None:
    one, two = Names(0, 0, 3, 0), Names(0, 0, 3, 1)
    assert set(one.towns(60)) & set(two.towns(60)) and one.towns(20) != two.towns(20)
    other_split = Names(0, 1, 3, 5)
    assert not set(one.towns(60)) & set(other_split.towns(60)) and not set(one.people(240)) & set(
        other_split.people(240)
    )


def test_people_share_family_names() -> None:
    families = [name.split()[1] for name in Names(0, 0, 3).people(240)]
    assert len(set(families)) < 100


def test_more_names_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="There are names for 20 rivers at most"):
        Names(0, 0, 3).rivers(21)


def test_pronouns_go_with_given_names() -> None:
    assert pronoun("Ada Norwick") == "She" and pronoun("Theo Norwick") == "He"
