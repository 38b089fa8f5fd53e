"""Products, goals, and a synthetic shop of them that is made by seed.

Knows nothing of pages or of how an episode is scored.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PRICE_STEPS = tuple(10.0 * i for i in range(1, 100))
"""The price limits that an instruction may name, in dollars."""
NO_LIMIT = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Product:
    """What the shop sells under one number."""

    asin: str
    """Its number: ten letters and digits."""
    title: str
    query: str
    """The search that the product was found with when the catalogue was made; products of a kind share it."""
    category: str
    """Broad to narrow, separated by " › "."""
    price: float
    """In dollars; what is paid."""
    price_tag: str
    """What the page shows: "$12.5" or "$10.0 to $15.0"."""
    description: str = ""
    bullet_points: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of the option ("color") -> its values, lower case."""
    rating: str = "N.A."


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be bought."""

    instruction: str
    asin: str
    """The product that the instruction was written for."""
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    """Values of options that are asked for."""
    price_limit: float = NO_LIMIT


@dataclass(frozen=True, slots=True)
class Shop:
    """Products and the goals to buy them."""

    products: Sequence[Product]
    goals: Sequence[Goal]


def price_limit(price: float, rng: random.Random) -> float:
    """Draw the limit that an instruction names: the larger of two of the next four steps above the price."""
    above = [step for step in PRICE_STEPS if step > price][:4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_LIMIT


def priced(instruction: str, limit: float) -> str:
    """Append a price limit to an instruction."""
    return instruction if limit == NO_LIMIT else f"{instruction}, and price lower than {limit:.2f} dollars"


# -- the synthetic shop ------------------------------------------------------------------------------------------------

_COLORS = ("black", "white", "red", "navy blue", "green", "grey", "pink", "beige", "purple", "orange")
_SIZES = ("small", "medium", "large", "x-large", "xx-large")


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of product, and what varies within it."""

    noun: str
    category: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]
    prices: tuple[int, int]


_SHOES = ("non slip", "rubber sole", "memory foam", "arch support", "water resistant", "lace closure")
_CLOTHES = ("machine wash", "long sleeve", "classic fit", "quick drying", "moisture wicking", "elastic waist")
_FOOD = ("gluten free", "sugar free", "non gmo", "low sodium", "ready to eat", "plant based")
_BEAUTY = ("cruelty free", "fragrance free", "paraben free", "long lasting", "sensitive skin", "alcohol free")
_TECH = ("fast charging", "noise cancelling", "high speed", "easy to install", "bluetooth 5", "carrying case")
_HOME = ("easy to clean", "space saving", "solid wood", "easy to assemble", "heavy duty", "eco friendly")
_WEAR = (("color", _COLORS), ("size", _SIZES))
_FOOT = (("color", _COLORS), ("size", tuple(str(size) for size in range(6, 13))))
_PACK = (("size", ("pack of 1", "pack of 2", "pack of 6", "pack of 12")),)
_COLORED = (("color", _COLORS),)

