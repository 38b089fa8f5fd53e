"""What is counted is what torch allocates: states, activations, adapters and caches of small models on the CPU."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from allocated import Peak
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from agent_gym.engines.adapters import add_adapters
from agent_gym.errors import ConfigError
from agent_gym.sections import LoraSection
from agent_gym.trainers import optimizers, sizing
from agent_gym.trainers.optimizers import make_optimizer
from agent_gym.trainers.shapes import KNOWN, Shape
from agent_gym.trainers.sizing import GIB, Setup, Sharding, training_parts

SMALL = {
    "llama": Shape("small", "llama", 3, 48, 6, 2, 16, 80, 300, 512, True),
    "qwen2": Shape("small", "qwen2", 3, 48, 6, 2, 8, 80, 300, 512, False),
    "qwen3": Shape("small", "qwen3", 3, 48, 6, 2, 16, 80, 300, 512, True),
}
SHARDINGS: tuple[Sharding, ...] = ("none", "fsdp2")
families = pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)


def make_model(shape: Shape, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_config(shape.model_config(), dtype=dtype)


def bytes_of(tensors: "list[Tensor]") -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def kept_for_backward(model: Any, tokens: Tensor) -> int:
    """Return the bytes that autograd keeps, the model's own weights left out, each storage once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _alive = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    return sum(kept.values())


@families
def test_states_are_what_a_step_of_adamw_leaves(shape: Shape) -> None:
    model = make_model(shape)
    optimizer = make_optimizer("adamw", model, learning_rate=1e-3)
    model(input_ids=torch.arange(8).unsqueeze(0)).logits.sum().backward()
    optimizer.step()
    parameters = list(model.parameters())
    moments = [value for state in optimizer.state.values() for key, value in state.items() if key != "step"]
    states = sizing.full_states(shape.parameters, weight_bytes=4)
    assert states.weights == bytes_of(parameters)
    assert states.gradients == bytes_of([p.grad for p in parameters if p.grad is not None])
    assert states.optimizer == bytes_of(moments)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "lora"])
