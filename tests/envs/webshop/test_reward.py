"""The reward of a purchase: cases computed by hand, and properties."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rapidfuzz", reason="WebShop needs the extra webshop")

from agent_gym.envs.webshop.catalogue import Goal, Product, synthetic_shop
from agent_gym.envs.webshop.reward import matched_options, nouns, score_purchase, type_score

SHOES = Product(
    asin="B000000001",
    title="Alder classic running shoes for women, non slip",
    query="running shoes",
    category="Clothing › Shoes › Athletic › Running Shoes",
    price=39.5,
    price_tag="$39.5",
    description="Made with a rubber sole.",
    bullet_points=("Memory foam.",),
    attributes=("non slip",),
    options={"color": ("navy blue", "black"), "size": ("8", "9")},
)
GOAL = Goal("buy shoes", SHOES.asin, ("non slip", "rubber sole"), ("navy blue", "8"), price_limit=40.0)
CHOSEN = {"color": "navy blue", "size": "8"}


def bought(product: Product = SHOES, chosen: Any = CHOSEN, goal: Goal = GOAL) -> float:
    return score_purchase(product, chosen, goal, SHOES).total


def test_everything_that_was_asked_for_is_worth_one() -> None:
    assert bought() == 1.0


@pytest.mark.parametrize(
    ("product", "chosen", "expected"),
    [
        # 2 attributes + 2 options + price = 5 things
        (SHOES, {"color": "navy blue"}, 4 / 5),
        (SHOES, {}, 3 / 5),
        (SHOES, {"color": "black", "size": "9"}, 3 / 5),
        (replace(SHOES, price=40.01), CHOSEN, 4 / 5),
        (replace(SHOES, price=40.0), CHOSEN, 5 / 5),
        (replace(SHOES, description=""), CHOSEN, 4 / 5),
        (replace(SHOES, description="", attributes=(), title="Alder running shoes"), CHOSEN, 3 / 5),
        # Found in the bullet points, whatever the case.
        (replace(SHOES, description="", bullet_points=("RUBBER SOLE",)), CHOSEN, 5 / 5),
    ],
)
def test_each_thing_counts_alike(product: Product, chosen: dict[str, str], expected: float) -> None:
    assert bought(product, chosen) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # The wanted title has the nouns alder, running, shoes, slip.
        ({}, 1.0),
        ({"title": "Brisk boots"}, 0.0),
        ({"title": "Brisk boots", "query": "boots", "category": "Food › Soup"}, 0.0),
        ({"title": "Alder boots", "query": "boots", "category": "Food › Soup"}, 1.0),
        ({"title": "Alder boots"}, 1.0),
    ],
)
def test_the_kind_of_thing_is_read_from_query_category_and_title(changes: dict[str, str], expected: float) -> None:
    assert nouns(SHOES.title) == {"alder", "running", "shoes", "slip"}
    assert type_score(replace(SHOES, **changes), SHOES) == expected  # type: ignore[arg-type]


def test_few_common_nouns_lower_the_kind_even_where_the_query_matches() -> None:
    long = replace(SHOES, title=" ".join("abcdefghijk"[i : i + 3] * 2 for i in range(9)) + " shoes lamp")
    assert type_score(replace(SHOES, title="sofa shoes"), long) == 0.1
    half = replace(long, title=" ".join(long.title.split()[-5:]))
    other = {"query": "x", "category": "y"}
    assert type_score(replace(SHOES, title="sofa shoes", **other), half) == 0.5  # type: ignore[arg-type]
    assert type_score(replace(SHOES, title="sofa shoes"), half) == 1.0


def test_colours_are_compared_by_their_plain_names_and_texts_by_likeness() -> None:
    assert matched_options(["dusty blue (new)"], ["sky blue"]) == 1
    assert matched_options(["pack of 2"], ["2 pack of"]) == 1
    assert matched_options(["small"], ["x-large"]) == 0
    assert matched_options([], ["small"]) == 0


SHOP = synthetic_shop(products=60, goals=60, seed=3)


@given(product=st.sampled_from(SHOP.products), goal=st.sampled_from(SHOP.goals), data=st.data())
def test_the_reward_lies_in_0_1_and_grows_with_what_is_right(product: Product, goal: Goal, data: Any) -> None:
    wanted = next(other for other in SHOP.products if other.asin == goal.asin)
    chosen = {name: data.draw(st.sampled_from(values)) for name, values in product.options.items()}
    total = score_purchase(product, chosen, goal, wanted).total
    assert 0 <= score_purchase(product, {}, goal, wanted).total <= total <= 1
    free = replace(product, price=0.0)
    assert score_purchase(free, chosen, goal, wanted).total >= total


@given(goal=st.sampled_from(SHOP.goals))
def test_the_wanted_product_with_the_wanted_options_is_worth_one(goal: Goal) -> None:
    wanted = next(other for other in SHOP.products if other.asin == goal.asin)
    chosen = dict(zip(wanted.options, goal.options, strict=True))
    assert score_purchase(wanted, chosen, goal, wanted).total == 1.0
