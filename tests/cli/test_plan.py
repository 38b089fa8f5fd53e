"""`agent-gym plan` prints what a model takes and a configuration that train takes, or why nothing fits."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from agent_gym.cli.app import app
from agent_gym.config import TrainConfig
from agent_gym.config_files import load
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.trainers.shapes import KNOWN

SEVEN = ["plan", "--model", "Qwen/Qwen2.5-7B-Instruct"]


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*SEVEN, *arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_it_says_what_each_part_takes_that_nothing_was_measured_and_how_to_start() -> None:
    text = said("--gpus", "8")
    assert "7,615,616,512 parameters" in text and "not measured on a GPU" in text
    for part in ("weights", "gradients", "optimizer", "activations", "logits", "vLLM", "a step: 128 episodes"):
        assert part in text
    assert "accelerate launch --config_file accelerate.yaml -m agent_gym train --config train.yaml" in text


def test_what_it_prints_for_machines_is_what_it_writes(tmp_path: Path) -> None:
    values = json.loads(said("--gpus", "8", "--json", "--out", str(tmp_path)).partition("\nwritten")[0])
    assert values["measured"] is False and values["fits"] and values["setup"]["sharding"] == "fsdp2"
    assert yaml.safe_load((tmp_path / "train.yaml").read_text()) == values["config"]
    assert yaml.safe_load((tmp_path / "accelerate.yaml").read_text()) == values["accelerate"]
    config = load(TrainConfig, tmp_path / "train.yaml", {})
    assert config.distributed.shard and config.engine.kind == "vllm" and config.model.gradient_checkpointing


def test_where_nothing_fits_it_says_which_part_and_what_would() -> None:
    with pytest.raises(ConfigError, match=r"Nothing fits.*optimizer 85\.1.*--lora 16.*--gpus 2"):
        said()
    assert "adapters" not in said("--lora", "16") and "rank: 16" in said("--lora", "16")


def test_json_says_so_too_where_nothing_fits() -> None:
    done = CliRunner().invoke(app, [*SEVEN, "--json"])
    assert done.exit_code != 0
    values = json.loads(done.stdout)
    assert not values["fits"] and values["reasons"] and values["remedies"]


def test_a_folder_with_a_shape_is_enough(tmp_path: Path) -> None:
    KNOWN["Qwen/Qwen3-0.6B"].model_config().save_pretrained(tmp_path)
    done = CliRunner().invoke(app, ["plan", "--model", str(tmp_path)])
    assert done.exit_code == 0 and "596,049,920 parameters" in done.stdout


def test_a_recipe_is_planned_with_its_own_base() -> None:
    arguments = ["plan", "--algorithm", "spear", "--recipe", "alfworld", "--gpus", "8"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "name: gigpo+spear" in done.stdout and "256 episodes" in done.stdout


def test_what_is_not_known_is_refused_with_the_remedy() -> None:
    for arguments in (["plan"], ["plan", "--model", "tiny"]):
        done = CliRunner().invoke(app, arguments)
        assert "give --model" in str(done.exception)
    done = CliRunner().invoke(app, ["plan", "--model", "gpt-9"])
    assert isinstance(done.exception, ConfigError) and "config.json" in str(done.exception)
    done = CliRunner().invoke(app, ["plan", "--algorithm", "epo", "--recipe", "alfwurld"])
    assert isinstance(done.exception, UnknownIdError)
