"""Suites: which tasks are played, how, what counts, and what others have reached. Each is data in YAML.

A file holds one suite, or a family: what is said at its top holds for all suites of the family, and `suites` has what
each of them says of its own. Knows nothing of models, and makes no environment.
"""

import importlib.util
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from agent_gym.config import EvalRolloutSection
from agent_gym.config_files import build, merged, read_yaml
from agent_gym.envs.data.cache import cache_folder
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.sections import EnvSection, Section

_PACKAGED: Final = Path(__file__).with_name("suites")
_FAMILY: Final = "suites"
_IN_CACHE: Final = "cache:"
"""How an option of an environment begins that is the path of something in the folder of fetched data."""
_FILES: Final = (".yaml", ".yml")

Metric = Literal["success", "score", "reward"]


class Reference(Section):
    """What was published for a suite."""

    model: str
    """The model, and how it was trained."""
    value: float
    """In the unit of the source, per cent as a rule."""
    measure: str = "success %"
    """What the value is."""
    source: str
    """Paper or page, and table."""


class Needs(Section):
    """What must be there before a suite can be played."""

    files: list[str] = Field(default_factory=list)
    """Files in the folder of fetched data."""
    command: str = ""
    """What gets them."""
    url: str = ""
    """Where the only file is downloaded from; empty where only you can get it."""
    packages: list[str] = Field(default_factory=list)
    """Modules that must be importable."""
    extra: str = ""
    """Which optional dependencies of agent-gym bring them."""
    option: str = ""
    """An option of the environment that you must choose, such as what is searched."""
    note: str = ""
    """What else is to be known: who may have the data, and where to ask."""


class Suite(Section):
    """Tasks that are measured together, and how."""

    name: str
    """Family and suite: "alfworld/valid_unseen"."""
    description: str = ""
    """One line."""
    env: EnvSection = EnvSection()
    """The environment; a text is its id."""
    split: str | None = None
    """The tasks; by default a split that the environment holds out."""
    stretch: tuple[int, int] | None = None
    """Only the tasks from this place of the split's list up to, and without, that one."""
    types: list[str] = Field(default_factory=list)
    """Only tasks of these types, where the environment knows a task's type before it is played."""
    tasks: int | list[str] | None = None
    """How many of those, spread evenly; or the ids of the tasks; all if it is left out."""
    count: int | None = None
    """How many that makes."""
    ids: str | None = None
    """SHA-256 over the ids of the tasks, in hex digits; see `agent_gym.evaluation.plans.digest`."""
    contents: str | None = None
    """SHA-256 over what the tasks say, where the environment can tell that without playing them."""
    metric: Metric = "success"
    """What the headline is the mean of; score and reward are shown as they are."""
    attempts: int = Field(1, ge=1)
    """Episodes a task."""
    temperature: float = Field(1.0, ge=0)
    """Of sampling."""
    rollout: EvalRolloutSection = EvalRolloutSection()
    """How episodes are played."""
    references: list[Reference] = Field(default_factory=list)
    """What was published."""
    needs: Needs = Needs()
    """What must be there."""

    @field_validator("tasks")
    @classmethod
    def _some_and_each_once(cls, tasks: int | list[str] | None) -> int | list[str] | None:
        if tasks == [] or (isinstance(tasks, int) and tasks < 1):
            raise ValueError("there must be one task at least; left out, all are played")
        twice = [id for id, number in Counter(tasks).items() if number > 1] if isinstance(tasks, list) else []
        if twice:
            raise ValueError(f"{twice[0]!r} stands there more than once; `attempts` says how often each is played")
        return tasks

    @model_validator(mode="before")
    @classmethod
    def _short_env(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("env"), str):
            return {**values, "env": {"id": values["env"]}}
        return values

    def options(self) -> dict[str, Any]:
        """Return the arguments of the environment, with the paths of what lies in the folder of fetched data."""
        return {name: _placed(value) for name, value in self.env.options.items()}

    def lacking(self) -> str:
        """Return the command that gets what the suite cannot be played without; nothing where it is there."""
        needs = self.needs
        packages = [name for name in needs.packages if importlib.util.find_spec(name) is None]
        if packages:
            return f"pip install 'agent-gym[{needs.extra}]'" if needs.extra else f"pip install {' '.join(packages)}"
        if all((cache_folder() / name).exists() for name in needs.files):
            return ""
        return needs.command or f"agent-gym data get {self.name} --from FILE"


def find_suite(name: str) -> Suite:
    """Return the suite of that name, or the one in a YAML file.

    Raises:
        UnknownIdError: There is no such suite; the message names the nearest.
        ConfigError: The file cannot be read, is no suite, or has several.
    """
    if name.endswith(_FILES):
        found = read_suites(Path(name))
        if len(found) != 1:
            raise ConfigError(f"{name} has {len(found)} suites: name one, as {name}:{next(iter(found), 'NAME')}.")
        return next(iter(found.values()))
    path, colon, inner = name.rpartition(":")
    if colon and path.endswith(_FILES):
        return _named(inner, read_suites(Path(path)))
    family, _, _ = name.partition("/")
    if (_PACKAGED / f"{family}.yaml").is_file() and name in (packaged := read_suites(_PACKAGED / f"{family}.yaml")):
        return packaged[name]
    return _named(name, suites())


def suites() -> dict[str, Suite]:
    """Return all suites by name: those that come with the package, and those that plugins have registered."""
    from agent_gym.registry import load_plugins

    load_plugins()
    found: dict[str, Suite] = {}
    for path in [*sorted(_PACKAGED.glob("*.yaml")), *_REGISTERED]:
        found |= read_suites(path)
    return found


def register_suites(path: str | Path) -> None:
    """Make the suites of a YAML file known by name; a plugin calls this."""
    if Path(path) not in _REGISTERED:
        _REGISTERED.append(Path(path))


def read_suites(path: Path) -> dict[str, Suite]:
    """Return the suites of a YAML file by name.

    Raises:
        ConfigError: The file cannot be read, or what it says is no suite.
    """
    return dict(_read(path.resolve(), path.stat().st_mtime_ns if path.is_file() else 0))


_REGISTERED: list[Path] = []


@cache
def _read(path: Path, changed: int) -> dict[str, Suite]:
    """Read a file; `changed` tells its versions apart."""
    values = read_yaml(path)
    if _FAMILY not in values:
        return {(suite := _suite({"name": path.stem, **values}, path)).name: suite}
    family = str(values.pop("name", path.stem))
    members = values.pop(_FAMILY)
    if not isinstance(members, dict):
        raise ConfigError(f"`suites` in {path} must be a mapping of names to what each suite says.")
    found = {}
    for short, own in members.items():
        name = f"{family}/{short}"
        found[name] = _suite(merged(_whole(values), {**_whole(own or {}), "name": name}), path)
    return found


def _suite(values: dict[str, Any], path: Path) -> Suite:
    try:
        return build(Suite, values)
    except ConfigError as error:
        raise ConfigError(f"{path.name} describes no suite {values['name']!r}: {error}") from error


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    """Return what a suite says with its environment as a section, so that options of the family stay."""
    return {**values, "env": {"id": values["env"]}} if isinstance(values.get("env"), str) else dict(values)


def _named(name: str, known: dict[str, Suite]) -> Suite:
    if name not in known:
        raise UnknownIdError.of("suite", name, known)
    return known[name]


def _placed(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_IN_CACHE):
        return str(cache_folder() / value.removeprefix(_IN_CACHE))
    return value
