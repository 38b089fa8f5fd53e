"""The sections of a configuration: what training and evaluation are told, and what each number means.

Every field carries its sentence directly below it. A key that does not exist is refused with the nearest one that
does, so that no option is ever silently without effect.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @property
    def changed(self) -> set[str]:
        """Names of the keys whose values are not the defaults."""
        fields = type(self).model_fields
        return {name for name in fields if getattr(self, name) != fields[name].get_default(call_default_factory=True)}


class EnvSection(Section):
    """Which environment, and how it is made."""

    id: str = "alfworld"
    """A registered id, "module:Class" or "file.py:Class"."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of its constructor."""


class LoraSection(Section):
    """Low-rank adapters: what is trained instead of the model's own weights. Needs the extra `lora` (peft)."""

    rank: int = Field(16, ge=1)
    """Of the matrices that are added to each adapted layer."""
    alpha: float = Field(32.0, gt=0)
    """What an adapter adds is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in updates. Above 0 ratios are noisy, as sampling drops nothing."""
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that are adapted (["q_proj", "v_proj"]), a regular expression, or "all-linear": every linear
    layer but the output layer."""
    rank_stabilized: bool = False
    """Multiply by alpha / sqrt(rank) instead, so that a higher rank does not learn more slowly."""


class ModelSection(Section):
    """Which model acts."""

    path: str = "tiny"
    """A folder or name of a Hugging Face causal model, or "tiny": a small one made on the spot."""
    hidden: int = Field(128, ge=8)
    """Width of the tiny model."""
    layers: int = Field(3, ge=1)
    """Layers of the tiny model."""
    heads: int = Field(4, ge=1)
    """Attention heads of the tiny model."""
    feed_forward: int = Field(640, ge=8)
    """Width of the tiny model's feed-forward layers."""
    context: int = Field(2048, ge=64)
    """Longest sequence of the tiny model, in tokens."""
    vocabulary: int = Field(1024, ge=300)
    """Tokens of the tiny model's tokenizer, at most."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights in memory; "auto" is what they are stored in. Weights in bfloat16 halve the memory; the optimiser
    then keeps a float32 copy of what it trains, because most updates are too small for bfloat16."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """"bf16" computes updates in bfloat16 where weights are float32; "auto" does what `accelerate launch` says."""
    attention: str = "auto"
    """Which attention the model's own forward pass uses: "sdpa", "eager", "flash_attention_2" or whatever else the
    installed transformers knows; "auto" leaves the choice to it."""
    gradient_checkpointing: bool = False
    """Compute activations again backwards instead of keeping them: about a third more time, far less memory."""
    lora: LoraSection | None = None
    """Train low-rank adapters only, and keep the model as it is; without it all weights are trained."""

    @property
    def unheeded(self) -> list[str]:
        """The keys that have been set and say nothing of this model: sizes of the tiny one, where it is another."""
        sizes = ("hidden", "layers", "heads", "feed_forward", "context", "vocabulary")
        return [] if self.path == "tiny" else [name for name in sizes if name in self.changed]


class WarmStartSection(Section):
    """Behaviour cloning before reinforcement learning."""

    episodes: int = Field(0, ge=0)
    """Demonstrations that are played; 0 leaves the warm start out."""
    epochs: int = Field(1, ge=1)
    """Passes over them."""
    batch_size: int = Field(4, ge=1)
    """Episodes an optimiser step."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """Muon learns faster where weights begin at random; AdamW is right for pre-trained models."""
    learning_rate: float = Field(4e-3, gt=0)
    """Peak of the schedule."""
    observation_weight: float = Field(0.1, ge=0)
    """Weight of the loss on what the agent reads."""
    mistakes: float = Field(0.0, ge=0, lt=1)
    """Share of turns that the demonstrator spends on an action that does not work; these are not cloned."""
    distractions: list[str] = Field(default_factory=list)
    """Actions that the demonstrator puts in because it is in no hurry, such as looking around; these are cloned."""
    distracted: float = Field(0.0, ge=0, lt=1)
    """Share of turns that go to distractions."""
    env_options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the environment that differ for demonstrations: a larger turn limit, say."""


