"""Reading logs of inspect_ai: `.eval` files, whole or with samples in chunks, and `.json` files."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent_gym.errors import DataError
from agent_gym.evaluation.exchange.archives import Archive, Limits
from agent_gym.evaluation.exchange.inspect_log import OURS
from agent_gym.evaluation.exchange.json_streams import pieces

_SAMPLE: Final = re.compile(r"samples/.+_epoch_\d+\.json", re.DOTALL)
_CHUNK: Final = re.compile(r"(samples/.+_epoch_\d+)/(messages|events|attachments)/(\d+)\.json", re.DOTALL)
_CHUNKED: Final = re.compile(r"(samples/.+_epoch_\d+)/sample\.json", re.DOTALL)
_VERSION: Final = 2

Sample = dict[str, Any]
_Chunks = dict[tuple[str, str], list[tuple[int, str]]]
"""The first entry and the name of each member with a part of a sample, by the sample and the part."""


@dataclass(slots=True)
class Header:
    """What a log says of its evaluation as a whole; `parts` grows while the samples of a `.json` file are read."""

    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> dict[str, Any]:
        """What was evaluated."""
        spec = self.parts.get("eval")
        return spec if isinstance(spec, dict) else {}

    @property
    def task(self) -> str:
        """The name of the task."""
        return str(self.spec.get("task") or "task")

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.spec.get("model") or "")

    @property
    def is_ours(self) -> bool:
        """Whether it was written by `export`."""
        return OURS in (self.spec.get("packages") or {})

    @property
    def system_prompt(self) -> str:
        """What stood before each first observation, where the log is ours and says it."""
        return str((self.spec.get("metadata") or {}).get("system_prompt") or "") if self.is_ours else ""

    @property
    def scorers(self) -> list[str]:
        """The scorers whose results the log has, the headline first."""
        results = self.parts.get("results") or {}
        names = [str(score.get("name")) for score in results.get("scores") or [] if isinstance(score, dict)]
        headline = (results.get("headline") or {}).get("score")
        return sorted(dict.fromkeys(names), key=lambda name: name != headline)


@contextmanager
def opened_log(path: Path, limits: Limits) -> Iterator[tuple[Header, Iterator[Sample]]]:
    """Open a log; gives its header and its samples, of which one is in memory at a time.

    Raises:
        DataError: It is no log, is broken, or holds more than the limits allow.
        MissingExtraError: It is packed by Zstandard, and `zstandard` is not installed.
    """
    with path.open("rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if not is_archive:
        header = Header()
        yield header, _from_json(path, header, limits)
        return
    with Archive(path, limits) as archive:
        header = _header(archive)
        yield header, _from_archive(archive)


def _header(archive: Archive) -> Header:
    """Return the header; of an evaluation that was killed what was known at its start."""
    for name in ("header.json", "_journal/start.json"):
        if name in archive.names:
            parts = _object(archive, name)
            _check(archive.path, parts)
            return Header(parts)
    raise DataError(f"{archive.path} has no header.json: it is no log of inspect_ai.")


def _check(path: Path, parts: dict[str, Any]) -> None:
    version = parts.get("version")
    if not isinstance(version, int) or version > _VERSION or not isinstance(parts.get("eval"), dict):
        raise DataError(
            f"{path} is no log of inspect_ai in version {_VERSION} of its format (it says {str(version)[:20]!r}): "
            "convert it with `inspect log convert`."
        )


def _from_archive(archive: Archive) -> Iterator[Sample]:
    # Looked through once: a large log has chunks by the hundred thousand.
    chunks: _Chunks = {}
    for name in archive.names:
        if found := _CHUNK.fullmatch(name):
            chunks.setdefault((found[1], found[2]), []).append((int(found[3]), name))
    names = frozenset(archive.names)
    for name in archive.names:
        if _SAMPLE.fullmatch(name):
            yield _object(archive, name)
        elif found := _CHUNKED.fullmatch(name):
            yield _put_together(archive, found[1], chunks, has_metadata=f"{found[1]}/metadata.json" in names)


def _put_together(archive: Archive, prefix: str, chunks: _Chunks, *, has_metadata: bool) -> Sample:
    """Return a sample whose messages, events and attachments stand in files of their own, named by their first."""
    sample = _object(archive, f"{prefix}/sample.json")
    if has_metadata:
        sample["metadata"] = _object(archive, f"{prefix}/metadata.json")
    for part in ("messages", "events", "attachments"):
        entries: list[Any] = []
        for _, name in sorted(chunks.get((prefix, part), [])):
            entries.extend(_parsed(archive, name, list))
            if len(entries) > archive.limits.members:
                raise archive.limits.too_long(f"The sample {prefix[:100]!r} of {archive.path}")
        sample[part] = entries
    sample["attachments"] = {str(number): text for number, text in enumerate(sample["attachments"])}
    return sample


def _from_json(path: Path, header: Header, limits: Limits) -> Iterator[Sample]:
    for name, value in pieces(path, "samples", limits):
        if name == "samples" and isinstance(value, dict):
            _check(path, header.parts)
            yield value
        elif name != "samples":
            header.parts[name] = value
    _check(path, header.parts)


def _object(archive: Archive, name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = _parsed(archive, name, dict)
    return parsed


def _parsed(archive: Archive, name: str, kind: type) -> Any:
    try:
        value = json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise DataError(f"The member {name[:100]!r} of {archive.path} is no JSON ({error}): write it again.") from error
    if not isinstance(value, kind):
        raise DataError(f"The member {name[:100]!r} of {archive.path} is no part of a log: write it again.")
    return value


# -- scores ------------------------------------------------------------------------------------------------------------


def as_number(value: Any) -> float | None:
    """Return a score's value as inspect_ai's metrics read it; None where it is undefined (NaN, a list, other words)."""
    if isinstance(value, str):
        word = value.strip()
        named = _WORDS.get(word) if word in _WORDS else _WORDS.get(word.lower())
        if named is not None:
            return named
        try:
            value = float(word)
        except ValueError:
            return None
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


_WORDS: Final = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def chosen_score(sample: Sample, scorer: str) -> dict[str, Any] | None:
    """Return what a scorer said of a sample; of one that says several things, SCORER.NAME chooses one."""
    scores = sample.get("scores")
    if not isinstance(scores, dict):
        return None
    found = scores.get(scorer)
    if isinstance(found, dict):
        return found
    name, _, key = scorer.rpartition(".")
    outer = scores.get(name)
    if isinstance(outer, dict) and isinstance(outer.get("value"), dict) and key in outer["value"]:
        return {**outer, "value": outer["value"][key]}
    return None
