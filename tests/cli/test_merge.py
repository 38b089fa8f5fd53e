"""`agent-gym merge` makes a plain model folder of an adapter and its base."""

from pathlib import Path

import pytest
import torch
from helpers import TEXTS, small_llama
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from agent_gym.cli.app import app
from agent_gym.cli.merging import run_merge
from agent_gym.engines.adapters import adapter_config, adapter_parameters, adapter_weights, add_adapters, write_adapter
from agent_gym.engines.loading import load_model
from agent_gym.engines.tiny import train_tokenizer
from agent_gym.errors import ConfigError
from agent_gym.sections import LoraSection
from agent_gym.trainers.scorer import TokenScorer


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Return the folder of an adapter that does something, with a base that lies elsewhere."""
    tokenizer = train_tokenizer(TEXTS, vocabulary=300)
    model = small_llama(len(tokenizer))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    add_adapters(model, LoraSection(rank=4), base=str(tmp_path / "base"), seed=0)
    for parameter in adapter_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_adapter(folder, adapter_weights(model), adapter_config(model))
    tokenizer.save_pretrained(folder)
    return folder


def logprobs(model: object) -> torch.Tensor:
    ids = torch.randint(0, 290, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 12)
    mask[:, 0] = 0
    with torch.no_grad():
        return TokenScorer(model)(ids, mask)[0]  # type: ignore[arg-type]


def test_the_merged_folder_is_a_plain_model_that_says_the_same(adapter: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["merge", str(adapter), "--to", str(tmp_path / "merged")])
    assert done.exit_code == 0 and done.stdout.strip() == str(tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter*"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not any("lora" in name or "base_layer" in name for name in merged.state_dict())
    before = logprobs(load_model(str(adapter))[0])
    torch.testing.assert_close(logprobs(merged), before, atol=1e-5, rtol=1e-5)
    assert (logprobs(load_model(str(tmp_path / "base"))[0]) - before).abs().max() > 0.05
    again, tokenizer = load_model(str(tmp_path / "merged"))
    assert tokenizer.encode("count") and torch.equal(logprobs(again), logprobs(merged))


def test_what_has_no_adapter_is_not_merged(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no adapter"):
        run_merge(str(tmp_path / "base"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_folder_that_exists_is_left_alone(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists"):
        run_merge(str(adapter), tmp_path / "base")


def test_weights_can_be_merged_in_another_type(adapter: Path, tmp_path: Path) -> None:
    run_merge(str(adapter), tmp_path / "merged", dtype="bfloat16")
    assert load_model(str(tmp_path / "merged"))[0].dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="--dtype"):
        run_merge(str(adapter), tmp_path / "other", dtype="int3")
