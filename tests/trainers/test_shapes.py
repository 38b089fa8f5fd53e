"""Parameters are counted as transformers makes them, for every model of the table."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from agent_gym.errors import ConfigError
from agent_gym.trainers.shapes import KNOWN, Shape, shape_of

SMALL = {
    family: Shape("small", family, 2, 48, 6, 2, 16, 80, 300, 512, tied)  # type: ignore[arg-type]
    for family, tied in (("llama", True), ("qwen2", False), ("qwen3", True))
}


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-7B", "Qwen/Qwen3-8B", "meta-llama/Llama-3.2-1B"])
def test_a_model_that_transformers_makes_has_the_parameters_that_are_counted(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(KNOWN[name].model_config())
    assert sum(parameter.numel() for parameter in model.parameters()) == KNOWN[name].parameters
    assert sum(parameter.numel() for parameter in model.model.parameters()) == KNOWN[name].backbone_parameters


@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
def test_each_family_is_counted_with_heads_of_any_size(shape: Shape) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.model_config())
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_the_table_has_the_sizes_that_were_published() -> None:
    published = {
        "Qwen/Qwen2.5-0.5B": 494_032_768,
        "Qwen/Qwen2.5-1.5B": 1_543_714_304,
        "Qwen/Qwen2.5-3B": 3_085_938_688,
        "Qwen/Qwen2.5-7B": 7_615_616_512,
        "Qwen/Qwen2.5-14B": 14_770_033_664,
        "Qwen/Qwen2.5-32B": 32_763_876_352,
        "Qwen/Qwen3-0.6B": 596_049_920,
        "Qwen/Qwen3-1.7B": 1_720_574_976,
        "Qwen/Qwen3-4B": 4_022_468_096,
        "Qwen/Qwen3-8B": 8_190_735_360,
        "Qwen/Qwen3-14B": 14_768_307_200,
        "Qwen/Qwen3-32B": 32_762_123_264,
        "meta-llama/Llama-3.2-1B": 1_235_814_400,
        "meta-llama/Llama-3.2-3B": 3_212_749_824,
        "meta-llama/Llama-3.1-8B": 8_030_261_248,
    }
    assert {name: shape.parameters for name, shape in KNOWN.items()} == published


@pytest.mark.parametrize(
    "path", ["Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B", "qwen2.5-7b-instruct", "unsloth/Qwen2.5-7B-Instruct"]
)
def test_a_model_is_found_by_any_of_its_names(path: str) -> None:
    assert shape_of(path) is KNOWN["Qwen/Qwen2.5-7B"]


def test_what_is_not_in_the_table_is_read_from_its_folder(tmp_path: Path) -> None:
    SMALL["qwen3"].model_config().save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    assert shape.parameters == SMALL["qwen3"].parameters and (shape.head_size, shape.tied) == (16, True)


def test_an_unknown_model_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'Qwen/Qwen2.5-7B'.*config.json"):
        shape_of("Qwen/Qwen2.5-8B")


def test_a_model_that_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_moe"}))
    with pytest.raises(ConfigError, match="family 'qwen3_moe'"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    with pytest.raises(ConfigError, match="lacks a number"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="JSON"):
        shape_of(str(tmp_path))
