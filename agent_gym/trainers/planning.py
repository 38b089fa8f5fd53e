"""Finds how a model can be trained on given GPUs: what they share, where episodes are sampled, what fits at once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from agent_gym.config import TrainConfig
from agent_gym.sections import LoraSection
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.shapes import Shape, shape_of
from agent_gym.trainers.sizing import (
    DTYPE_BYTES,
    GIB,
    RESERVE,
    Cache,
    Setup,
    Sharding,
    engine_cache,
    lasting_parts,
    sampling_parts,
    training_parts,
)
from agent_gym.trainers.workload import Assumptions, Workload, workload

_MICRO_BATCHES = (
    (False, 32768),
    (False, 16384),
    (True, 65536),
    (True, 32768),
    (True, 16384),
    (True, 8192),
    (True, 4096),
)
"""Whether activations are computed again, and tokens at once, from the fastest to the one that takes least."""
_ENOUGH = 8
"""Episodes of full length that an engine should hold at least, before its layers are shared among more GPUs."""
_LORA_RANK = 16
HEADROOM = 0.9
"""Share of a GPU's memory that a plan may fill: what is estimated is not exact, and allocators fragment."""


@dataclass(frozen=True, slots=True)
class Machines:
    """What there is to train on."""

    gpus: int
    """On each node."""
    memory: int
    """Bytes of each GPU."""
    nodes: int = 1

    @property
    def total(self) -> int:
        """All GPUs."""
        return self.gpus * self.nodes


