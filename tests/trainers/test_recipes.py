"""Published hyper-parameters: each recipe is a configuration that can be built, and nothing in it is without effect."""

import inspect
import re
from importlib import resources

import pytest
from typer.testing import CliRunner

from agent_gym.cli.app import app
from agent_gym.config import TrainConfig
from agent_gym.config_files import build, load
from agent_gym.errors import UnknownIdError
from agent_gym.registry import find_spec, options_of, resolve
from agent_gym.rollout.actions import syntax
from agent_gym.trainers.launching import planned_config
from agent_gym.trainers.planning import Machines, Plan, make_plan
from agent_gym.trainers.presets import METHODS, make_algorithm, parse
from agent_gym.trainers.recipes import all_recipes, recipe, recipe_names
from agent_gym.trainers.sizing import GIB


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


@pytest.mark.parametrize(("piece", "name"), all_recipes())
def test_the_sections_for_scale_are_those_that_plan_finds_on_the_gpus_that_are_named(piece: str, name: str) -> None:
    text = (resources.files("agent_gym.trainers") / "recipes" / piece / f"{name}.yaml").read_text(encoding="utf-8")
    told = re.search(r"# Scale: (\d+) x (\d+) GPUs of (\d+) GiB", text)
    assert told is not None
    nodes, gpus, gib = map(int, told.groups())
    config = build(TrainConfig, recipe(piece, name))
    plan = make_plan(config, Machines(gpus, gib * GIB, nodes))
    assert isinstance(plan, Plan), plan.reasons
    assert build(TrainConfig, planned_config(config, plan)) == config


def test_every_paper_has_recipes() -> None:
    assert {piece for piece, _ in all_recipes()} == set(METHODS)
    assert "alfworld" in recipe_names("epo") and recipe_names("grpo") == []


@pytest.mark.parametrize(
    ("piece", "name", "published"),
    [
        ("epo", "scienceworld", {"alpha": 0.05, "steps": 125, "rate": 5e-6, "mini": 128, "tasks": 16, "size": 8}),
        ("epo", "alfworld", {"alpha": 0.1, "steps": 150, "rate": 5e-6, "mini": 256, "tasks": 16, "size": 8}),
        ("epo", "scienceworld-ppo", {"alpha": 0.05, "steps": 125, "rate": 3e-6, "mini": 64, "tasks": 128, "size": 1}),
        ("epo", "alfworld-ppo", {"alpha": 0.1, "steps": 150, "rate": 5e-6, "mini": 256, "tasks": 128, "size": 1}),
        ("arpo", "reasoning", {"tasks": 128, "updates": 8, "size": 16, "initial": 8, "calls": 3, "length": 5632}),
        ("arpo", "deepsearch-8b", {"tasks": 128, "updates": 8, "size": 16, "initial": 8, "calls": 6, "length": 12000}),
        ("arpo", "deepsearch-14b", {"tasks": 64, "updates": 8, "size": 12, "initial": 6, "calls": 6, "length": 8192}),
        ("aepo", "reasoning", {"tasks": 128, "updates": 8, "size": 16, "initial": 8, "calls": 6, "length": 5632}),
        ("aepo", "deepsearch-8b", {"tasks": 128, "updates": 8, "size": 16, "initial": 8, "calls": 6, "length": 12000}),
        ("aepo", "deepsearch-14b", {"tasks": 64, "updates": 8, "size": 12, "initial": 6, "calls": 6, "length": 8192}),
        ("empg", "alfworld", {"steps": 150, "size": 8}),
        ("empg", "webshop", {"steps": 150, "size": 8}),
        ("empg", "deepsearch-32b", {"steps": 220}),
        ("spear", "alfworld", {"steps": 200, "rate": 1e-6, "mini": 1024, "tasks": 32, "size": 8, "warmup": 100}),
        ("spear", "alfworld-7b", {"steps": 200, "rate": 1e-6, "mini": 1024, "tasks": 32, "size": 8, "warmup": 100}),
        ("spear", "webshop", {"steps": 350, "rate": 1e-6, "mini": 256, "tasks": 32, "size": 8, "warmup": 200}),
        ("spear", "math", {"rate": 1e-6, "mini": 64 * 16, "tasks": 128, "size": 16, "warmup": 300}),
    ],
)
def test_the_published_numbers(piece: str, name: str, published: dict[str, float]) -> None:
    config = build(TrainConfig, recipe(piece, name))
    options = config.algorithm.options
    found = {
        "alpha": options.get("epo.smoothing"),
        "steps": config.steps,
        "rate": config.update.learning_rate,
        "mini": config.update.mini_batch_rows,
        "updates": config.update.updates_per_step,
        "tasks": config.rollout.tasks,
        "size": options["group_size"],
        "initial": options.get("initial"),
        "calls": config.env.options.get("max_calls"),
        "length": config.rollout.max_episode_tokens,
        "warmup": options.get("warmup"),
    }
    assert {key: found[key] for key in published} == published


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