def test_a_step_takes_what_is_counted_and_in_16_bits_no_more_than_a_bucket(
    kind: str, optimizer: Literal["adamw", "muon"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs: AdamW over many weights at once."""
    for module in (sizing, optimizers):
        monkeypatch.setattr(module, "STEP_ELEMENTS", 20_000)
    shape, adapters = SMALL["qwen2"], None
    model = make_model(shape, torch.float32 if kind == "float32" else torch.bfloat16)
    if kind == "lora":
        add_adapters(model, LoraSection(rank=4), base=None, seed=0)
        adapters = sizing.adapter_parameters(shape, 4)
    made = make_optimizer(optimizer, model, learning_rate=1e-3)
    for group in made.param_groups:
        group["foreach"] = True
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    made.step()
    with Peak() as peak:
        made.step()
    element, lora = 4 if kind == "float32" else 2, None if adapters is None else (4, "all-linear")
    counted = sizing.step_bytes(shape, element=element, adapters=adapters)
    if optimizer == "muon":
        counted = max(counted, sizing.muon_bytes(shape, element=element, lora=lora))
    assert 0.8 * counted < peak.most < 1.05 * counted
    assert kind == "float32" or counted < (4 if optimizer == "adamw" else 12) * shape.parameters


def test_a_step_counts_where_it_takes_more_than_activations_and_logits() -> None:
    setup = Setup(KNOWN["Qwen/Qwen2.5-7B"])
    halved, full = training_parts(setup), training_parts(replace(setup, dtype="float32"))
    assert "optimizer's step" not in halved
    gone = full["activations"] + full["logits"]
    assert full["optimizer's step"] + gone == 4 * setup.shape.parameters


def test_a_step_of_muon_takes_whole_matrices_on_each_gpu() -> None:
    setup = Setup(KNOWN["Qwen/Qwen2.5-7B"], gpus=8, sharding="fsdp2", optimizer="muon", dtype="float32")
    beyond = [training_parts(replace(setup, gpus=gpus))["optimizer's step"] for gpus in (8, 64)]
    gate_and_up = 28 * 2 * 4 * (3 * 18944 * 3584 + 2 * 3584**2)
    parts = training_parts(setup)
    assert beyond == [gate_and_up - parts["activations"] - parts["logits"]] * 2
    assert "optimizer's step" not in training_parts(replace(setup, dtype="bfloat16")), "a bucket at a time"


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_what_autograd_keeps_of_a_layer(shape: Shape, dtype: torch.dtype) -> None:
    tokens = torch.arange(2 * 64).reshape(2, 64)
    kept = {}
    for layers in (2, 3):
        model = AutoModelForCausalLM.from_config(shape.model_config(num_hidden_layers=layers), dtype=dtype)
        kept[layers] = kept_for_backward(model, tokens)
    counted = sizing.layer_activations(shape, element=dtype.itemsize)
    assert kept[3] - kept[2] == counted * tokens.numel()


def test_with_checkpointing_a_layer_keeps_its_input_alone() -> None:
    shape, tokens = SMALL["qwen3"], torch.arange(2 * 64).reshape(2, 64)
    kept = {}
    for layers in (2, 3):
        model = AutoModelForCausalLM.from_config(shape.model_config(num_hidden_layers=layers))
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        kept[layers] = kept_for_backward(model, tokens)
    added = [
        sizing.activations(
            Shape("n", "qwen3", layers, 48, 6, 2, 16, 80, 300, 512, True), 128, element=4, checkpointing=True
        )
        for layers in (2, 3)
    ]
    assert kept[3] - kept[2] == added[1] - added[0] == 4 * shape.hidden * 128
    whole = sizing.activations(shape, 128, element=4, checkpointing=False)
    assert added[1] < whole


@families
def test_the_cache_is_what_a_model_allocates(shape: Shape) -> None:
    cache = DynamicCache()
    make_model(shape)(input_ids=torch.arange(20).unsqueeze(0), past_key_values=cache, use_cache=True)
    allocated = bytes_of([tensor for layer in cache.layers for tensor in (layer.keys, layer.values)])
    assert sizing.kv_bytes(shape, 20, element=4) == allocated


@families
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_adapters_are_those_that_peft_makes(shape: Shape, targets: str | list[str]) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra lora")
    model = make_model(shape)
    model.add_adapter(peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    adapters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sizing.adapter_parameters(shape, 4, targets) == adapters


def test_adapters_on_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'query_key_value'.*it has q_proj"):
        sizing.adapter_parameters(SMALL["llama"], 4, ["query_key_value"])


def test_sharding_divides_states_and_nothing_else() -> None:
    shape = KNOWN["Qwen/Qwen2.5-7B"]
    alone = training_parts(Setup(shape))
    shared = training_parts(Setup(shape, gpus=8, sharding="fsdp2"))
    for name in ("weights", "gradients", "optimizer"):
        assert shared[name] == alone[name] // 8
    assert shared["activations"] == alone["activations"] and shared["gathered layers"] > 0
    assert sum(alone[name] for name in ("weights", "gradients", "optimizer")) == 16 * shape.parameters
    offloaded = training_parts(Setup(shape, gpus=8, sharding="fsdp2-offload"))
    assert "optimizer" not in offloaded and offloaded["gathered layers"] == shared["gathered layers"]


def test_lora_trains_little_and_needs_no_copy_to_compare_with() -> None:
    shape = KNOWN["Qwen/Qwen2.5-7B"]
    full = training_parts(Setup(shape, reference=True))
    lora = training_parts(Setup(shape, reference=True, lora_rank=16))
    assert full["reference"] == 2 * shape.parameters and "reference" not in lora
    assert lora["optimizer"] < full["optimizer"] / 100


def test_while_an_engine_samples_no_gradient_is_there_not_even_the_critics() -> None:
    for setup in (Setup(KNOWN["Qwen/Qwen2.5-7B"], gpus=2, critic=True, sharding=sharding) for sharding in SHARDINGS):
        update, sampling = training_parts(setup), sizing.sampling_parts(setup)
        backbone = 2 * setup.shape.backbone_parameters
        assert "gradients" not in sampling and update["critic"] - sampling["critic"] == backbone // setup.shards
        assert sampling.get("buckets of DDP", 0) == (setup.states.gradients if setup.sharding == "none" else 0)


def test_an_engine_holds_what_its_weights_leave() -> None:
    shape = KNOWN["Qwen/Qwen2.5-7B"]
    cache = sizing.engine_cache(shape, memory=80 * GIB, room=40 * GIB, tensor_parallel=1)
    assert cache is not None and cache.share == 0.5
    assert cache.tokens == (40 * GIB - 2 * shape.parameters - sizing.ENGINE_RESERVE) // (2 * 28 * 512 * 2)
    halved = sizing.engine_cache(shape, memory=80 * GIB, room=40 * GIB, tensor_parallel=2)
    assert halved is not None and halved.tokens > 2 * cache.tokens and halved.weights == cache.weights // 2
    assert sizing.engine_cache(KNOWN["Qwen/Qwen3-32B"], memory=80 * GIB, room=40 * GIB, tensor_parallel=1) is None
