"""The original's files: their names, their quirks, and what is said where they are not there."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.webshop.catalogue import NO_LIMIT
from agent_gym.envs.webshop.loading import load_shop
from agent_gym.errors import GameError

ENTRY: dict[str, Any] = {
    "asin": "B00000000A",
    "name": "Mug",
    "query": " Mugs ",
    "product_category": "Home › Kitchen › Mugs",
    "pricing": "$12.50",
    "full_description": "Holds tea.",
    "small_description": ["Blue."],
    "customization_options": {"Color": [{"value": " Sky/Blue "}, {"value": "Red"}], "Empty": None},
}
ATTRIBUTES = {"attributes": ["dishwasher safe"], "instruction": "Find a mug.", "instruction_attributes": ["safe"]}
WISH = {"instruction": "i want a mug.", "instruction_attributes": ["dishwasher safe"], "instruction_options": ["red"]}


def write(folder: Path, entries: Any, attributes: Any, wishes: Any = None) -> Path:
    (folder / "items_shuffle_1000.json").write_text(json.dumps(entries))
    (folder / "items_ins_v2_1000.json").write_text(json.dumps(attributes))
    if wishes is not None:
        (folder / "items_human_ins.json").write_text(json.dumps(wishes))
    return folder


def test_a_product_is_read_as_the_original_reads_it(tmp_path: Path) -> None:
    (product,) = load_shop(write(tmp_path, [ENTRY], {"B00000000A": ATTRIBUTES})).products
    assert (product.query, product.price, product.price_tag) == ("mugs", 12.5, "$12.5")
    assert product.options == {"color": ("sky | blue", "red")}
    assert product.attributes == ("dishwasher safe",) and product.bullet_points == ("Blue.",)


def test_entries_without_a_number_or_with_one_that_was_there_before_are_left_out(tmp_path: Path) -> None:
    entries = [ENTRY, ENTRY, {**ENTRY, "asin": "nan"}, {**ENTRY, "asin": "B0000000000"}]
    assert len(load_shop(write(tmp_path, entries, {})).products) == 1


@pytest.mark.parametrize(
    ("pricing", "low", "high", "tag"),
    [("$1,012.50", 1012.5, 1012.5, "$1012.5"), ("$10.00$15.00", 10, 15, "$10.0 to $15.0"), (None, 100, 100, "$100.0")],
)
def test_prices(tmp_path: Path, pricing: str | None, low: float, high: float, tag: str) -> None:
    (product,) = load_shop(write(tmp_path, [{**ENTRY, "pricing": pricing}], {})).products
    assert low <= product.price <= high and product.price_tag == tag


def test_goals_are_those_that_people_wrote_where_there_are_any(tmp_path: Path) -> None:
    folder = write(
        tmp_path, [ENTRY], {"B00000000A": ATTRIBUTES}, {"B00000000A": [WISH, {**WISH, "instruction_attributes": []}]}
    )
    (goal,) = load_shop(folder).goals
    assert goal.attributes == ("dishwasher safe",) and goal.options == ("red",)
    assert goal.price_limit in (30.0, 40.0, 50.0)
    assert goal.instruction == f"i want a mug, and price lower than {goal.price_limit:.2f} dollars"


def test_else_there_is_a_goal_for_each_combination_of_options(tmp_path: Path) -> None:
    size = {"Size": [{"value": "S"}, {"value": "L"}]}
    entry = {**ENTRY, "customization_options": {**ENTRY["customization_options"], **size}, "pricing": "$5000"}
    goals = load_shop(write(tmp_path, [entry], {"B00000000A": ATTRIBUTES})).goals
    assert {goal.options for goal in goals} == {(c, s) for c in ("sky | blue", "red") for s in ("s", "l")}
    assert {goal.price_limit for goal in goals} == {NO_LIMIT}
    assert "Find a mug with color: red, and size: l" in {goal.instruction for goal in goals}


def test_the_seed_decides_limits_and_order(tmp_path: Path) -> None:
    entries = [{**ENTRY, "asin": f"B{number}"} for number in range(20)]
    folder = write(tmp_path, entries, {f"B{number}": ATTRIBUTES for number in range(20)})
    assert load_shop(folder) == load_shop(folder) != load_shop(folder, seed=1)


def test_what_is_missing_or_broken_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(GameError, match=r"no items_shuffle\.json or items_shuffle_1000\.json in .*: get items_shuffle"):
        load_shop(tmp_path)
    write(tmp_path, [{"asin": "B1"}], {})
    with pytest.raises(GameError, match=r"are not WebShop's \(KeyError"):
        load_shop(tmp_path)
    (tmp_path / "items_ins_v2_1000.json").write_text("{")
    with pytest.raises(GameError, match="not a readable JSON file"):
        load_shop(tmp_path)
