"""Weights as others load them."""

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agent_gym.trainers.weights import named_weights


def llama(*, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def adapted(model: PreTrainedModel, targets: list[str]) -> PreTrainedModel:
    """Give a model adapters that do something."""
    model.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_of_a_plain_model_are_those_of_its_state_dict(tied: bool) -> None:
    model = llama(tied=tied)
    weights = dict(named_weights(model))
    state = model.state_dict()
    assert set(state) - set(weights) == ({"lm_head.weight"} if tied else set())
    assert all(value.data_ptr() == state[name].data_ptr() for name, value in weights.items())
    assert not any(value.requires_grad for value in weights.values())


def test_adapters_are_merged_under_the_names_of_the_base() -> None:
    plain = llama()
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    before = plain(input_ids=ids).logits
    model = adapted(llama(), ["q_proj", "down_proj"])
    expected = model(input_ids=ids).logits
    merged = dict(named_weights(model))
    assert set(merged) == set(dict(named_weights(plain)))
    plain.load_state_dict(merged, strict=False)
    assert torch.allclose(plain(input_ids=ids).logits, expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-2)


def test_merging_leaves_the_model_as_it_was() -> None:
    model = adapted(llama(), ["q_proj"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    list(named_weights(model))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_without_merging_the_base_is_what_it_was() -> None:
    base = dict(named_weights(adapted(llama(), ["q_proj"]), merged=False))
    assert all(torch.equal(value, base[name]) for name, value in named_weights(llama()))


def test_layers_that_store_their_weight_transposed_are_merged_too() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    names = set(dict(named_weights(model)))
    adapted(model, ["c_attn"])
    expected = model(input_ids=ids).logits
    merged = dict(named_weights(model))
    assert set(merged) == names
    plain = GPT2LMHeadModel(model.config).eval()
    plain.load_state_dict(merged, strict=False)
    assert torch.allclose(plain(input_ids=ids).logits, expected, atol=1e-5)


def test_the_merge_is_that_of_peft(tmp_path: object) -> None:
    model = adapted(llama(), ["o_proj", "up_proj"])
    model.save_pretrained(str(tmp_path))
    whole = PeftModel.from_pretrained(llama(), str(tmp_path)).merge_and_unload()
    theirs = whole.state_dict()
    for name, value in named_weights(model):
        assert torch.allclose(value, theirs[name], atol=1e-6), name


def test_a_frozen_second_adapter_that_is_not_active_adds_nothing() -> None:
    model = adapted(llama(), ["q_proj"])
    one = {name: value.clone() for name, value in named_weights(model)}
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]), "other")
    model.set_adapter("default")
    for name, value in named_weights(model):
        assert torch.equal(value, one[name])
