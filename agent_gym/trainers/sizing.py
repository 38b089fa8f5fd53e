"""How many bytes a model takes in training and in sampling, part by part: plain formulas over a `Shape`.

States, activations and caches are counted exactly (tests compare them with what torch allocates for small models on a
CPU). What a GPU needs besides is assumed, see `RESERVE` and `ENGINE_RESERVE`: none of it was measured on a GPU.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agent_gym.errors import ConfigError
from agent_gym.trainers.fused import BLOCK_ELEMENTS
from agent_gym.trainers.optimizers import STEP_ELEMENTS, Name
from agent_gym.trainers.shapes import Shape

GIB = 1 << 30
RESERVE = 3 * GIB
"""Assumed, for the context of CUDA, NCCL's buffers, workspaces and what the allocator cannot use."""
ENGINE_RESERVE = 3 * GIB
"""Assumed, for vLLM's activations and its CUDA graphs."""
LOGITS_AT_ONCE = 1 << 26
"""Logits that the output layer holds at once, see `agent_gym.trainers.scorer`."""

Sharding = Literal["none", "fsdp2", "fsdp2-offload"]
"""What GPUs share: nothing (DDP), or weights, gradients and optimiser; the last one keeps its shares on the CPU."""

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class States:
    """Bytes of what lives from step to step."""

    weights: int
    gradients: int
    optimizer: int


def full_states(parameters: int, *, weight_bytes: int) -> States:
    """Return the bytes of a model that is trained with AdamW.

    Args:
        parameters: How many there are.
        weight_bytes: Of one weight, and of its gradient. AdamW keeps two moments in float32, and where weights have 16
            bits also a copy of the weights in float32.

    Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020, 3.1.
    """
    copies = 8 if weight_bytes == 4 else 12
    return States(weight_bytes * parameters, weight_bytes * parameters, copies * parameters)


def lora_states(parameters: int, adapters: int, *, weight_bytes: int) -> States:
    """Return the bytes of a frozen model with adapters that are trained with AdamW; adapters are in float32.

    Args:
        parameters: Of the model.
        adapters: Parameters of the adapters, see `adapter_parameters`.
        weight_bytes: Of one of the model's weights.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
    """
    trained = full_states(adapters, weight_bytes=4)
    return States(weight_bytes * parameters + trained.weights, trained.gradients, trained.optimizer)


def adapter_parameters(shape: Shape, rank: int, target_modules: str | Sequence[str] = "all-linear") -> int:
    """Return the parameters of LoRA's adapters: rank x (inputs + outputs) for each adapted layer.

    Args:
        shape: Of the model.
        rank: Of the adapters.
        target_modules: Names of layers, or "all-linear".

    Raises:
        ConfigError: The model has no layer of a name, or the targets are a regular expression.
    """
    layers = shape.linear_layers
    if target_modules == "all-linear":
        names: Sequence[str] = list(layers)
    elif isinstance(target_modules, str):
        raise ConfigError(f"The regular expression {target_modules!r} cannot be counted: name the layers in a list.")
    else:
        names = target_modules
    for name in names:
        if name not in layers:
            raise ConfigError(
                f"model.lora.target_modules names {name!r}, and {shape.name} has no such layer: it has "
                f"{', '.join(layers)}."
            )
    return shape.layers * sum(rank * sum(layers[name]) for name in dict.fromkeys(names))


def layer_activations(shape: Shape, *, element: int) -> int:
    """Return the bytes that one decoder layer keeps of each token for its backward pass.

    Two norms (each keeps its input in float32, the normalised input and its output), the queries, keys, values and the
    output of attention, one float32 a head (attention is fused: no matrix of scores is kept), and four vectors of the
    feed-forward layer.

    Args:
        shape: Of the model.
        element: Bytes of one activation: 2 in bfloat16.

    Source: the counting of Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022,
    for the layers of transformers' Llama and Qwen.
    """
    norms = 2 * (_norm(shape.hidden, 1, element) + element * shape.hidden)
    attention = element * 2 * (shape.attention_width + shape.kv_width) + 4 * shape.heads
    if shape.family == "qwen3":
        attention += _norm(shape.attention_width, shape.heads, element)
        attention += _norm(shape.kv_width, shape.kv_heads, element)
    return norms + attention + 4 * element * shape.feed_forward


def _norm(width: int, groups: int, element: int) -> int:
    return 4 * width + element * width + 4 * groups


def activations(shape: Shape, tokens: int, *, element: int, checkpointing: bool) -> int:
    """Return the bytes of the activations of one micro-batch.

    Args:
        shape: Of the model.
        tokens: Of the micro-batch, padding included.
        element: Bytes of one activation.
        checkpointing: Keep the input of each layer alone, and all of one layer at a time.
    """
    layer = layer_activations(shape, element=element)
    final = _norm(shape.hidden, 1, element) + element * shape.hidden
    kept = shape.layers * element * shape.hidden + layer if checkpointing else shape.layers * layer
    return tokens * (kept + final)


