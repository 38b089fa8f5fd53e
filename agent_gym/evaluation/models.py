"""What `--model` may be, and one way to play with all of it.

A model is opened once and plays the episodes of many suites; what differs between suites stands in an `Arena`.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path

import yaml

from agent_gym.config import EvalConfig
from agent_gym.engines.base import Engine
from agent_gym.engines.conversation import ConversationEngine
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.env import TextEnv
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.evaluation.budgets import refuse_what_costs_nothing
from agent_gym.importing import load_object
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.chat import ByteChat, Chat, MessageChat, TemplateChat
from agent_gym.rollout.collect import Collector, Job, OnEpisode
from agent_gym.rollout.episode import episode_settings
from agent_gym.rollout.player import Person, PlayerLeftError, Policy, act_at_random, follow_demonstrator, play
from agent_gym.sections import RolloutSection
from agent_gym.store.run import RunFolder
from agent_gym.tools.syntax import ToolSyntax
from agent_gym.trajectory import Trajectory

POLICIES: dict[str, Policy] = {"expert": follow_demonstrator, "random": act_at_random}
"""Players that need no model."""
KINDS = (
    "a folder with a model or a run",
    "a name on the hub such as Qwen/Qwen3-4B",
    "expert",
    "file.py:Engine",
    "http://host:8000/v1",
    "human",
    "random",
    "scripted:file.jsonl",
    "scripted:file.py:function",
    "vllm:folder",
)
"""What `--model` may be, for messages."""


@dataclass(frozen=True, slots=True)
class Arena:
    """Where and how episodes are played: what may differ from suite to suite."""

    make_env: Callable[[], TextEnv]
    env_id: str
    rollout: RolloutSection
    temperature: float = 1.0
    episode_seconds: float | None = None
    """Wall time after which an episode has failed."""


class Model(ABC):
    """Who plays."""

    interactive: bool = False
    """Whether a person plays, on this terminal: nothing else should be drawn there."""

    @abstractmethod
    async def play(self, jobs: Iterable[Job], on_episode: OnEpisode, arena: Arena) -> None:
        """Play jobs; `on_episode` gets each episode as it ends, and nothing is kept.

        A person may leave before the jobs are done; then this returns, and the unfinished episode is nobody's.

        Args:
            jobs: Each is taken when there is room for it; a generator that stops early ends the playing once the
                episodes in flight have ended. Cancelled, those in flight are dropped.
            on_episode: What it raises ends everything.
            arena: Where, and how.

        Raises:
            RefusedError: No request to the model can succeed.
            ConfigError: The model cannot act in this environment.
        """

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what the model holds."""


class EngineModel(Model):
    """A model behind an engine; its episodes are played at the same time.

    Args:
        engine: Generates.
        chat: Returns the chat of a system prompt.
        look: Is shown each environment as it is made.
    """

    def __init__(
        self, engine: Engine, chat: Callable[[str], Chat], look: Callable[[TextEnv], None] | None = None
    ) -> None:
        self.engine = engine
        self._chat = chat
        self._look = look

    async def play(self, jobs: Iterable[Job], on_episode: OnEpisode, arena: Arena) -> None:
        """See `Model.play`."""
        section = arena.rollout

        def make_env() -> TextEnv:
            env = arena.make_env()
            if self._look is not None:
                self._look(env)
            return env

        collector = Collector(
            make_env,
            self.engine,
            self._chat(section.system_prompt),
            episode_settings(section, arena.temperature, arena.episode_seconds),
            concurrency=section.concurrency,
            env_id=arena.env_id,
        )
        with closing(collector):
            try:
                await collector.stream(jobs, on_episode)
            finally:
                await self.engine.disconnect()


