"""The house: which room may import which."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agent_gym"
ROOMS = ["sandbox", "tools", "envs", "engines", "rollout", "store", "trainers", "evaluation", "viewer", "cli"]


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    parts = [name.split(".") for name in names if name.startswith("agent_gym.")]
    return {part[1] for part in parts if part[1] in ROOMS}


# The package's own __init__ hands out the public names of all rooms, and imports each when it is first used; its
# __main__ is the command line.
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.name.startswith("__"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_above_it(path: Path) -> None:
    relative = path.relative_to(PACKAGE).parts
    own = ROOMS.index(relative[0]) if relative[0] in ROOMS else -1
    assert imported_rooms(path) <= set(ROOMS[: own + 1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420