def logits(shape: Shape, tokens: int, *, element: int, trained: bool) -> int:
    """Return the bytes that the output layer takes, which never holds the logits of a whole micro-batch.

    A part's logits, their logarithms and probabilities in float32, and their gradient; the gradient of all hidden
    states; where the layer is trained, what one micro-batch adds to its gradient, and sums in float32 of some of it
    (see `agent_gym.trainers.fused`).

    Args:
        shape: Of the model.
        tokens: Of the micro-batch.
        element: Bytes of one weight.
        trained: Whether the layer itself is; with LoRA it is not.
    """
    rows = max(1, LOGITS_AT_ONCE // shape.vocabulary)
    part = rows * shape.vocabulary * (8 + 2 * element)
    if not trained:
        return part + 2 * element * tokens * shape.hidden
    sums = BLOCK_ELEMENTS * (4 + element) + 4 * tokens * shape.hidden if element < 4 else 0
    return part + sums + element * (shape.embedding_parameters + tokens * shape.hidden)


def step_bytes(shape: Shape, *, element: int, adapters: int | None = None) -> int:
    """Return the bytes that a step of AdamW takes besides states, as it runs on GPUs: over many weights at once.

    The roots of the second moments, in float32, of all weights; where these have 16 bits, of a bucket of them alone,
    and the bucket's gradients in float32 (see `agent_gym.trainers.optimizers`).

    Args:
        shape: Of the model.
        element: Bytes of one weight.
        adapters: Parameters of the adapters where these are trained alone, in float32.
    """
    if adapters is not None or element == 4:
        return 4 * (shape.parameters if adapters is None else adapters)
    largest = max(shape.vocabulary, shape.feed_forward, shape.attention_width) * shape.hidden
    return 8 * min(max(STEP_ELEMENTS, largest), shape.parameters)


def muon_bytes(shape: Shape, *, element: int, lora: "tuple[int, str | Sequence[str]] | None" = None) -> int:
    """Return the bytes that a step of Muon takes besides states, on each GPU: what is sharded is whole meanwhile.

    Of all matrices of a shape, the directions, and what the iteration makes of them before and after; of each of them
    two square matrices of its shorter side. Where weights have 16 bits, of a bucket of them alone, and the bucket's
    gradients in float32 (see `agent_gym.trainers.optimizers`).

    Args:
        shape: Of the model.
        element: Bytes of one weight.
        lora: Rank and target modules of the adapters, where these are trained alone, in float32.
    """
    sizes = [(outputs, inputs) for inputs, outputs in shape.linear_layers.values()]
    if lora is not None:
        rank, targets = lora
        layers = shape.linear_layers
        chosen = [layers[name] for name in (layers if targets == "all-linear" else dict.fromkeys(targets))]
        sizes = [size for inputs, outputs in chosen for size in ((rank, inputs), (outputs, rank))]
    matrices = sizes * shape.layers
    if element == 4 or lora is not None:
        return _orthogonalized(matrices)
    return max(
        4 * sum(rows * columns for rows, columns in bucket) + _orthogonalized(bucket) for bucket in _buckets(matrices)
    )


def _orthogonalized(matrices: Sequence[tuple[int, int]]) -> int:
    """Return the bytes of the iteration over matrices in float32: all of a shape at once, one shape after the other."""
    counts = Counter(matrices)
    return max(
        4 * count * (3 * rows * columns + 2 * min(rows, columns) ** 2) for (rows, columns), count in counts.items()
    )


def _buckets(matrices: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    bucket: list[tuple[int, int]] = []
    for rows, columns in matrices:
        if bucket and sum(r * c for r, c in bucket) + rows * columns > STEP_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append((rows, columns))
    yield bucket


def kv_bytes(shape: Shape, tokens: int, *, element: int) -> int:
    """Return the bytes of the keys and values of so many tokens in all layers.

    Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023,
    section 3; with as many heads of keys and values as the model has.
    """
    return 2 * shape.layers * shape.kv_width * element * tokens


@dataclass(frozen=True, slots=True)
class Setup:
    """How a model is trained; `training_parts` says what that takes."""

    shape: Shape
    gpus: int = 1
    """Those that train."""
    sharding: Sharding = "none"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the weights."""
    lora_rank: int | None = None
    lora_targets: str | Sequence[str] = "all-linear"
    checkpointing: bool = True
    micro_batch_tokens: int = 8192
    reference: bool = False
    """Whether a frozen copy is compared with."""
    critic: bool = False
    """Whether a second backbone is trained."""
    optimizer: Name = "adamw"
    """Its states are counted as AdamW's, of which Muon keeps one moment less; what it takes in a step is its own."""

    @property
    def element(self) -> int:
        """Bytes of one weight."""
        return DTYPE_BYTES[self.dtype]

    @property
    def shards(self) -> int:
        """Among how many GPUs the states are divided."""
        return 1 if self.sharding == "none" else self.gpus

    @property
    def offloaded(self) -> bool:
        """Whether what lives from step to step is in the memory of the machine, and not of its GPUs."""
        return self.sharding == "fsdp2-offload"

    @property
    def states(self) -> States:
        """Bytes of the policy's states on all GPUs together, counted once."""
        if self.lora_rank is None:
            return full_states(self.shape.parameters, weight_bytes=self.element)
        adapters = adapter_parameters(self.shape, self.lora_rank, self.lora_targets)
        return lora_states(self.shape.parameters, adapters, weight_bytes=self.element)


def training_parts(setup: Setup) -> dict[str, int]:
    """Return the bytes of each part on one GPU while the weights are updated, when all are there at once."""
    shape, element = setup.shape, setup.element
    parts = {} if setup.offloaded else {name: size // setup.shards for name, size in lasting_parts(setup).items()}
    if setup.sharding != "none":
        parts["gathered layers"] = _gathered(setup)
    elif setup.gpus > 1:
        parts["buckets of DDP"] = setup.states.gradients
    parts["activations"] = activations(
        shape, setup.micro_batch_tokens, element=element, checkpointing=setup.checkpointing
    )
    parts["logits"] = logits(shape, setup.micro_batch_tokens, element=element, trained=setup.lora_rank is None)
    if not setup.offloaded:
        # By then activations and logits are gone.
        beyond = _step(setup) - parts["activations"] - parts["logits"]
        if beyond > 0:
            parts["optimizer's step"] = beyond
    parts["reserve"] = RESERVE
    return parts


def _step(setup: Setup) -> int:
    """Return the bytes that a step of the optimiser takes besides states on one GPU."""
    shape, element, rank, targets = setup.shape, setup.element, setup.lora_rank, setup.lora_targets
    adapters = None if rank is None else adapter_parameters(shape, rank, targets)
    # Under Muon, embeddings and norms are AdamW's: at most what it would take alone.
    step = step_bytes(shape, element=element, adapters=adapters) // setup.shards
    if setup.optimizer == "adamw":
        return step
    return max(step, muon_bytes(shape, element=element, lora=None if rank is None else (rank, targets)))


def lasting_parts(setup: Setup) -> dict[str, int]:
    """Return the bytes of what lives from step to step, of all GPUs that share it together."""
    states, shape, element = setup.states, setup.shape, setup.element
    parts = {"weights": states.weights, "gradients": states.gradients, "optimizer": states.optimizer}
    if setup.reference and setup.lora_rank is None:
        # With adapters, the reference is the model without them.
        parts["reference"] = element * shape.parameters
    if setup.critic:
        critic = _critic_states(setup)
        parts["critic"] = critic.weights + critic.gradients + critic.optimizer
    return parts


def _critic_states(setup: Setup) -> States:
    """Return the bytes of a second backbone; one with adapters shares the frozen weights, and has its own adapters."""
    if setup.lora_rank is None:
        return full_states(setup.shape.backbone_parameters, weight_bytes=setup.element)
    return full_states(adapter_parameters(setup.shape, setup.lora_rank, setup.lora_targets), weight_bytes=4)


def _gathered(setup: Setup) -> int:
    """Return the bytes of what is whole on each GPU for a moment: both ends of the model, and two layers.

    Gradients of what is trained are whole for as long.
    """
    shape = setup.shape
    ends = shape.parameters - shape.layers * shape.layer_parameters
    whole = setup.element * (ends + 2 * shape.layer_parameters)
    return whole if setup.lora_rank is not None else 2 * whole


def sampling_parts(setup: Setup) -> dict[str, int]:
    """Return the bytes that the trainer keeps on one GPU while an engine samples there."""
    kept = ("weights", "optimizer", "reference", "critic", "buckets of DDP", "reserve")
    parts = {name: size for name, size in training_parts(setup).items() if name in kept}
    if "critic" in parts:
        # Its gradients are dropped between updates.
        parts["critic"] -= _critic_states(setup).gradients // setup.shards
    return parts


@dataclass(frozen=True, slots=True)
class Cache:
    """What vLLM can hold on the GPUs that share a copy of the model."""

    share: float
    """Of each GPU's memory."""
    tensor_parallel: int
    weights: int
    """Bytes on one GPU."""
    kv: int
    """Bytes for keys and values on one GPU."""
    tokens: int
    """Tokens whose keys and values fit, on all `tensor_parallel` GPUs together."""


def engine_cache(shape: Shape, *, memory: int, room: int, tensor_parallel: int, element: int = 2) -> Cache | None:
    """Return what vLLM can hold, or None where not even its weights fit.

    Args:
        shape: Of the model.
        memory: Bytes of one GPU.
        room: Bytes of it that vLLM may have.
        tensor_parallel: GPUs that share each layer.
        element: Bytes of a weight, and of a key or value.
    """
    # vLLM is told a share in hundredths, and never more than it can get.
    share = min(int(100 * room / memory), 92) / 100
    weights = element * shape.parameters // tensor_parallel
    kv = int(share * memory) - weights - ENGINE_RESERVE
    # Heads of keys and values are divided among GPUs as far as there are any.
    per_token = kv_bytes(shape, 1, element=element) // min(tensor_parallel, shape.kv_heads)
    if kv < per_token:
        return None
    return Cache(share, tensor_parallel, weights, kv, kv // per_token)
