"""The flow of pages: what each shows, what can be clicked, and where it leads."""

import pytest

from agent_gym.envs.webshop.catalogue import Product, synthetic_shop
from agent_gym.envs.webshop.pages import Page, act, clickables, content

PRODUCTS = tuple(synthetic_shop(products=25, goals=1).products)
FIRST = PRODUCTS[0]


def find(query: str) -> tuple[Product, ...]:
    return PRODUCTS if query == "all" else ()


def follow(*actions: str, page: Page | None = None) -> Page:
    page = page or Page()
    for action in actions:
        following = act(page, action, find)
        assert following is not None, f"{action} does nothing on {page.kind}"
        page = following
    return page


def shown(page: Page) -> list[str]:
    return [text.content for text in content(page)]


def test_a_search_shows_ten_products_a_page() -> None:
    page = follow("search[all]")
    assert shown(page)[:3] == ["Back to Search", "Page 1 (Total results: 25)", "Next >"]
    assert shown(page)[3:6] == [FIRST.asin, FIRST.title, FIRST.price_tag]
    assert len(clickables(page)) == 12
    last = follow("click[next >]", "click[next >]", page=page)
    assert "Next >" not in shown(last) and "< Prev" in shown(last) and len(clickables(last)) == 7
    assert follow("click[< prev]", "click[< prev]", page=last) == page


def test_a_search_without_hits_shows_none() -> None:
    assert shown(follow("search[nothing]")) == ["Back to Search", "Page 1 (Total results: 0)"]


def test_an_item_page_shows_options_and_details_and_marks_what_was_chosen() -> None:
    page = follow("search[all]", f"click[{FIRST.asin}]")
    color, size = FIRST.options["color"][1], FIRST.options["size"][0]
    chosen = follow(f"click[{color}]", f"click[{size}]", page=page)
    assert chosen.options == {"color": color, "size": size}
    assert [text.content for text in content(chosen) if text.style == "clicked"] == [color, size]
    other = FIRST.options["color"][0]
    assert follow(f"click[{other}]", page=chosen).options == {"color": other, "size": size}
    assert shown(page)[-7:] == [
        FIRST.title,
        f"Price: {FIRST.price_tag}",
        f"Rating: {FIRST.rating}",
        "Description",
        "Features",
        "Reviews",
        "Buy Now",
    ]


def test_details_lead_back_to_the_item_with_its_options_kept() -> None:
    item = follow("search[all]", f"click[{FIRST.asin}]", f"click[{FIRST.options['size'][0]}]")
    for name, text in (("description", FIRST.description), ("features", FIRST.bullet_points[0])):
        page = follow(f"click[{name}]", page=item)
        assert text in shown(page) and clickables(page) == ["back to search", "< prev"]
        assert follow("click[< prev]", page=page) == item


def test_options_are_forgotten_when_one_goes_back_to_the_results_or_to_the_search() -> None:
    item = follow("search[all]", f"click[{FIRST.asin}]", f"click[{FIRST.options['size'][0]}]")
    assert follow("click[< prev]", f"click[{FIRST.asin}]", page=item).options == {}
    assert follow("click[back to search]", page=item) == Page()


def test_attributes_can_be_read_only_where_they_are_shown() -> None:
    item = follow("search[all]", f"click[{FIRST.asin}]")
    assert act(item, "click[attributes]", find) is None
    page = act(item, "click[attributes]", find, show_attributes=True)
    assert page is not None and set(FIRST.attributes) <= set(shown(page))


@pytest.mark.parametrize(
    "action",
    [
        "",
        "search",
        "search[]",
        "click[]",
        "click[search]",
        "buy[now]",
        "click[buy now]",
        "search all",
        "[all]",
        "click[all",
    ],
)
def test_what_is_no_action_here_does_nothing(action: str) -> None:
    assert act(Page(), action, find) is None


def test_there_is_a_search_bar_on_the_first_page_alone() -> None:
    assert act(follow("search[all]"), "search[all]", find) is None


def test_upper_case_and_space_around_do_not_matter() -> None:
    assert follow(" SEARCH[ All ] ", f"Click[{FIRST.asin.lower()}]").product == FIRST


def test_every_page_of_a_long_walk_can_be_left_by_all_that_it_offers() -> None:
    frontier, seen = [follow("search[all]")], []
    while frontier and len(seen) < 300:
        page = frontier.pop()
        if page not in seen:
            seen.append(page)
            frontier += [follow(f"click[{what}]", page=page) for what in clickables(page)]
    assert {page.kind for page in seen} >= {"results", "item", "subpage", "done"}
