"""What tokens cost. Prices change, so that none is known unless the user says it: an unknown cost is None, not 0."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_gym.config_files import read_yaml
from agent_gym.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a million tokens.

    Raises:
        ConfigError: A price is negative or no number.
    """

    read: float
    generated: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(price) and price >= 0 for price in (self.read, self.generated)):
            raise ConfigError(f"A price must be at least 0 dollars, not {self.read} and {self.generated}.")

    def cost(self, prompt_tokens: int, generated_tokens: int) -> float:
        """Return the dollars of a request."""
        return (prompt_tokens * self.read + generated_tokens * self.generated) / 1e6


def find_price(model: str, table: Path) -> Price | None:
    """Return the price of a model from a YAML file of `model: [read, generated]`; None where it is not in it.

    Raises:
        ConfigError: The file cannot be read, or an entry is not two numbers.
    """
    prices = {str(name): _price(str(name), value, table) for name, value in read_yaml(table).items()}
    return prices.get(model)


def _price(name: str, value: Any, table: Path) -> Price:
    numbers = [each for each in value if isinstance(each, int | float)] if isinstance(value, list) else []
    if len(numbers) != 2 or len(value) != 2:
        raise ConfigError(
            f"The price of {name!r} in {table} must be two numbers, dollars for a million tokens read and generated: "
            f"write {name}: [0.5, 1.5]."
        )
    return Price(float(numbers[0]), float(numbers[1]))
