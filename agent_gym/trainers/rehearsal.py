"""A run rehearsed: everything is built but the big model, and one step is made with a tiny one. Nothing is written.

What would break the real run is found: options that do not exist, lengths beyond the model's context, an algorithm that
cannot branch in this environment, adapters on layers that are not there, what is not installed. The weights of the
model, its tokenizer (unless its folder is here), servers and GPUs are not tried.
"""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agent_gym.config import TrainConfig
from agent_gym.config_files import merged
from agent_gym.engines.adapters import StartingAdapter, add_adapters, has_adapters
from agent_gym.engines.choice import make_engine
from agent_gym.engines.loading import load_tokenizer
from agent_gym.engines.tiny import TinySize, make_model, train_tokenizer
from agent_gym.engines.vllm_server import servers_of
from agent_gym.errors import ConfigError, DataError, GameError
from agent_gym.registry import make
from agent_gym.rollout.chat import TemplateChat
from agent_gym.rollout.score import Score, score
from agent_gym.sections import EngineSection
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.planning import base_setup
from agent_gym.trainers.policy import Policy, corpus, recompute_activations
from agent_gym.trainers.preparing import check, check_spread, with_split
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.reference import frozen_copy
from agent_gym.trainers.sampling import Sampler
from agent_gym.trainers.shapes import Shape, shape_of
from agent_gym.trainers.sizing import Setup
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trainers.workload import Workload, group_size, workload
from agent_gym.trajectory import Group

_STAND_INS: dict[str, dict[str, Any]] = {
    "alfworld": {"games": None, "size": "tiny"},
    "code": {"data": None},
    "math": {"data": None},
    "search_qa": {"data": None, "corpus": None},
    "webshop": {"shop": None},
}
"""Options under which an environment makes its own tasks, where those of the run are not on this machine."""
_PACKAGES = {"vllm": "vllm", "ray": "ray", "flash_attention_2": "flash_attn"}
_CORPUS_EPISODES = 4
_CONTEXT = 1 << 15


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of a rehearsal."""

    config: TrainConfig
    """As it would be run."""
    played: TrainConfig
    """What was played instead: fewer tasks, smaller groups, shorter turns, a tiny model."""
    stand_in: str
    """Why other tasks than those of the run were played; nothing where they were its own."""
    missing: tuple[str, ...]
    """What this machine lacks, and the run needs."""
    notes: tuple[str, ...]
    """What whoever chose these pieces should know."""
    work: Workload
    """What a step of the run takes."""
    setup: Setup | None
    """From which its memory follows; None where the shape of the model is not known."""
    result: Score
    """Of the episodes that were played."""
    metrics: dict[str, float]
    """Of the update."""


def rehearse(config: TrainConfig) -> Rehearsal:
    """Build what a run needs but its model, and make one step with a tiny one.

    Args:
        config: Of the run.

    Raises:
        AgentGymError: The run could not be: the message says why, and how to mend it.
    """
    missing = _missing(config)
    runnable, stand_in = _with_tasks(config)
    if stand_in:
        missing.append(stand_in)
    resolved = with_split(runnable)
    config = config.model_copy(update={"measure": resolved.measure})
    algorithm = make_algorithm(config.algorithm.name, config.algorithm.options)
    shape = _shape(config, missing)
    _check_lengths(config, shape)
    setup = base_setup(config, shape) if shape is not None else None
    if setup is not None:
        # Adapters on layers that are not there are found here, before anything is played.
        _ = setup.states
        setup = _as_configured(setup, config)
    check_spread(config, shard=config.distributed.shard)
    servers_of(config.engine)
    _check_tokenizer(config)
    check(resolved)
    played = _scaled_down(resolved)
    result, metrics = _one_step(played)
    context = shape.context if shape else config.model.context
    return Rehearsal(
        config, played, stand_in, tuple(missing), algorithm.notes, workload(config, context), setup, result, metrics
    )


def _missing(config: TrainConfig) -> list[str]:
    """Return what is not installed here, though the run needs it."""
    wanted = {"vllm": config.engine.kind == "vllm", "ray": config.rollout.workers == "ray"}
    found = [
        f"{name} is not installed: pip install 'agent-gym[{name}]'"
        for name, needed in wanted.items()
        if needed and find_spec(_PACKAGES[name]) is None
    ]
    if config.model.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        found.append("flash-attn is not installed: pip install flash-attn, or set model.attention=sdpa")
    return found


def _with_tasks(config: TrainConfig) -> tuple[TrainConfig, str]:
    """Return a configuration whose tasks are on this machine, and why it is another one, if it is."""
    try:
        with closing(make(config.env.id, **config.env.options)) as env:
            env.tasks(env.split)
        return config, ""
    except (DataError, GameError) as error:
        if config.env.id not in _STAND_INS:
            raise
        options = {key: value for key, value in config.env.options.items() if key not in _STAND_INS[config.env.id]}
        others = {key: value for key, value in _STAND_INS[config.env.id].items() if value is not None}
        replaced = config.env.model_copy(update={"options": options | others})
        return config.model_copy(update={"env": replaced}), f"the tasks of the run: {error}"


def _shape(config: TrainConfig, missing: list[str]) -> Shape | None:
    """Return the shape of the run's model, if it is known; the tiny one has none worth telling."""
    if config.model.path == "tiny":
        return None
    try:
        return shape_of(config.model.path)
    except ConfigError as error:
        missing.append(f"the shape of the model, so that lengths, adapters and memory are not checked: {error}")
        return None