class RolloutSection(Section):
    """How episodes are played."""

    tasks: int = Field(16, ge=1)
    """Groups a step."""
    concurrency: int = Field(128, ge=1)
    """Episodes in flight."""
    max_tokens: int = Field(16, ge=1)
    """Tokens a turn."""
    max_episode_tokens: int | None = Field(None, ge=1)
    """Tokens an episode; by default the model's context."""
    temperature: float = Field(1.0, gt=0)
    """Of sampling in training."""
    syntax: str = "plain"
    """How actions are written: "plain" or "tagged"."""
    system_prompt: str = ""
    """Put before the first observation."""
    show_admissible: bool = False
    """Append the admissible actions to each observation."""
    restate_goal: bool = False
    """Append the goal to each observation after the first."""
    layout: Literal["trajectory", "turn"] = "trajectory"
    """"trajectory": the prompt grows by appending, and an episode is one row of training (ARPO, AEPO). "turn": each
    turn has a prompt of its own that shows the last turns, and is a row of its own (EPO, GiGPO, SPEAR on ALFWorld)."""
    window: int = Field(2, ge=0)
    """Earlier turns that a prompt of the layout "turn" shows."""
    max_lag: int = Field(0, ge=0)
    """Steps that sampling may run ahead of training: no token is trained on that was sampled more than so many updates
    of the weights before. 0 samples and trains in turns."""
    workers: Literal["local", "ray"] = "local"
    """Where environments live: "local" in this process (or in processes of their own, as their class says), "ray" in
    actors of Ray, on this machine or on a cluster. The episodes are the same."""
    ray_address: str | None = None
    """A cluster of Ray: "auto", "host:6379" or "ray://host:10001". By default what RAY_ADDRESS says, else a Ray of the
    run's own on this machine, which ends with it."""
    ray_actors: int | None = Field(None, ge=1)
    """Processes that hold environments; by default as many as the cluster has room for."""
    ray_cpus: float = Field(1.0, gt=0)
    """CPUs that are set aside for each of them."""
    ray_environments: int | None = Field(None, ge=1)
    """Environments that one of them holds at most; by default the episodes in flight are spread evenly."""
    ray_timeout: float = Field(120.0, gt=0)
    """Seconds that a call may take before the actor is ended and its episodes are played again elsewhere."""

    @model_validator(mode="after")
    def _ray_where_there_are_workers_of_ray(self) -> Self:
        of_ray = sorted(name for name in self.changed if name.startswith("ray_"))
        if of_ray and self.workers != "ray":
            raise ValueError(f"{of_ray[0]} needs workers: ray")
        return self

    @model_validator(mode="after")
    def _window_of_turns_alone(self) -> Self:
        if "window" in self.changed and self.layout != "turn":
            raise ValueError("window is heeded with layout: turn alone: leave it out")
        return self


SERVER_KEYS = ("urls", "sync", "sync_folder", "trust_network", "api_key_env", "tries")
"""Keys of `EngineSection` that servers alone heed."""
IN_PROCESS_KEYS = ("memory_share", "tensor_parallel", "sleep", "cache_gib", "eager", "start_timeout", "vllm")
"""Those that vLLM in the trainer's process alone heeds."""
VLLM_KEYS = ("top_logprobs", "timeout", "sync_timeout")
"""Those that vLLM heeds, wherever it is."""


