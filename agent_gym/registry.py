"""Environment ids: short names, gymnasium ids, plugins and "module:Class" references.

Knows where an environment's class is found, and imports it only when it is made.
"""

import importlib.metadata
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_gym.errors import ConfigError, UnknownIdError, suggestion
from agent_gym.importing import load_object

if TYPE_CHECKING:
    from agent_gym.env import TextEnv

NAMESPACE = "agent_gym"
PLUGIN_GROUP = "agent_gym.plugins"


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """Where an environment comes from and what its constructor is given by default."""

    id: str
    """Short name: "alfworld"."""
    entry_point: "str | Callable[..., TextEnv]"
    """A class, a function, or "module:name"."""
    gymnasium_id: str
    """Id under which gymnasium knows it: "agent_gym/ALFWorld-v1"."""
    description: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)


_SPECS: dict[str, EnvSpec] = {}
_loaded_plugins = False


def register(
    id: str,
    entry_point: "str | Callable[..., TextEnv]",
    *,
    gymnasium_id: str | None = None,
    description: str = "",
    **kwargs: Any,
) -> None:
    """Make an environment known under a short id, here and to gymnasium.

    Args:
        id: Short name, used by `make` and on the command line.
        entry_point: The class (or a function that returns an environment), or "module:name" to import it late.
        gymnasium_id: Defaults to "agent_gym/<id>-v0".
        description: One line, shown by `agent-gym envs`.
        **kwargs: Default arguments of the constructor.

    Raises:
        ConfigError: The id is taken by another environment.
    """
    spec = EnvSpec(id, entry_point, gymnasium_id or f"{NAMESPACE}/{id}-v0", description, kwargs)
    known = _SPECS.get(id)
    if known is not None and known != spec:
        raise ConfigError(f"The environment id {id!r} is taken by {known.entry_point}: choose another id.")
    _SPECS[id] = spec
    if "gymnasium" in sys.modules:
        _tell_gymnasium(spec)


WRAPPERS = {
    "admissible-hint": "agent_gym.envs.wrappers:AdmissibleHint",
    "episode-recorder": "agent_gym.envs.wrappers:EpisodeRecorder",
    "history-window": "agent_gym.envs.wrappers:HistoryWindow",
    "invalid-action-penalty": "agent_gym.envs.wrappers:InvalidActionPenalty",
    "reward-scaling": "agent_gym.envs.wrappers:RewardScaling",
    "tools": "agent_gym.envs.wrappers.with_tools:WithTools",
    "turn-limit": "agent_gym.envs.wrappers:TurnLimit",
}
"""Wrappers by name."""


def make(id: str, *, wrappers: Sequence[Mapping[str, Any]] = (), worker: str = "auto", **kwargs: Any) -> "TextEnv":
    """Make an environment.

    Args:
        id: A short name ("alfworld"), a gymnasium id ("agent_gym/ALFWorld-v1") or "module:Class" (or
            "file.py:Class") of an environment of your own.
        wrappers: Put around it, the innermost first: {"id": a name of `WRAPPERS` or "module:Class", and arguments}.
        worker: Where it runs: "inline", in a "process" of its own (see `ProcessEnv`), or as its class says ("auto").
        **kwargs: Arguments of its constructor, over the registered defaults; for a process also "call_timeout".

    Raises:
        UnknownIdError: Nothing is registered under that id; the message names the nearest.
        ConfigError: The constructor does not know, or lacks, one of the arguments, or what it makes is no `TextEnv`.
    """
    if worker not in ("auto", "inline", "process"):
        raise UnknownIdError.of("worker", worker, ("auto", "inline", "process"))
    spec = find_spec(id)
    constructor = resolve(spec.entry_point)
    register_in_gymnasium()
    if worker == "process" or (worker == "auto" and getattr(constructor, "isolate", False)):
        constructor, kwargs = resolve("agent_gym.envs.process_env:ProcessEnv"), {"id": id, **kwargs}
    else:
        kwargs = {**spec.kwargs, **kwargs}
    env = _begun(id, _construct(f"environment {id!r}", constructor, kwargs))
    for wrapper in wrappers:
        env = _wrap(env, dict(wrapper))
    return env


