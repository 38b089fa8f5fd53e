"""Questions about a generated world: one answer each, worked out from the facts; and their words understood again."""

import random
from collections import Counter

import pytest

from agent_gym.envs.search_qa.asking import COMPARISONS, Chain, Understood, ask_all, follow, lookups, understand
from agent_gym.envs.search_qa.world import make_world

WORLD = make_world("train")
ALL = ask_all(WORLD, (1, 2, 3), random.Random(0))


def test_there_are_thousands_of_every_length_and_no_question_twice() -> None:
    counts = Counter(question.hops for question in ALL)
    assert counts.keys() == {1, 2, 3} and all(count > 1000 for count in counts.values())
    assert len({question.text for question in ALL}) == len(ALL)


def test_the_answer_is_where_the_chain_leads() -> None:
    facts = WORLD.facts
    question = next(q for q in ALL if q.chains[0].relations == ("author", "employer", "founder"))
    book = question.chains[0].start
    assert question.text == f"Who founded the company that employs the author of {book}?"
    author = facts["author", book]
    company = facts["employer", author]
    assert question.answer == facts["founder", company]
    assert lookups(WORLD, question) == (book, author, company)


def test_no_chain_comes_back_to_where_it_has_been() -> None:
    for question in ALL:
        for chain in question.chains:
            end = follow(WORLD, chain)
            assert end is not None and end != chain.start and end not in question.text.split("?")[0].split(), question


def test_comparisons_are_answered_by_what_holds() -> None:
    facts = WORLD.facts
    answers = Counter()
    for question in ALL:
        if len(question.chains) == 2:
            one, two = (facts[chain.relations[0], chain.start] for chain in question.chains)
            holds = one == two if "same town" in question.text else int(one) < int(two)
            assert question.answer == ("yes" if holds else "no")
            answers[question.answer] += 1
    assert min(answers.values()) > sum(answers.values()) / 3


def test_every_question_is_understood_from_its_words() -> None:
    for question in ALL:
        found = understand(question.text)
        assert found is not None and found.chains == question.chains, question.text


def test_understanding_gives_the_answer_from_the_ends() -> None:
    same_town, older = COMPARISONS
    assert Understood((), same_town).answer(["Oakmere", "Oakmere"]) == "yes"
    assert Understood((), same_town).answer(["Oakmere", "Ashford"]) == "no"
    assert Understood((), older).answer(["1950", "1951"]) == "yes"
    assert Understood((), older).answer(["1951", "1951"]) == "no"
    assert Understood((Chain("a", ("author",)),)).answer(["Ada"]) == "Ada"


@pytest.mark.parametrize("text", ["", "Why?", "Who wrote", "What is the capital of Peru?"])
def test_other_questions_are_not_understood(text: str) -> None:
    assert understand(text) is None


def test_the_number_of_hops_can_be_chosen() -> None:
    assert {question.hops for question in ask_all(WORLD, (1,), random.Random(0))} == {1}
    assert {question.hops for question in ask_all(WORLD, (2, 3), random.Random(0))} == {2, 3}
