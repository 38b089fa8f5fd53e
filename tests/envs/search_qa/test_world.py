"""Generated worlds: what holds can be read on the pages, and nowhere else."""

import itertools
import re

import pytest

from agent_gym.envs.search_qa.relations import RELATIONS
from agent_gym.envs.search_qa.world import World, make_world

SPLITS = ("train", "valid", "test")


@pytest.mark.parametrize("split", SPLITS)
def test_every_fact_can_be_read_on_its_page(split: str) -> None:
    world = make_world(split)
    pages = {page.title: page.text for page in world.pages}
    wrong = [
        (relation, subject, told)
        for (relation, subject), told in world.facts.items()
        if RELATIONS[relation].read(pages[subject], subject) != told
    ]
    assert wrong == [] and len(world.facts) > 1000


def test_a_page_of_something_else_does_not_tell() -> None:
    world = make_world("train")
    one, two = world.pages[0], world.pages[1]
    for relation in RELATIONS.values():
        if relation.subject == "person" and two.title not in one.text:
            told = one.text.replace("She ", f"{one.title} ").replace("He ", f"{one.title} ")
            assert relation.read(told, two.title) is None


def test_every_relation_is_told_in_every_way() -> None:
    text = " ".join(page.text for page in make_world("train").pages)
    for relation in RELATIONS.values():
        for sentence in relation.sentences:
            pattern = ".+?".join(map(re.escape, re.split(r"\{\w\}", sentence)))
            assert re.search(pattern, text), sentence


def test_a_sentence_is_not_taken_for_that_of_another_relation() -> None:
    for one, two in itertools.permutations(RELATIONS.values(), 2):
        if one.subject == two.subject:
            value = {"year": "1950"}.get(one.object, "Oakmere")
            for sentence in one.sentences:
                found = two.read(sentence.format(s="Ada Norwick", o=value), "Ada Norwick")
                assert found is None, (one.name, two.name, sentence)


def test_worlds_are_the_same_for_the_same_seed_and_other_for_another() -> None:
    again = make_world.__wrapped__("train", 0, 240, 0)
    assert again == make_world("train") and make_world("train", 1).facts != again.facts
    other = make_world("train", number=1)
    shared = again.facts.keys() & other.facts.keys()
    assert len(shared) > 50 and sum(again.facts[key] == other.facts[key] for key in shared) < len(shared) / 4


def test_the_splits_share_no_thing_that_has_a_page() -> None:
    titles = [{page.title for page in make_world(split).pages} for split in SPLITS]
    assert all(not one & two for one, two in itertools.combinations(titles, 2))


def test_pages_are_short_and_mention_others() -> None:
    world = make_world("train")
    assert max(len(page.text) for page in world.pages) < 400
    assert sum(_mentions_another(page.text, page.title, world) for page in world.pages) > len(world.pages) / 2


def _mentions_another(text: str, title: str, world: World) -> bool:
    return any(name in text for names in world.things.values() for name in names if name != title)


def test_a_small_world_has_fewer_of_everything() -> None:
    world = make_world("valid", 0, 20)
    assert {kind: len(names) for kind, names in world.things.items()} == {
        "person": 20,
        "book": 20,
        "company": 3,
        "town": 5,
    }