def _check_lengths(config: TrainConfig, shape: Shape | None) -> None:
    """Find lengths that the model, or the run itself, does not allow."""
    rollout = config.rollout
    context = shape.context if shape is not None else config.model.context
    known = shape is not None or config.model.path == "tiny"
    if known and (rollout.max_episode_tokens or 0) > context:
        raise ConfigError(
            f"rollout.max_episode_tokens is {rollout.max_episode_tokens:,}, and {config.model.path} reads {context:,} "
            "tokens: lower it."
        )
    limit = min(rollout.max_episode_tokens or context, context)
    if known and rollout.max_tokens >= limit:
        raise ConfigError(
            f"rollout.max_tokens is {rollout.max_tokens:,}, and an episode has {limit:,} tokens in all: no turn has "
            "room. Lower it, or raise rollout.max_episode_tokens."
        )


def _as_configured(setup: Setup, config: TrainConfig) -> Setup:
    """Return the setup with what the configuration says of activations, on one GPU."""
    return replace(
        setup,
        checkpointing=config.model.gradient_checkpointing,
        micro_batch_tokens=config.update.micro_batch_tokens,
    )


def _check_tokenizer(config: TrainConfig) -> None:
    """Find out whether the model's own tokenizer can be used, where it is on this machine."""
    folder = Path(config.model.path).expanduser()
    if (folder / "tokenizer_config.json").is_file():
        TemplateChat(load_tokenizer(str(folder)), system_prompt=config.rollout.system_prompt)


def _scaled_down(config: TrainConfig) -> TrainConfig:
    """Return a run of the same algorithm, layout and turn limit that takes seconds."""
    options = dict(config.algorithm.options)
    # Two are compared with each other; a strategy that branches needs some to begin with, and some that branch off.
    size = min(group_size(config), 4 if "initial" in options else 2)
    if not any("group_size" in str(key) or isinstance(value, dict) for key, value in options.items()):
        options["group_size"] = size
    for key, value in {"group_size": size, "initial": min(2, size)}.items():
        if key in options:
            options[key] = min(int(options[key]), value)
    tiny = {"path": "tiny", "hidden": 32, "layers": 1, "heads": 2, "feed_forward": 64, "context": _CONTEXT}
    values = merged(
        config.model_dump(),
        {
            "model": tiny | {"attention": "auto"},
            "rollout": {
                "tasks": min(2, config.rollout.tasks),
                "concurrency": min(8, config.rollout.concurrency),
                "max_tokens": min(4, config.rollout.max_tokens),
                "workers": "local",
                "max_lag": 0,
            },
            "update": {"micro_batch_tokens": 1 << 14},
            "distributed": {"shard": False},
        },
    )
    values["algorithm"]["options"] = options
    values["engine"] = EngineSection().model_dump()
    values["rollout"] = {name: value for name, value in values["rollout"].items() if not name.startswith("ray_")}
    return TrainConfig.model_validate(values)


def _one_step(config: TrainConfig) -> tuple[Score, dict[str, float]]:
    """Collect a step's episodes, learn from them, and hand the new weights to the engine."""
    algorithm = make_algorithm(config.algorithm.name, config.algorithm.options)
    policy = _tiny_policy(config)
    engine = make_engine(
        config.engine, model=policy.model, tokenizer=policy.tokenizer, max_batch=config.rollout.concurrency
    )
    with Sampler(config, engine, policy.chat, algorithm.rollout) as sampler, tempfile.TemporaryDirectory() as folder:
        groups = sampler.groups(0)
        result = score([trajectory for group in groups for trajectory in group.trajectories])
        _reward_every_other(groups)
        settings = UpdateSettings(**config.update.model_dump(), temperature=config.rollout.temperature)
        reference: Any = None
        if algorithm.needs_reference:
            reference = _reference(policy, Path(folder))
        learner = Learner(policy.model, algorithm, settings, seed=config.seed, reference=reference)
        metrics = learner.learn(groups, Progress(0, config.steps))
        sampler.updated(None, 1)
    return result, metrics


def _reward_every_other(groups: Sequence[Group]) -> None:
    """Let half of the episodes have solved their task: a tiny model solves none, and equal ones teach nothing."""
    for number, trajectory in enumerate(each for group in groups for each in group.valid):
        if number % 2:
            trajectory.turns[-1].reward += 1.0
            trajectory.success = True


def _reference(policy: Policy, folder: Path) -> Any:
    if not has_adapters(policy.model):
        return frozen_copy(policy.model)
    policy.model.save_pretrained(folder)
    return StartingAdapter(policy.model, folder)


def _tiny_policy(config: TrainConfig) -> Policy:
    """Return a model of random weights with the adapters of the run, and a tokenizer that has read little."""
    import torch

    section = config.model
    tokenizer = train_tokenizer(_texts(config), vocabulary=section.vocabulary)
    size = TinySize(section.hidden, section.layers, section.heads, section.feed_forward, section.context)
    model: Any = make_model(tokenizer, size, seed=config.seed)
    if section.dtype == "bfloat16":
        model = model.to(torch.bfloat16)
    if section.lora is not None:
        add_adapters(model, section.lora, base=None, seed=config.seed)
    if section.gradient_checkpointing:
        recompute_activations(model)
    return Policy(model, tokenizer, TemplateChat(tokenizer, system_prompt=config.rollout.system_prompt))


def _texts(config: TrainConfig) -> list[str]:
    """Return some of what an environment says: where it waits for another process, how one task begins must do."""
    with closing(make(config.env.id, **config.env.options)) as env:
        if not env.blocking:
            return corpus(config, _CORPUS_EPISODES)
        observation, _ = env.reset(seed=0)
    return [config.rollout.system_prompt, observation]
