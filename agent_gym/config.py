"""The typed configuration that YAML files and the command line fill.

Every field carries its sentence directly below it. A key that does not exist is refused with the nearest one that
does, so that no option is ever silently without effect.
"""

import copy
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent_gym.errors import ConfigError, suggestion


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class EnvSection(Section):
    """Which environment, and how it is made."""

    id: str = "alfworld"
    """A registered id, "module:Class" or "file.py:Class"."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of its constructor."""


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


Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class TrainConfig(Section):
    """Everything that decides a training run."""

    env: EnvSection = EnvSection()
    model: ModelSection = ModelSection()
    warm_start: WarmStartSection = WarmStartSection()
    rollout: RolloutSection = RolloutSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    update: UpdateSection = UpdateSection()
    measure: MeasureSection = MeasureSection()
    steps: int = Field(100, ge=1)
    """Training steps."""
    seed: int = Field(0, ge=0)
    """From it every random number of the run follows."""
    checkpoint_every: int = Field(10, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    """Older ones are removed."""
    signals: bool = True
    """Also store what each step made of each generated token (advantage, ratio, weight ...), for the viewer: some 4
    bytes for each that varies from token to token, which adds a few hundredths to what the episodes take."""
    tracking: list[Tracker] = Field(default_factory=list)
    """Which programs are told of the metrics as well."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch; by default torch's own choice."""


class EvalRolloutSection(RolloutSection):
    """How episodes are played that are measured."""

    concurrency: int = Field(64, ge=1)
    """Episodes in flight."""
    max_tokens: int = Field(64, ge=1)
    """Tokens a turn."""


class LimitsSection(Section):
    """When an evaluation stops before its end; it can be resumed with higher limits."""

    tokens: int | None = Field(None, ge=1)
    """Tokens read and generated by all episodes of the run. Where they are used up no further episode begins; those in
    flight are finished."""
    cost: float | None = Field(None, gt=0)
    """Dollars, likewise; only models with a price have a cost."""
    seconds: float | None = Field(None, gt=0)
    """Wall time of this sitting. Then the episodes in flight are dropped; a resumed run plays them from their start."""
    episode_seconds: float | None = Field(None, gt=0)
    """Wall time of one episode, which has failed after that."""


class ServerSection(Section):
    """How a model behind an address is asked; the other kinds of model do not use it."""

    name: str | None = None
    """What the server calls the model; by default the only one that it has."""
    api: Literal["chat", "completions"] = "chat"
    """"chat" sends messages. "completions" sends the token ids that a local tokenizer makes of them, and gets ids back
    where the server can (vLLM)."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer that "completions" needs."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is kept nowhere."""
    top_logprobs: int = Field(5, ge=0, le=20)
    """Entropies are estimated from so many most probable tokens; 0 asks for no log-probabilities at all."""
    timeout: float = Field(300.0, gt=0)
    """Seconds that one request may take."""
    tries: int = Field(8, ge=1)
    """Requests in all where the server is busy (429), broken (5xx) or not reached."""
    patience: float = Field(900.0, gt=0)
    """Seconds for all tries of a turn together."""
    price: tuple[float, float] | None = None
    """Dollars for a million tokens that are read, and for a million that are generated."""
    prices: str | None = None
    """A YAML file of prices: `model: [read, generated]`. Without a price the cost is undefined."""


class EvalConfig(Section):
    """Everything that decides an evaluation."""

    suites: list[str] = Field(default_factory=list)
    """Names of suites, or YAML files of them; without any, `env` and `split` say what is played. What is set here wins
    over what a suite says itself."""
    env: EnvSection = EnvSection()
    model: str = "expert"
    """A model folder, a name on the hub, a run folder, an address ("http://localhost:8000/v1"),
    "scripted:file.py:name", "scripted:file.jsonl", "expert", "random", "human", or "file.py:name" of an
    engine of your own."""
    server: ServerSection = ServerSection()
    split: str | None = None
    """The tasks; by default a split that the environment holds out: valid_unseen, valid, dev or test."""
    tasks: int | None = Field(None, ge=1)
    """How many of them, spread evenly over the split or the suite; by default 100, or all of a suite."""
    attempts: int | None = Field(None, ge=1)
    """Episodes a task; by default 1, or as many as a suite says."""
    k: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    """For which k pass@k is computed; by default 1, 2, 4 ... and the number of attempts."""
    rollout: EvalRolloutSection = EvalRolloutSection()
    temperature: float = Field(1.0, ge=0)
    """Of sampling."""
    limits: LimitsSection = LimitsSection()
    seed: int = Field(0, ge=0)
    """From it every episode's seed follows."""
    tracking: list[Tracker] = Field(default_factory=list)
    """Which programs are told of the metrics as well."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch."""


SectionType = TypeVar("SectionType", bound=Section)


def build(cls: type[SectionType], values: dict[str, Any]) -> SectionType:
    """Make a configuration from nested values.

    Raises:
        ConfigError: A key is unknown (with a suggestion) or a value is out of range.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(cls, error)) from error


def load(
    cls: type[SectionType], path: Path | None, overrides: dict[str, Any], *, base: dict[str, Any] | None = None
) -> SectionType:
    """Make a configuration from a YAML file and dotted overrides ("update.learning_rate": 1e-5) on top of it.

    Args:
        cls: Which configuration.
        path: The file, if there is one.
        overrides: What is set on top of the file.
        base: What the file is put on top of (a recipe).

    Raises:
        ConfigError: The file cannot be read, or see `build`.
    """
    values = merged(copy.deepcopy(base or {}), read_yaml(path) if path else {})
    for key, value in overrides.items():
        _set(values, key.split("."), value)
    return build(cls, values)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return nested values; where both have one, that of `above`."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: There is no such file, or it is not a mapping in YAML.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file {path}: check the path.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The configuration {path} cannot be read as YAML: {error}.") from error
    if not isinstance(values, dict | None):
        raise ConfigError(f"The configuration {path} must be a mapping of keys to values.")
    return values or {}


def parse_overrides(assignments: list[str]) -> dict[str, Any]:
    """Turn "key=value" texts into dotted overrides; values are read as YAML.

    Raises:
        ConfigError: One has no "=".
    """
    overrides = {}
    for assignment in assignments:
        key, found, value = assignment.partition("=")
        if not found or not key:
            raise ConfigError(f"{assignment!r} is not an assignment: write KEY=VALUE, for example --set steps=3.")
        overrides[key.strip()] = _scalar(value)
    return overrides


def _scalar(text: str) -> Any:
    """Read a value as YAML; numbers like 1e-5, which YAML takes for text, become numbers."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(path)} cannot be set: {key} is a value, not a section.")
        values = inner
    values[path[-1]] = value


def _explain(cls: type[Section], error: ValidationError) -> str:
    """Turn pydantic's first complaint into a sentence with the remedy."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        fields = _section_at(cls, path[:-1]).model_fields
        return f"Unknown configuration key {'.'.join(path)!r}{suggestion(path[-1], fields)}"
    return f"The configuration key {'.'.join(path)!r} is {first['input']!r}: {first['msg'].lower()}."


def _section_at(cls: type[Section], path: list[str]) -> type[Section]:
    for key in path:
        annotation = cls.model_fields[key].annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            cls = annotation
    return cls


def as_dict(config: Section) -> dict[str, Any]:
    """Return plain values that YAML can write."""
    return config.model_dump(mode="json")