@dataclass(frozen=True, slots=True)
class Plan:
    """A way of training that fits."""

    machines: Machines
    setup: Setup
    work: Workload
    cache: Cache
    server_gpus: int
    """GPUs that vLLM's servers have to themselves; 0 where every GPU trains and samples in turn."""
    update: dict[str, int]
    """Bytes of each part on a GPU that trains, during updates."""
    sampling: dict[str, int]
    """Bytes of each part of the trainer there while vLLM samples on the same GPU; empty with servers."""

    @property
    def engines(self) -> int:
        """Copies of the model that sample."""
        return (self.server_gpus or self.machines.total) // self.cache.tensor_parallel

    @property
    def full_episodes(self) -> int:
        """Episodes of full length that all engines can hold at once."""
        return self.engines * (self.cache.tokens // self.work.longest_row)

    @property
    def host_memory(self) -> int:
        """Bytes that each node keeps outside of its GPUs."""
        return sum(lasting_parts(self.setup).values()) // self.machines.nodes if self.setup.offloaded else 0


@dataclass(frozen=True, slots=True)
class NoPlan:
    """Why nothing fits, and what would."""

    machines: Machines
    setup: Setup
    """The one that takes least."""
    work: Workload
    update: dict[str, int]
    reasons: tuple[str, ...]
    remedies: tuple[str, ...]


def make_plan(
    config: TrainConfig, machines: Machines, assumptions: Assumptions | None = None, *, servers: bool = False
) -> Plan | NoPlan:
    """Find a way of training a configuration's model that fits.

    The first of these that fits is taken: every GPU has all (DDP) and samples with vLLM in between; they share weights,
    gradients and optimiser (FSDP2) and sample in between; some of them only sample; what they share is in the
    machine's memory between uses (FSDP2 with offloading, which is slow).

    Args:
        config: Of the run.
        machines: What there is.
        assumptions: What the configuration does not say.
        servers: Let some GPUs only sample in any case, as a configuration with `engine.kind: server` does, too.

    Raises:
        ConfigError: The shape of the model is not known, or the configuration cannot be.
    """
    shape = shape_of(config.model.path)
    work = workload(config, shape.context, assumptions)
    base = base_setup(config, shape)
    apart = servers or config.engine.kind == "server"
    found = _search(base, work, machines, apart)
    if found is not None:
        return found
    least = replace(
        base,
        gpus=machines.total,
        sharding="fsdp2" if machines.total > 1 and base.lora_rank is None else "none",
        checkpointing=True,
        micro_batch_tokens=work.longest_row,
    )
    parts = training_parts(least)
    return NoPlan(
        machines,
        least,
        work,
        parts,
        _reasons(least, work, machines, parts),
        _remedies(config, base, machines, work, apart),
    )


def base_setup(config: TrainConfig, shape: Shape) -> Setup:
    """Return what the configuration decides; the search decides the rest."""
    algorithm = make_algorithm(config.algorithm.name, config.algorithm.options)
    lora = config.model.lora
    return Setup(
        shape,
        dtype="float32" if config.model.dtype == "float32" else "bfloat16",
        lora_rank=lora.rank if lora else None,
        lora_targets=lora.target_modules if lora else "all-linear",
        reference=algorithm.needs_reference,
        critic=algorithm.critic is not None,
        optimizer=config.update.optimizer,
    )


def _search(base: Setup, work: Workload, machines: Machines, apart: bool) -> Plan | None:
    # A critic or a reference shares the frozen weights of a model with adapters: these cannot be spread twice.
    divisible = machines.total > 1 and (base.lora_rank is None or not (base.critic or base.reference))
    shardings: tuple[Sharding, ...] = ("none", "fsdp2") if divisible else ("none",)
    ways = [] if apart else [(sharding, 0) for sharding in shardings]
    ways += [(sharding, gpus) for gpus in _divisions(machines) for sharding in shardings]
    if divisible and not apart:
        ways.append(("fsdp2-offload", 0))
    plans = (_fitting(base, work, machines, sharding, server_gpus) for sharding, server_gpus in ways)
    return next((plan for plan in plans if plan is not None), None)


def _divisions(machines: Machines) -> Iterator[int]:
    """Yield how many GPUs could only sample, the fewest first; whole nodes where there are several."""
    if machines.nodes > 1:
        yield from (machines.gpus * nodes for nodes in range(1, machines.nodes // 2 + 1))
        return
    yield from sorted({machines.gpus // part for part in (8, 4, 2) if machines.gpus // part >= 1})


def _fitting(base: Setup, work: Workload, machines: Machines, sharding: Sharding, server_gpus: int) -> Plan | None:
    """Return the fastest plan of a kind that fits; servers need no room on the GPUs that train."""
    gpus = machines.total - server_gpus
    if gpus < 1:
        return None
    for checkpointing, tokens in _MICRO_BATCHES:
        setup = replace(
            base,
            gpus=gpus,
            sharding=sharding if gpus > 1 else "none",
            checkpointing=checkpointing,
            # A row is never cut: the longest one goes through at once.
            micro_batch_tokens=max(tokens, work.longest_row),
        )
        update = training_parts(setup)
        if sum(update.values()) > HEADROOM * machines.memory:
            continue
        sampling = {} if server_gpus else sampling_parts(setup)
        room = int(HEADROOM * machines.memory) - (RESERVE if server_gpus else sum(sampling.values()))
        cache = _cache(setup, work, machines, room, server_gpus)
        if cache is not None:
            return Plan(machines, setup, work, cache, server_gpus, update, sampling)
    return None


def _cache(setup: Setup, work: Workload, machines: Machines, room: int, server_gpus: int) -> Cache | None:
    """Return what vLLM holds with the fewest GPUs a copy that hold enough; else with those that hold most."""
    best = None
    element = 2 if setup.element == 2 else DTYPE_BYTES[setup.dtype]
    most = min(machines.gpus, server_gpus or machines.gpus)
    for count in (1, 2, 4, 8):
        if count > most or most % count or setup.shape.heads % count:
            continue
        cache = engine_cache(setup.shape, memory=machines.memory, room=room, tensor_parallel=count, element=element)
        if cache is None or cache.tokens < work.longest_row:
            continue
        best = cache
        if cache.tokens >= _ENOUGH * work.longest_row:
            break
    return best


def _reasons(setup: Setup, work: Workload, machines: Machines, parts: dict[str, int]) -> tuple[str, ...]:
    """Say what does not fit, the greatest part first."""
    total, memory = sum(parts.values()), HEADROOM * machines.memory
    if total > memory:
        greatest = sorted(parts.items(), key=lambda part: -part[1])[:3]
        told = ", ".join(f"{name} {size / GIB:.1f}" for name, size in greatest)
        return (
            f"The update takes {total / GIB:.1f} GiB on each GPU even with gradient checkpointing and one row at a "
            f"time, and {memory / GIB:.0f} of {machines.memory / GIB:.0f} can be planned with: {told}.",
        )
    return (
        f"The update fits ({total / GIB:.1f} of {memory / GIB:.0f} GiB on each GPU), but vLLM has no room for the "
        f"model ({setup.element * setup.shape.parameters / GIB:.1f} GiB) and one episode of {work.longest_row:,} "
        "tokens beside it.",
    )


def _remedies(config: TrainConfig, base: Setup, machines: Machines, work: Workload, apart: bool) -> tuple[str, ...]:
    """Say what would make it fit, each alone: tried, not guessed."""
    found = []
    if config.model.lora is None:
        lora = LoraSection(rank=_LORA_RANK)
        if _search(replace(base, lora_rank=lora.rank, lora_targets=lora.target_modules), work, machines, apart):
            found.append(f"--lora {_LORA_RANK}: train adapters of rank {_LORA_RANK}, and not the model's own weights")
    for gpus in (2, 4, 8):
        if gpus > machines.gpus and _search(base, work, replace(machines, gpus=gpus), apart):
            found.append(f"--gpus {gpus} of {machines.memory / GIB:.0f} GiB")
            break
    for nodes in (2, 4, 8, 16):
        if nodes > machines.nodes and _search(base, work, replace(machines, nodes=nodes), apart):
            found.append(f"--nodes {nodes} with {machines.gpus} GPU{'s' * (machines.gpus > 1)} each")
            break
    for gib in (40, 80, 141, 192):
        if gib * GIB > machines.memory and _search(base, work, replace(machines, memory=gib * GIB), apart):
            found.append(f"--gpu-memory {gib}: GPUs with so much memory")
            break
    shorter = replace(work, longest_row=work.longest_row // 2)
    if _search(base, shorter, machines, apart):
        found.append(f"rows of at most {shorter.longest_row:,} tokens (rollout.max_episode_tokens)")
    return tuple(found)