def _begun(id: str, env: Any) -> "TextEnv":
    """Return what was made, if it is an environment whose bases were initialised as well."""
    from agent_gym.env import TextEnv

    if not isinstance(env, TextEnv):
        raise ConfigError(
            f"The environment {id!r} is a {type(env).__name__}, no agent_gym.TextEnv: derive it from that, or wrap a "
            "gymnasium environment of text in TextEnv.from_gymnasium."
        )
    if not hasattr(env, "max_turns"):
        raise ConfigError(
            f"The environment {id!r} has an __init__ that does not initialise TextEnv: take **options there, and call "
            "super().__init__(**options)."
        )
    return env


def _wrap(env: "TextEnv", arguments: dict[str, Any]) -> "TextEnv":
    name = str(arguments.pop("id", ""))
    if name not in WRAPPERS and ":" not in name:
        raise UnknownIdError.of("wrapper", name, WRAPPERS)
    return _construct(f"wrapper {name!r}", resolve(WRAPPERS.get(name, name)), {"env": env, **arguments})


def _construct(what: str, constructor: "Callable[..., TextEnv]", arguments: dict[str, Any]) -> "TextEnv":
    try:
        return constructor(**arguments)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] in arguments:
            known = options_of(constructor)
            if unknown[1] == "split":
                raise ConfigError(
                    f"The {what} cannot be told its split: take **options in its __init__, and hand them on with "
                    "super().__init__(**options)."
                ) from error
            raise ConfigError(f"Unknown option {unknown[1]!r} of the {what}{suggestion(unknown[1], known)}") from error
        misfits = "keyword argument" in str(error) or _needed(constructor) - arguments.keys()
        if not misfits:
            raise
        raise ConfigError(f"The {what} cannot be made with these arguments: {error}.") from error


