"""The pages of the shop: what stands on each, what can be clicked, and where a click leads.

A page is a value; an action makes another one. Knows nothing of goals or rewards.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agent_gym.envs.webshop.catalogue import Product

PER_PAGE = 10
BACK, NEXT, PREVIOUS, BUY = "Back to Search", "Next >", "< Prev", "Buy Now"
SUBPAGES = ("Description", "Features", "Reviews", "Attributes")
_ACTION = re.compile(r"(.+)\[(.+)\]", re.DOTALL)

Find = Callable[[str], Sequence[Product]]
"""Returns the products that a search finds, the best first."""

Style = Literal["plain", "button", "clicked"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of a page."""

    content: str
    style: Style = "plain"


@dataclass(frozen=True, slots=True)
class Page:
    """Where the customer stands."""

    kind: Literal["search", "results", "item", "subpage", "done"] = "search"
    found: tuple[Product, ...] = ()
    number: int = 1
    """Of the page of results, from 1."""
    product: Product | None = None
    chosen: tuple[tuple[str, str], ...] = ()
    """Options: (name, value), in the order in which they were first chosen."""
    subpage: str = ""

    @property
    def options(self) -> dict[str, str]:
        """The chosen options."""
        return dict(self.chosen)


def act(page: Page, action: str, find: Find, *, show_attributes: bool = False) -> Page | None:
    """Return the page that an action leads to, or None where it does nothing.

    Args:
        page: The page before.
        action: "search[words]" or "click[what]"; upper and lower case are the same.
        find: Searches the shop.
        show_attributes: Whether item pages have a button for attributes.
    """
    match = _ACTION.fullmatch(action.strip())
    if match is None:
        return None
    verb, argument = match[1].strip().lower(), match[2].strip().lower()
    if verb == "search" and page.kind == "search":
        return Page("results", found=tuple(find(argument)))
    if verb == "click" and argument in clickables(page, show_attributes=show_attributes):
        return _click(page, argument)
    return None


def clickables(page: Page, *, show_attributes: bool = False) -> list[str]:
    """Return what can be clicked on a page, lower case, in the order in which it stands there."""
    texts = content(page, show_attributes=show_attributes)
    return [text.content.lower() for text in texts if text.style != "plain" and text.content != "Search"]


def content(page: Page, *, show_attributes: bool = False) -> list[Text]:
    """Return what stands on a page, the instruction apart."""
    if page.kind == "search":
        return [_button("Search")]
    if page.kind == "results":
        return _results(page)
    if page.kind == "item":
        return _item(page, show_attributes=show_attributes)
    if page.kind == "subpage":
        return [_button(BACK), _button(PREVIOUS), *map(Text, _details(page))]
    return [Text("Thank you for shopping with us!")]


def _click(page: Page, argument: str) -> Page:
    if argument == BACK.lower():
        return Page()
    if argument == NEXT.lower():
        return replace(page, number=page.number + 1)
    if argument == BUY.lower():
        return replace(page, kind="done")
    if page.kind == "results":
        if argument == PREVIOUS.lower():
            return replace(page, number=page.number - 1)
        product = next(product for product in page.found if product.asin.lower() == argument)
        return replace(page, kind="item", product=product, chosen=())
    if argument == PREVIOUS.lower():
        return replace(page, kind="item", subpage="") if page.kind == "subpage" else replace(page, kind="results")
    subpage = next((name for name in SUBPAGES if name.lower() == argument), None)
    if subpage is not None:
        return replace(page, kind="subpage", subpage=subpage)
    return replace(page, chosen=_choose(page, argument))


def _choose(page: Page, value: str) -> tuple[tuple[str, str], ...]:
    """Choose a value; of options that share it the first is meant. A later choice takes the place of an earlier one."""
    options = page.product.options if page.product else {}
    name = next(name for name, values in options.items() if value in (known.lower() for known in values))
    return tuple({**page.options, name: value}.items())


def _results(page: Page) -> list[Text]:
    start = PER_PAGE * (page.number - 1)
    texts = [_button(BACK), Text(f"Page {page.number} (Total results: {len(page.found)})")]
    if page.number > 1:
        texts.append(_button(PREVIOUS))
    if start + PER_PAGE < len(page.found):
        texts.append(_button(NEXT))
    for product in page.found[start : start + PER_PAGE]:
        texts += [_button(product.asin), Text(product.title), Text(product.price_tag)]
    return texts


def _item(page: Page, *, show_attributes: bool) -> list[Text]:
    product, chosen = page.product, page.options
    assert product is not None
    texts = [_button(BACK), _button(PREVIOUS)]
    for name, values in product.options.items():
        texts.append(Text(name))
        texts += [Text(value, "clicked" if chosen.get(name) == value.lower() else "button") for value in values]
    texts += [Text(product.title), Text(f"Price: {product.price_tag}"), Text(f"Rating: {product.rating}")]
    shown = SUBPAGES if show_attributes else SUBPAGES[:-1]
    return [*texts, *map(_button, shown), _button(BUY)]


def _details(page: Page) -> Sequence[str]:
    product = page.product
    assert product is not None
    by_name = {
        "Description": [product.description],
        "Features": product.bullet_points,
        "Reviews": [],
        "Attributes": [product.category, *product.attributes],
    }
    return [text for text in by_name[page.subpage] if text]


def _button(content: str) -> Text:
    return Text(content, "button")
