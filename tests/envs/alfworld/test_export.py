"""Exported games: the official problem format, read back as the same game."""

from dataclasses import replace
from itertools import product

import pytest

from agent_gym.envs.alfworld.export import to_pddl
from agent_gym.envs.alfworld.games import SIZES, generate
from agent_gym.envs.alfworld.pddl import parse_problem
from agent_gym.envs.alfworld.scene import TASK_TYPES, Game


def read_back(game: Game) -> Game:
    return parse_problem(
        to_pddl(game),
        game_id=game.id,
        split=game.split,
        objective=game.objective,
        walkthrough=game.walkthrough,
        dialect=game.dialect,
    )


def with_the_pairs_that_matter(game: Game) -> Game:
    kinds = {r.kind for r in game.receptacles}, {i.kind for i in game.items}
    return replace(game, can_contain=frozenset(p for p in game.can_contain if p[0] in kinds[0] and p[1] in kinds[1]))


@pytest.mark.parametrize(("size", "task_type"), [*product(SIZES, TASK_TYPES)])
def test_an_exported_game_is_read_back_as_the_same_game(size: str, task_type: str) -> None:
    for seed in range(5):
        game = generate(seed, size=size, task_types=(task_type,))
        assert read_back(game) == with_the_pairs_that_matter(game)


def test_parts_that_generated_games_lack_are_exported_too() -> None:
    game = generate(0, size="small", task_types=("pick_and_place_simple",))
    receptacles = [replace(r, openable=True, opened=True) if i == 0 else r for i, r in enumerate(game.receptacles)]
    first, second, *others = game.items
    held = [replace(first, receptacle=0, also_in=(1,), states=frozenset({"issliced"})), replace(second, inside=(0,))]
    changed = replace(
        game,
        receptacles=tuple(receptacles),
        items=(*held, *others),
        goal=replace(game.goal, sliced=True),
    )
    assert read_back(changed) == with_the_pairs_that_matter(changed)
