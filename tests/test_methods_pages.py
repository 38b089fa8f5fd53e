"""The pages on methods say what is so: their code and commands run, their tables name what there is."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import documents
import pytest
from typer.testing import CliRunner

from agent_gym.cli.app import app
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.presets import BASES, METHODS, piece
from agent_gym.trainers.recipes import recipe_names

PAGES = documents.pages("methods")
COMMANDS = [
    pytest.param(line, id=f"{name}-{number}")
    for name, text in PAGES.items()
    for number, line in enumerate(documents.commands(text), 1)
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages show, which is the working directory."""
    for text in PAGES.values():
        documents.write_files(text, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PAGES)
def test_the_python_of_a_page_runs_in_order(name: str) -> None:
    space = {"__name__": "__main__"}
    for number, code in enumerate(documents.blocks(PAGES[name], "python"), 1):
        exec(compile(code, f"{name}, block {number}", "exec"), space)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_a_page_run(line: str) -> None:
    arguments = shlex.split(line)[1:]
    if arguments[0] == "train":
        assert "--recipe" not in arguments, "the papers' models are not at hand"
        shorter = [*documents.SHORTER, *(["env.options.max_turns=5"] if "alfworld" in arguments else [])]
        # A model with random weights solves nothing, so that every group would be played again.
        shorter += ["algorithm.options.max_rounds=1"] if "dapo" in line else []
        arguments += [part for each in shorter for part in ("--set", each)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_every_piece_has_a_page_that_names_its_options_and_recipes() -> None:
    for name in METHODS:
        text = PAGES[name]
        unnamed = [option for option in piece(name).options if f"`{option}`" not in text]
        assert not unnamed, f"{name}.md does not name {unnamed}"
        assert all(recipe in text for recipe in recipe_names(name)), f"{name}.md does not name its recipes"
    for name in BASES:
        unnamed = [option for option in piece(name).options if f"`{option}`" not in PAGES["bases"]]
        assert f"[{name}](" in PAGES["bases"] and not unnamed, f"bases.md does not name {name} or its {unnamed}"


def test_the_index_names_every_piece_and_every_slot() -> None:
    assert all(f"`{name}`" in PAGES["index"] for name in [*BASES, *METHODS])
    slots = {field.name for field in fields(Algorithm) if field.name in set(re.findall(r"`(\w+)`", PAGES["index"]))}
    assert slots >= {"rollout", "rewards", "filters", "advantages", "weights", "losses", "replay", "controllers"}