def _needed(constructor: "Callable[..., TextEnv]") -> set[str]:
    """Return the names of the arguments that a constructor cannot do without."""
    parameters = inspect.signature(constructor).parameters.values()
    return {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def options_of(constructor: "Callable[..., TextEnv]") -> dict[str, Any]:
    """Return a constructor's options and their defaults, those included that it hands on to its bases.

    One without a default has `inspect.Parameter.empty`.
    """
    classes = constructor.__mro__[:-1] if isinstance(constructor, type) else (constructor,)
    options: dict[str, Any] = {}
    for each in classes:
        parameters = inspect.signature(each).parameters.values()
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                options.setdefault(parameter.name, parameter.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return options


def held_out_split(id: str, options: Mapping[str, Any]) -> str:
    """Return the split to measure on where none is named; makes the environment to ask it."""
    env = make(id, **options)
    try:
        return env.held_out_split
    finally:
        env.close()


def specs() -> list[EnvSpec]:
    """Return all registered environments, plugins included, sorted by id."""
    load_plugins()
    return sorted(_SPECS.values(), key=lambda spec: spec.id)


def find_spec(id: str) -> EnvSpec:
    """Return the specification behind an id, see `make`."""
    load_plugins()
    if id in _SPECS:
        return _SPECS[id]
    for spec in _SPECS.values():
        if spec.gymnasium_id == id:
            return spec
    if ":" in id:
        return EnvSpec(id, id, gymnasium_id=f"{NAMESPACE}/{id.rpartition(':')[2]}-v0")
    if id.endswith(".py"):
        raise UnknownIdError(f"{id!r} is a file: name the class in it too, as {id}:MyEnv.")
    raise UnknownIdError.of("environment", id, _SPECS)


def importable(id: str, *, who: str, otherwise: str) -> tuple[str, dict[str, Any]]:
    """Return where another process finds an environment's class ("module:Class"), and the arguments of its id.

    Args:
        id: See `make`.
        who: Who wants to make it there, for the message.
        otherwise: What else helps, likewise.

    Raises:
        ConfigError: Only this process has the class.
    """
    spec = find_spec(id)
    entry_point = spec.entry_point
    if not isinstance(entry_point, str):
        entry_point = f"{entry_point.__module__}:{entry_point.__qualname__}"
    if "<" in entry_point or entry_point.startswith("__main__:"):
        raise ConfigError(
            f"{entry_point} exists in this process only, so no {who} can make it: put the class into a module of its "
            f"own, or choose {otherwise}."
        )
    return entry_point, dict(spec.kwargs)


def register_in_gymnasium() -> None:
    """Register every environment with gymnasium; done by `make`, and by importing agent_gym after gymnasium."""
    for spec in specs():
        _tell_gymnasium(spec)


def _tell_gymnasium(spec: EnvSpec) -> None:
    import gymnasium

    if spec.gymnasium_id not in gymnasium.registry:
        gymnasium.register(
            spec.gymnasium_id,
            spec.entry_point,
            kwargs=spec.kwargs,
            order_enforce=False,
        )


def resolve(entry_point: "str | Callable[..., TextEnv]") -> "Callable[..., TextEnv]":
    """Return the class behind an entry point, importing it if need be.

    Raises:
        UnknownIdError: It cannot be imported.
    """
    if not isinstance(entry_point, str):
        return entry_point
    resolved: Callable[..., TextEnv] = load_object(entry_point, "environment", "Class")
    return resolved


def load_plugins() -> None:
    """Call each plugin's function once; it registers what the plugin brings.

    Raises:
        ConfigError: One of them failed; what is looked up next fails again, rather than without what it brings.
    """
    global _loaded_plugins
    if _loaded_plugins:
        return
    # Before they are called, because what they call may look something up.
    _loaded_plugins = True
    for entry in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        try:
            entry.load()()
        except Exception as error:
            _loaded_plugins = False
            raise ConfigError(
                f"The plugin {entry.name!r} ({entry.value}) failed: {type(error).__name__}: {error}; "
                "mend or uninstall the package that brings it."
            ) from error


register(
    "alfworld",
    "agent_gym.envs.alfworld:AlfworldEnv",
    gymnasium_id=f"{NAMESPACE}/ALFWorld-v1",
    description="household tasks in text; generated games or the official ones",
)
register(
    "webshop",
    "agent_gym.envs.webshop:WebShopEnv",
    gymnasium_id=f"{NAMESPACE}/WebShop-v1",
    description="buying by instruction in a shop of text pages; a synthetic catalogue or the original files",
)
register(
    "textworld",
    "agent_gym.envs.textworld:TextWorldEnv",
    gymnasium_id=f"{NAMESPACE}/TextWorld-v1",
    description="text adventures: cooking, coin collector, treasure hunter and others, generated or from files",
)
register(
    "scienceworld",
    "agent_gym.envs.scienceworld:ScienceWorldEnv",
    gymnasium_id=f"{NAMESPACE}/ScienceWorld-v1",
    description="experiments of primary-school science in text: 30 tasks, 7,207 variations",
)
register(
    "textarena",
    "agent_gym.envs.textarena:TextArenaEnv",
    gymnasium_id=f"{NAMESPACE}/TextArena-v1",
    description="a game of TextArena, alone or against an opponent",
)
register(
    "reasoning-gym",
    "agent_gym.envs.reasoning_gym:ReasoningGymEnv",
    gymnasium_id=f"{NAMESPACE}/ReasoningGym-v1",
    description="questions that reasoning-gym makes and marks",
)
register(
    "search_qa",
    "agent_gym.envs.search_qa:SearchQAEnv",
    gymnasium_id=f"{NAMESPACE}/SearchQA-v1",
    description="questions to search and read for; generated worlds, HotpotQA, MuSiQue and others",
)
register(
    "math",
    "agent_gym.envs.math:MathEnv",
    gymnasium_id=f"{NAMESPACE}/Math-v1",
    description="problems with Python or a calculator at hand; generated, GSM8K, MATH, AIME",
)
register(
    "code",
    "agent_gym.envs.code:CodeEnv",
    gymnasium_id=f"{NAMESPACE}/Code-v1",
    description="functions to write, judged by hidden tests in a fresh sandbox; generated, HumanEval, MBPP",
)