class PolicyModel(Model):
    """A policy, which plays one episode after the other.

    Args:
        policy: Who acts.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def play(self, jobs: Iterable[Job], on_episode: OnEpisode, arena: Arena) -> None:
        """See `Model.play`."""
        settings = episode_settings(arena.rollout, 1.0, arena.episode_seconds)
        written, chat = syntax(arena.rollout.syntax), ByteChat()
        env = arena.make_env()
        try:
            for job in jobs:
                try:
                    trajectory = play(env, self._policy, chat, written, settings, seed=job.seed, task_id=job.task_id)
                except PlayerLeftError:
                    return
                trajectory.id, trajectory.group_id, trajectory.env_id = job.id, job.group_id, arena.env_id
                on_episode(trajectory)
                if trajectory.error is not None:
                    # What crashed may be broken for good.
                    env.close()
                    env = arena.make_env()
                # Whoever waits for a limit of time gets a chance.
                await asyncio.sleep(0)
        finally:
            env.close()


class HumanModel(PolicyModel):
    """A person on this terminal."""

    interactive = True

    def __init__(self) -> None:
        from agent_gym.evaluation.terminal import Terminal

        self._terminal = Terminal()
        super().__init__(Person(self._terminal.ask, self._terminal.tell))

    async def play(self, jobs: Iterable[Job], on_episode: OnEpisode, arena: Arena) -> None:
        """See `Model.play`; each episode ends with its verdict."""

        def ended(trajectory: Trajectory) -> None:
            self._terminal.tell_end(trajectory)
            on_episode(trajectory)

        await super().play(jobs, ended, arena)


@contextmanager
def opened(config: EvalConfig) -> Iterator[Model]:
    """Open the model that a configuration names.

    Raises:
        ConfigError: The model needs something that is not said.
        UnknownIdError: There is no such kind of model.
        EngineError: The model cannot be loaded, or its server does not answer.
    """
    model = _model(config)
    try:
        yield model
    finally:
        model.close()


def _model(config: EvalConfig) -> Model:
    name = config.model
    if name.startswith(("http://", "https://")):
        return _served(config)
    if config.vllm and not name.startswith("vllm:"):
        raise ConfigError(f"The section vllm is for models that vLLM runs: use --model vllm:{name}, or leave it out.")
    if ":" in name and not name.startswith(("scripted:", "vllm:")) and not Path(name).exists():
        return _own(name)
    refuse_what_costs_nothing(config.limits, name)
    if name.startswith("vllm:"):
        from agent_gym.evaluation.vllm_model import VllmModel

        return VllmModel(config)
    if name in POLICIES:
        return PolicyModel(POLICIES[name])
    if name == "human":
        return HumanModel()
    if name.startswith("scripted:"):
        return _scripted(name.removeprefix("scripted:"))
    return _local(config)


def _served(config: EvalConfig) -> Model:
    """Return the model behind an address."""
    from agent_gym.engines.openai import ChatEngine
    from agent_gym.evaluation.serving import chat_engine, completions_engine

    if config.server.api == "completions":
        return EngineModel(*completions_engine(config))
    engine: ChatEngine = chat_engine(config)

    def look(env: TextEnv) -> None:
        written = getattr(env, "syntax", None) or getattr(env.unwrapped, "syntax", None)
        if isinstance(written, ToolSyntax):
            engine.write_call = written.write

    return EngineModel(engine, _messages, look)


def _scripted(where: str) -> Model:
    """Return the model of a script: a function of the conversation, or a list of answers."""
    path = Path(where)
    if path.suffix in (".jsonl", ".yaml", ".yml"):
        return EngineModel(ScriptedEngine(_answers(path)), _messages)
    if ":" not in where:
        raise ConfigError(
            f"The script {where!r} names no function: give scripted:{where or 'file.py'}:FUNCTION, or a list of "
            "answers (.jsonl, .yaml)."
        )
    function = load_object(where, "script", "function")
    if not callable(function):
        raise ConfigError(f"The script {where} is no function: it gets the messages so far and returns the answer.")
    return EngineModel(ConversationEngine(function), _messages)


def _answers(path: Path) -> list[str]:
    """Read the answers of a script, which each episode gets in turn."""
    try:
        text = path.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.strip()]
        answers = [json.loads(line) for line in lines] if path.suffix == ".jsonl" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"The script {path} cannot be read: {error}.") from error
    if not isinstance(answers, list) or not answers or not all(isinstance(each, str) for each in answers):
        raise ConfigError(f"The script {path} must be a list of texts: one JSON string a line, or a list in YAML.")
    return answers


def _own(name: str) -> Model:
    """Return an engine of the user's own: a class, or a function that makes an engine or an engine and a chat."""
    made = load_object(name, "model", "Engine")
    if callable(made):
        needed = [each.name for each in signature(made).parameters.values() if _must_be_given(each)]
        if needed:
            raise ConfigError(
                f"{name} cannot make an engine, as it needs arguments ({', '.join(needed)}): give a class or a "
                f"function without any; a function of the conversation is played as scripted:{name}."
            )
        made = made()
    engine, chat = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(engine, Engine):
        raise ConfigError(
            f"{name} gives no engine but {type(engine).__name__}: name a subclass of Engine, or a function that "
            "returns an engine, or an engine and a chat."
        )
    if chat is not None:
        return EngineModel(engine, lambda _: chat)
    tokenizer = getattr(engine, "tokenizer", None)
    if getattr(tokenizer, "chat_template", None):
        return EngineModel(engine, lambda system_prompt: TemplateChat(tokenizer, system_prompt=system_prompt))
    return EngineModel(engine, _messages)


def _must_be_given(parameter: Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def _messages(system_prompt: str) -> Chat:
    return MessageChat(system_prompt=system_prompt)


def _local(config: EvalConfig) -> Model:
    """Return the model of a folder, of a run, or of a name on the hub."""
    if not config.model or ("/" not in config.model and not Path(config.model).exists()):
        raise UnknownIdError.of("model", config.model, KINDS)
    import torch

    from agent_gym.engines.loading import load_model
    from agent_gym.engines.transformers import TransformersEngine

    if config.threads:
        torch.set_num_threads(config.threads)
    model, tokenizer = load_model(str(model_folder(config.model)))
    model.eval()
    engine = TransformersEngine(model, tokenizer, max_batch=config.rollout.concurrency)
    return EngineModel(engine, lambda system_prompt: TemplateChat(tokenizer, system_prompt=system_prompt))


def model_folder(model: str) -> str | Path:
    """Return the last checkpoint where `model` is a run folder, else `model` itself."""
    path = Path(model)
    if (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        run = RunFolder.open(path)
        steps = run.checkpoints()
        if not steps:
            raise ConfigError(f"The run {model} has no checkpoint yet: give another run or a model folder.")
        return run.checkpoint_path(steps[-1])
    return model
