import pytest

from agent_gym.tools.base import tool
from agent_gym.tools.toolbox import Toolbox


@tool
def search(query: str, limit: int = 5) -> str:
    """Search the encyclopedia.

    Args:
        query: What to look for.
        limit: How many.
    """
    return f"{limit} results for {query}"


@tool
def python(code: str) -> str:
    """Run Python code."""
    return code


@tool
def book(city: str, nights: int, extras: list[str] | None = None) -> str:
    """Book a room."""
    return f"{nights} nights in {city}"


@tool
def count(number: int) -> str:
    """Count to a number."""
    return str(number)


@tool
def done() -> str:
    """Be done."""
    return ""


@pytest.fixture(scope="session")
def tools() -> Toolbox:
    return Toolbox([search, python, book, count, done])