class EngineSection(Section):
    """What the episodes of training are sampled with."""

    kind: Literal["transformers", "vllm", "server"] = "transformers"
    """"transformers": in the trainer's process, with the trainer's own weights where it can. "vllm": vLLM in the
    trainer's process. "server": vLLM's servers at `urls`."""
    urls: list[str] = Field(default_factory=list)
    """Addresses of vLLM's servers, "http://127.0.0.1:8000"; an episode stays with one of them."""
    sync: Literal["auto", "nccl", "file", "lora"] = "auto"
    """How new weights reach servers: by vLLM's own transfer between GPUs, by files in a folder that both see, or as a
    LoRA adapter in such a folder. "auto" takes the first that trainer and servers can do, of nccl, lora and file."""
    sync_folder: str | None = None
    """The folder for files, which trainer and servers see under the same name; by default one for temporary files."""
    trust_network: bool = False
    """Push weights to servers that are not on this machine, too. Whoever reaches such a server can make it run code:
    do so only in a network that nobody else is in."""
    api_key_env: str = "VLLM_API_KEY"
    """Environment variable with the servers' key, if they ask for one; the key itself is kept nowhere."""
    timeout: float = Field(300.0, gt=0)
    """Seconds that one request to a server may take; of vLLM in the trainer's process, that one step over all requests
    in flight may take."""
    sync_timeout: float = Field(600.0, gt=0)
    """Seconds that a server may take for new weights; of vLLM in the trainer's process, for falling asleep and waking
    up, too."""
    start_timeout: float = Field(1800.0, gt=0)
    """Seconds that vLLM in the trainer's process may take to start."""
    tries: int = Field(4, ge=1)
    """Requests in all where a server is busy (429, 5xx) or breaks off."""
    top_logprobs: int = Field(20, ge=0)
    """Entropies of vLLM are estimated from so many most probable tokens and one for all others."""
    tolerance: float | None = Field(None, gt=0)
    """Largest difference between log-probabilities of engine and trainer after new weights; by default 0.005 in
    float32 and 0.1 in 16 bits."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the engine's weights where it has its own; "auto" is the trainer's. Servers have what they were started with:
    say it here where it is not the trainer's, so that the comparison of log-probabilities allows for it."""
    memory_share: float = Field(0.4, gt=0, le=1)
    """Share of the GPU's memory for vLLM in the trainer's process, weights and caches together."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs that share each layer of vLLM in the trainer's process."""
    sleep: bool = True
    """Give vLLM's memory in the trainer's process back to the trainer during updates; not where sampling runs ahead
    (`rollout.max_lag`), since it goes on meanwhile."""
    cache_gib: float | None = Field(None, gt=0)
    """Memory for keys and values of vLLM in the trainer's process, in GiB; by default what `memory_share` leaves, on a
    CPU 1."""
    eager: bool | None = None
    """Run vLLM in the trainer's process without compiling and CUDA graphs; by default on a CPU."""
    vllm: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's engine in the trainer's process, such as max_model_len and block_size."""

    def allowed_difference(self, *, exact: bool) -> float:
        """Return by how much log-probabilities of engine and trainer may differ.

        Args:
            exact: Whether the trainer computes in float32.
        """
        return self.tolerance or (5e-3 if exact and self.dtype in ("auto", "float32") else 0.1)

    @model_validator(mode="after")
    def _only_keys_of_the_kind(self) -> Self:
        if self.kind == "server" and not self.urls:
            raise ValueError("servers need addresses: urls")
        other = {
            "server": dict.fromkeys(IN_PROCESS_KEYS, "vllm"),
            "vllm": dict.fromkeys(SERVER_KEYS, "server"),
            "transformers": dict.fromkeys(IN_PROCESS_KEYS, "vllm")
            | dict.fromkeys(SERVER_KEYS, "server")
            | dict.fromkeys(VLLM_KEYS, "vllm or server"),
        }
        for name, kind in other[self.kind].items():
            if name in self.changed:
                raise ValueError(f"{name} is heeded with kind: {kind} alone, and this is {self.kind}: leave it out")
        return self


class AlgorithmSection(Section):
    """What is optimised."""

    name: str = "grpo"
    """A preset, see `agent_gym.trainers.presets`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the preset."""


class UpdateSection(Section):
    """How a batch becomes optimiser steps."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """Which optimiser."""
    learning_rate: float = Field(1e-6, gt=0)
    """At the start; see `final_learning_rate`."""
    final_learning_rate: float = Field(1.0, ge=0, le=1)
    """The learning rate falls to this share of itself over the run."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How it falls."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the run in which the learning rate rises first."""
    updates_per_step: int = Field(1, ge=1)
    """Mini-batches that a step's batch is cut into."""
    mini_batch_rows: int | None = Field(None, ge=1)
    """Instead: how many rows a mini-batch has, at most."""
    micro_batch_tokens: int = Field(4096, ge=1)
    """Tokens that go through the model at once."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    weight_decay: float = Field(0.0, ge=0)
    """Of the optimiser."""
    share_prefixes: bool = False
    """Compute once what the trajectories of a group begin with in common: same gradients, fewer tokens."""
    pack: Literal["auto", "on", "off"] = "auto"
    """Lay rows end to end instead of padding them. "auto" does so where the model has flash-attention, which then
    computes nothing in vain; "on" also where attention is masked for it, which is slower for many tokens."""
    importance: Literal["off", "token", "turn"] = "off"
    """Correct for tokens that were sampled under other log-probabilities than the trainer's (another engine, older
    weights): losses are multiplied by what the policy before the first update gives the token ("token"), or its whole
    turn ("turn"), divided by what the engine gave it."""
    importance_cap: float = Field(2.0, gt=0)
    """Largest such factor."""

    @model_validator(mode="after")
    def _cap_of_what_is_corrected(self) -> Self:
        if "importance_cap" in self.changed and self.importance == "off":
            raise ValueError("importance_cap needs importance: token or turn")
        return self


class DistributedSection(Section):
    """How many processes train together; how many there are, the launcher says (accelerate launch, torchrun)."""

    shard: bool = False
    """Spread weights, gradients and the optimiser's state over the processes (FSDP2) instead of keeping all of them on
    each. The engine then samples with a copy of its own, or on servers."""
    timeout: float = Field(1800.0, gt=0)
    """Seconds that a process waits for the others, at a step's slowest episode too, before the run ends."""


class MeasureSection(Section):
    """When and on what success is measured during training."""

    split: str | None = None
    """Tasks of this split are never trained on; by default one that the environment holds out, such as valid_unseen."""
    tasks: int = Field(200, ge=0)
    """Tasks at the start and at the end; 0 leaves measuring out."""
    every: int = Field(0, ge=0)
    """Also measure after so many steps; 0 does not."""
    interim_tasks: int = Field(50, ge=1)
    """Tasks of the measurements in between."""
    temperature: float = Field(1.0, ge=0)
    """Of sampling when measuring."""
