"""Reads the product and goal files of the original WebShop.

Knows their names and their quirks, and nothing of the shop's pages.
"""

import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent_gym.envs.webshop.catalogue import Goal, Product, Shop, price_limit, priced
from agent_gym.errors import GameError

_PRODUCTS = ("items_shuffle.json", "items_shuffle_1000.json")
_WISHES = ("items_human_ins.json",)
_ATTRIBUTES = ("items_ins_v2.json", "items_ins_v2_1000.json")
_SHUFFLE_SEED = 233
"""The seed with which the original shuffles its goals: it decides which goals are for testing."""
_DEFAULT_PRICE = 100.0
_DOWNLOAD = "get items_shuffle.json, items_ins_v2.json and items_human_ins.json from the WebShop repository"


def load_shop(folder: str | Path, *, seed: int = _SHUFFLE_SEED) -> Shop:
    """Open the original files.

    Goals are those that people wrote (items_human_ins.json) where that file is there, else the synthetic ones: one for
    each combination of a product's options.

    Args:
        folder: Where the files lie: items_shuffle[_1000].json, items_ins_v2[_1000].json, items_human_ins.json.
        seed: Draws prices from ranges and price limits, and shuffles the goals.

    Raises:
        GameError: A file is missing or cannot be read.
    """
    folder = Path(folder)
    entries = _read(folder, _PRODUCTS)
    attributes = _read(folder, _ATTRIBUTES)
    wishes = _read(folder, _WISHES) if any((folder / name).is_file() for name in _WISHES) else None
    rng = random.Random(seed)
    try:
        products = list(_products(entries, attributes, rng))
        of_product = _human_goals if wishes is not None else _synthetic_goals
        goals = [
            goal for product in products for goal in of_product(product, (wishes or attributes).get(product.asin), rng)
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise GameError(
            f"The files in {folder} are not WebShop's ({type(error).__name__}: {error}): {_DOWNLOAD}."
        ) from error
    rng.shuffle(goals)
    return Shop(products, goals)


def _read(folder: Path, names: tuple[str, ...]) -> Any:
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise GameError(f"There is no {' or '.join(names)} in {folder}: {_DOWNLOAD}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GameError(f"{path} is not a readable JSON file ({error}): {_DOWNLOAD}.") from error


def _products(entries: list[dict[str, Any]], attributes: Mapping[str, Any], rng: random.Random) -> Iterator[Product]:
    """Yield each product once; entries without a proper number are left out."""
    seen = set()
    for entry in entries:
        asin = entry["asin"]
        if asin == "nan" or len(asin) > 10 or asin in seen:
            continue
        seen.add(asin)
        price, tag = _price(entry.get("pricing"), rng)
        yield Product(
            asin=asin,
            title=entry["name"],
            query=str(entry["query"]).lower().strip(),
            category=entry["product_category"],
            price=price,
            price_tag=tag,
            description=entry.get("full_description") or "",
            bullet_points=_bullet_points(entry.get("small_description")),
            attributes=tuple(attributes.get(asin, {}).get("attributes", ())),
            options=_options(entry.get("customization_options")),
            rating=str(entry.get("average_rating") or "N.A."),
        )


def _price(pricing: str | None, rng: random.Random) -> tuple[float, str]:
    """Return what is paid and what is shown; of a range ("$10.00$15.00") a price is drawn."""
    prices = [float(re.sub(r"[^\d.]", "", part)) for part in (pricing or "").split("$")[1:]]
    if not prices:
        return _DEFAULT_PRICE, f"${_DEFAULT_PRICE}"
    if len(prices) == 1:
        return prices[0], f"${prices[0]}"
    return rng.uniform(*prices[:2]), f"${prices[0]} to ${prices[1]}"


def _bullet_points(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    return tuple(value) if isinstance(value, list) else (str(value),)


def _options(customization: Any) -> dict[str, tuple[str, ...]]:
    options = {}
    for name, choices in (customization or {}).items():
        if choices:
            options[name.lower()] = tuple(choice["value"].strip().replace("/", " | ").lower() for choice in choices)
    return options


def _human_goals(product: Product, entries: list[dict[str, Any]] | None, rng: random.Random) -> Iterator[Goal]:
    """Yield the goals that people wrote for a product; those that ask for no attribute are left out."""
    for entry in entries or ():
        attributes = tuple(entry["instruction_attributes"])
        if attributes:
            limit = price_limit(product.price, rng)
            text = priced(entry["instruction"].strip("."), limit)
            yield Goal(text, product.asin, attributes, tuple(entry["instruction_options"]), limit)


def _synthetic_goals(product: Product, entry: dict[str, Any] | None, rng: random.Random) -> Iterator[Goal]:
    """Yield a goal for each combination of a product's options."""
    attributes = tuple((entry or {}).get("instruction_attributes", ()))
    instruction = (entry or {}).get("instruction")
    if not attributes or not instruction:
        return
    names = sorted(product.options)
    for values in itertools.product(*(product.options[name] for name in names)):
        limit = price_limit(product.price, rng)
        wish = ", and ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
        text = instruction.strip(".") + (f" with {wish}" if wish else "")
        yield Goal(priced(text, limit), product.asin, attributes, values, limit)
