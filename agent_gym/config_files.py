"""Configurations from YAML files and from the command line, with errors that name the key and the remedy."""

import copy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from agent_gym.errors import ConfigError, suggestion
from agent_gym.sections import Section

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
        path: The file, if there is one; that of a run, or a run's folder, counts as what the run was started with.
        overrides: What is set on top of the file.
        base: What the file is put on top of (a recipe).

    Raises:
        ConfigError: The file cannot be read, or see `build`.
    """
    values = merged(copy.deepcopy(base or {}), _values(path) if path else {})
    for key, value in overrides.items():
        _set(values, key.split("."), value)
    return build(cls, values)


def _values(path: Path) -> dict[str, Any]:
    values = read_yaml(path / "config.yaml" if path.is_dir() else path)
    return values["config"] if values.keys() == {"created", "versions", "config"} else values


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
    complaint = first["msg"].removeprefix("Value error, ")
    complaint = complaint[:1].lower() + complaint[1:]
    if not path:
        return f"Keys of the configuration contradict each other: {complaint}."
    return f"The configuration key {'.'.join(path)!r} is {first['input']!r}: {complaint}."


def _section_at(cls: type[Section], path: list[str]) -> type[Section]:
    for key in path:
        annotation = cls.model_fields[key].annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            cls = annotation
    return cls


def as_dict(config: Section) -> dict[str, Any]:
    """Return plain values that YAML can write."""
    return config.model_dump(mode="json")
