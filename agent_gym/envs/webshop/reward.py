"""How well a purchase fits a goal: the reward of WebShop.

reward = type * (attributes + options + price) / (goal attributes + goal options + 1), in [0, 1]

Source: Yao et al., "WebShop: Towards Scalable Real-World Web Interaction with Grounded Language Agents", 2022, section
3.2, and the formulas of its code. One thing differs: nouns of a title are found without a part-of-speech tagger, by
leaving out the words that are no nouns in product titles.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from agent_gym.envs.webshop.catalogue import Goal, Product
from agent_gym.errors import MissingExtraError

_ALIKE = 85
"""Texts with a token-set ratio above this are taken for the same."""
_COLORS = (
    *("alabaster", "amber", "aqua", "beige", "black", "blue", "bronze", "brown", "burgundy", "charcoal", "copper"),
    *("cream", "crimson", "cyan", "gold", "gray", "green", "grey", "ivory", "khaki", "lavender", "lime", "magenta"),
    *("maroon", "mauve", "navy", "olive", "orange", "peach", "pink", "plum", "purple", "red", "rose", "ruby", "rust"),
    *("silver", "tan", "taupe", "teal", "turquoise", "violet", "white", "wine", "yellow"),
)
_WORD = re.compile(r"[a-z]+")
_NO_NOUNS = frozenset(
    _WORD.findall(
        "a an and are as at be by for from in into is it its of on or our that the their this to up with without your "
        "new more most best better good great high low free easy non long short small medium large extra big little "
        "classic modern premium essential vintage compact everyday deluxe simple soft hard fast quick slim thick thin "
        "men women man woman mens womens kids boys girls unisex everyone adult black white red blue green grey gray "
        "pink beige purple orange navy brown yellow gold silver one two three four pack set pcs"
    )
)


@dataclass(frozen=True, slots=True)
class RewardParts:
    """The factors and summands of a reward."""

    type: float
    """1, 0.5, 0.1 or 0: whether it is the kind of thing that was asked for."""
    attributes: int
    """Goal attributes that the product has."""
    options: int
    """Goal options that were chosen."""
    price: bool
    """Whether the price is within the limit."""
    total: float


def score_purchase(product: Product, chosen: Mapping[str, str], goal: Goal, wanted: Product) -> RewardParts:
    """Score a purchase.

    Args:
        product: What was bought.
        chosen: The options that were chosen: name -> value.
        goal: What was asked for.
        wanted: The product that the goal was written for.

    Raises:
        MissingExtraError: rapidfuzz is not installed.
    """
    kind = type_score(product, wanted)
    attributes = sum(_has(product, attribute) for attribute in goal.attributes)
    options = matched_options(list(chosen.values()), goal.options)
    affordable = product.price <= goal.price_limit
    share = (attributes + options + affordable) / (len(goal.attributes) + len(goal.options) + 1)
    return RewardParts(kind, attributes, options, affordable, kind * share)


def type_score(product: Product, wanted: Product) -> float:
    """Return how much a product is of the wanted kind: 1, 0.5, 0.1 or 0.

    The last two overrule a matching query or category.
    """
    common = _levels(product.category) & _levels(wanted.category)
    desired = nouns(wanted.title)
    title = len(nouns(product.title) & desired) / len(desired) if desired else 0.2
    if title == 0:
        return 0.0
    if title < 0.1:
        return 0.1
    alike = product.query == wanted.query or len(common) >= 2 or title > 0.2
    return 1.0 if alike else 0.5


def matched_options(chosen: Sequence[str], wanted: Sequence[str]) -> int:
    """Return how many of the wanted option values were chosen."""
    values = [_plain_color(value) for value in chosen]
    return sum(any(_alike(value, _plain_color(option)) for value in values) for option in wanted)


@lru_cache(maxsize=8192)
def nouns(title: str) -> frozenset[str]:
    """Return the words of a title that are taken for nouns."""
    return frozenset(word for word in _WORD.findall(title.lower()) if word not in _NO_NOUNS and len(word) > 2)


def _has(product: Product, attribute: str) -> bool:
    if any(_alike(own, attribute) for own in product.attributes):
        return True
    texts = (product.title, " ".join(product.bullet_points), product.description)
    return any(attribute in text.lower() for text in texts)


def _levels(category: str) -> set[str]:
    return {level.strip() for level in category.split("›")}


def _plain_color(value: str) -> str:
    """Return the first known colour that is in a value, else the value: "dusty rose pink" and "rose" are alike."""
    return next((color for color in _COLORS if color in value), value)


@lru_cache(maxsize=65536)
def _alike(one: str, two: str) -> bool:
    try:
        from rapidfuzz import fuzz, utils
    except ImportError as error:
        raise MissingExtraError.of("webshop", "WebShop's reward") from error
    # Lower-cased and without punctuation, as the library of the original compares them.
    return fuzz.token_set_ratio(one, two, processor=utils.default_process) > _ALIKE
