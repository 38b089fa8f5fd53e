"""Models from folders: whole ones and adapters, in the type and with the attention that is asked for."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TEXTS, small_llama

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.adapters import (
    CONFIG,
    adapter_config,
    adapter_weights,
    add_adapters,
    base_of,
    has_adapters,
    is_adapter,
    write_adapter,
)
from agent_gym.engines.loading import load_model
from agent_gym.engines.tiny import train_tokenizer
from agent_gym.errors import ConfigError, EngineError, MissingExtraError
from agent_gym.sections import LoraSection
from agent_gym.trainers.policy import make_policy


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small model in bfloat16."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(TEXTS, vocabulary=300)
    small_llama(len(tokenizer)).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """Return the folder of an adapter of that model."""
    model, tokenizer = load_model(str(base))
    add_adapters(model, LoraSection(rank=2), base=str(base), seed=0)
    folder = tmp_path / "run" / "checkpoints" / "step-1"
    folder.mkdir(parents=True)
    write_adapter(folder, adapter_weights(model), adapter_config(model))
    tokenizer.save_pretrained(folder)
    return folder


def test_weights_have_the_type_that_is_asked_for(base: Path) -> None:
    assert load_model(str(base))[0].dtype == torch.bfloat16
    assert load_model(str(base), dtype="float32")[0].dtype == torch.float32


def test_the_attention_is_the_one_that_is_asked_for(base: Path) -> None:
    assert load_model(str(base), attention="eager")[0].config._attn_implementation == "eager"
    with pytest.raises(EngineError, match="cannot be loaded"):
        load_model(str(base), attention="no_such_attention")


def test_flash_attention_that_is_not_installed_is_said(base: Path) -> None:
    with pytest.raises(EngineError, match=r"(?i)flash"):
        load_model(str(base), attention="flash_attention_2")


def test_an_adapter_is_loaded_with_its_base(base: Path, adapter: Path) -> None:
    assert is_adapter(adapter) and not is_adapter(base)
    assert base_of(adapter) == str(base)
    model, tokenizer = load_model(str(adapter), dtype="float32", attention="eager")
    assert has_adapters(model) and not model.training
    assert model.dtype == torch.float32 and model.config._attn_implementation == "eager"
    assert tokenizer.encode("count")


def test_an_adapter_whose_base_is_gone_is_said(base: Path, adapter: Path) -> None:
    config = adapter / CONFIG
    config.write_text(config.read_text().replace(str(base), "/no/such/model"))
    with pytest.raises(EngineError, match="/no/such/model"):
        load_model(str(adapter))
    (adapter.parent.parent / "base").symlink_to(base)
    assert has_adapters(load_model(str(adapter))[0])


def test_an_adapter_that_does_not_name_its_base_is_said(base: Path, adapter: Path) -> None:
    config = adapter / CONFIG
    config.write_text(config.read_text().replace(f'"{base}"', "null"))
    with pytest.raises(EngineError, match="base_model_name_or_path"):
        load_model(str(adapter))


def test_without_peft_the_command_that_installs_it_is_said(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    for path in (adapter, base):
        with pytest.raises(MissingExtraError, match=r"agent-gym\[lora\]"):
            make_policy(build(TrainConfig, {"model": {"path": str(path), "lora": {}}}))


@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_the_tiny_model_takes_type_and_attention_too(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.trainers.policy.corpus", lambda config: TEXTS)
    section = {"dtype": "bfloat16", "attention": attention, "gradient_checkpointing": True, "hidden": 16, "heads": 2}
    model, _ = make_policy(build(TrainConfig, {"model": section}))
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == ("sdpa" if attention == "auto" else attention)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": {"gradient_checkpointing": True}, "update": {"share_prefixes": True}}, "switch one off"),
        ({"update": {"share_prefixes": True, "pack": "on"}}, "leave update.pack alone"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_loaded(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(TrainConfig, values)