_KINDS = (
    _Kind("running shoes", "Clothing › Shoes › Athletic › Running Shoes", _SHOES, _FOOT, (25, 130)),
    _Kind("hiking boots", "Clothing › Shoes › Outdoor › Hiking Boots", _SHOES, _FOOT, (40, 190)),
    _Kind("sandals", "Clothing › Shoes › Summer › Sandals", _SHOES, _FOOT, (12, 70)),
    _Kind("shirt", "Clothing › Tops › Casual › Shirts", _CLOTHES, _WEAR, (9, 60)),
    _Kind("hoodie", "Clothing › Tops › Warm › Hoodies", _CLOTHES, _WEAR, (18, 80)),
    _Kind("pants", "Clothing › Bottoms › Casual › Pants", _CLOTHES, _WEAR, (15, 90)),
    _Kind("granola", "Food › Breakfast › Cereals › Granola", _FOOD, _PACK, (4, 35)),
    _Kind("protein bars", "Food › Snacks › Bars › Protein Bars", _FOOD, _PACK, (6, 45)),
    _Kind("soup", "Food › Pantry › Canned › Soups", _FOOD, _PACK, (3, 28)),
    _Kind("face cream", "Beauty › Skin Care › Face › Creams", _BEAUTY, _PACK, (7, 65)),
    _Kind("shampoo", "Beauty › Hair Care › Wash › Shampoos", _BEAUTY, _PACK, (5, 40)),
    _Kind("lipstick", "Beauty › Makeup › Lips › Lipsticks", _BEAUTY, _COLORED, (4, 30)),
    _Kind("headphones", "Electronics › Audio › Personal › Headphones", _TECH, _COLORED, (15, 320)),
    _Kind("phone charger", "Electronics › Accessories › Power › Phone Chargers", _TECH, _COLORED, (8, 60)),
    _Kind("keyboard", "Electronics › Computers › Input › Keyboards", _TECH, _COLORED, (14, 160)),
    _Kind("bookshelf", "Home › Furniture › Storage › Bookshelves", _HOME, _COLORED, (35, 380)),
    _Kind("desk lamp", "Home › Lighting › Indoor › Desk Lamps", _HOME, _COLORED, (14, 95)),
    _Kind("area rug", "Home › Decor › Floor › Area Rugs", _HOME, _WEAR, (20, 240)),
    _Kind("storage basket", "Home › Storage › Small › Storage Baskets", _HOME, _COLORED, (9, 55)),
    _Kind("coffee table", "Home › Furniture › Living Room › Coffee Tables", _HOME, _COLORED, (45, 420)),
)
_STYLES = ("classic", "modern", "premium", "essential", "outdoor", "vintage", "compact", "everyday", "deluxe", "simple")
_MAKERS = ("Alder", "Brisk", "Corvo", "Dunmore", "Elvet", "Fenwick", "Garrow", "Hollis", "Ister", "Juno", "Kestrel")
_CODE = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"


def synthetic_shop(*, products: int = 1000, goals: int = 3000, seed: int = 0) -> Shop:
    """Make a shop; the same arguments always give the same one.

    Args:
        products: How many.
        goals: How many; each asks for a product of the shop with two of its attributes and one value an option.
        seed: Decides everything.
    """
    rng = random.Random(f"webshop {seed}")
    sold = [_product(_KINDS[number % len(_KINDS)], number, rng) for number in range(products)]
    return Shop(sold, [_goal(rng.choice(sold), rng) for _ in range(goals)])


def _product(kind: _Kind, number: int, rng: random.Random) -> Product:
    maker, style = rng.choice(_MAKERS), rng.choice(_STYLES)
    attributes = tuple(rng.sample(kind.attributes, 3))
    options = {name: _run(values, rng) for name, values in kind.options}
    price = rng.randrange(100 * kind.prices[0], 100 * kind.prices[1]) / 100
    for_whom = rng.choice(("men", "women", "everyone"))
    return Product(
        asin="B" + "".join(rng.choice(_CODE) for _ in range(5)) + f"{number:04d}",
        title=f"{maker} {style} {kind.noun} for {for_whom}, {attributes[0]}",
        query=kind.noun,
        category=kind.category,
        price=price,
        price_tag=f"${price}",
        description=f"{style.capitalize()} {kind.noun} by {maker}: {attributes[1]}, made for {for_whom}.",
        bullet_points=tuple(f"{attribute.capitalize()}." for attribute in attributes),
        attributes=attributes,
        options=options,
        rating=f"{rng.randrange(28, 51) / 10}",
    )


def _run(values: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    """Draw a run of neighbouring values, at least two of them where there are two."""
    start, end = sorted(rng.sample(range(len(values) + 1), 2))
    if end - start < 2:
        start, end = max(0, end - 2), max(2, end)
    return tuple(values[start:end])


def _goal(product: Product, rng: random.Random) -> Goal:
    attributes = tuple(rng.sample(product.attributes, 2))
    options = {name: rng.choice(values) for name, values in product.options.items()}
    limit = price_limit(product.price, rng)
    wish = f"i am looking for {product.query} that are {attributes[0]} and {attributes[1]}"
    chosen = ", and ".join(f"{name}: {value}" for name, value in options.items())
    return Goal(priced(f"{wish} with {chosen}", limit), product.asin, attributes, tuple(options.values()), limit)
