"""Published hyper-parameters: each recipe is a configuration that can be built, and nothing in it is without effect."""

import inspect

import pytest
from typer.testing import CliRunner

from agent_gym.cli.app import app
from agent_gym.config import TrainConfig, build, load
from agent_gym.errors import UnknownIdError
from agent_gym.registry import find_spec, options_of, resolve
from agent_gym.rollout.actions import syntax
from agent_gym.trainers.presets import METHODS, make_algorithm, parse
from agent_gym.trainers.recipes import all_recipes, recipe, recipe_names


@pytest.mark.parametrize(("piece", "name"), all_recipes())
def test_every_recipe_is_a_configuration_whose_algorithm_and_environment_take_its_options(
    piece: str, name: str
) -> None:
    config = build(TrainConfig, recipe(piece, name))
    algorithm = make_algorithm(config.algorithm.name, config.algorithm.options)
    assert piece in [each.name for each in parse(config.algorithm.name)] and not algorithm.notes
    known = options_of(resolve(find_spec(config.env.id).entry_point))
    assert set(config.env.options) <= set(known)
    assert syntax(config.rollout.syntax) and "/" in config.model.path


def test_every_paper_has_recipes() -> None:
    assert {piece for piece, _ in all_recipes()} == set(METHODS)
    assert "alfworld" in recipe_names("epo") and recipe_names("grpo") == []


def test_a_file_and_the_command_line_stand_above_the_recipe() -> None:
    values = recipe("epo", "alfworld")
    config = load(TrainConfig, None, {"model.path": "tiny", "algorithm.options": {}}, base=values)
    assert config.model.path == "tiny" and config.algorithm.options == {} and config.rollout.window == 2
    assert recipe("gigpo+epo", "alfworld") == values
    assert recipe("empg+spear", "alfworld") == recipe("spear", "alfworld")


def test_a_recipe_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UnknownIdError, match=r"'alfwurld'.*did you mean 'alfworld'"):
        recipe("epo", "alfwurld")
    with pytest.raises(UnknownIdError, match="none"):
        recipe("grpo", "alfworld")
    result = CliRunner().invoke(app, ["train", "--recipe", "alfworld"])
    assert result.exit_code != 0 and "give --algorithm" in str(result.exception)


def test_the_command_lists_algorithms_with_their_options() -> None:
    table = CliRunner().invoke(app, ["algorithms"], env={"COLUMNS": "200"})
    assert table.exit_code == 0, table.exception
    assert all(name in table.stdout for name in METHODS) and "alfworld" in table.stdout
    one = CliRunner().invoke(app, ["algorithms", "gigpo+epo"], env={"COLUMNS": "200"})
    options = inspect.signature(parse("epo")[1].build).parameters
    assert one.exit_code == 0 and all(name in one.stdout for name in options if name != "base")
    assert "recipes: alfworld" in one.stdout
