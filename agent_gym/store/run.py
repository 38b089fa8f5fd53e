"""The run folder: configuration, metrics, trajectories and checkpoints of one run, and how a run is taken up again.

config.yaml            the resolved configuration, with versions
metrics.jsonl          one line a step
trajectories.sqlite    every episode
checkpoints/step-N/    model, tokenizer, optimiser and state after N steps
"""

import json
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import yaml

from agent_gym.errors import StoreError
from agent_gym.store.atomic import write_text, writing
from agent_gym.store.trajectories import TrajectoryStore

_PACKAGES = ("agent-gym", "torch", "transformers", "accelerate", "gymnasium", "numpy", "tokenizers")
_CHECKPOINT = re.compile(r"step-(\d+)")


class RunFolder:
    """A run's folder; made by `create`, found again by `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        """Called with each record that is logged."""

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> Self:
        """Make a new folder with the configuration in it.

        Raises:
            StoreError: The folder exists and is not empty, or cannot be written.
        """
        if path.exists() and any(path.iterdir()):
            raise StoreError(f"The run folder {path} exists: choose another --name, remove it, or give --resume.")
        with writing(path):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        header = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
        write_text(path / "config.yaml", yaml.safe_dump({**header, "config": config}, sort_keys=False))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the folder of an existing run.

        Raises:
            StoreError: There is none at that path.
        """
        if not (path / "config.yaml").is_file():
            raise StoreError(f"There is no run in {path}: it has no config.yaml; check the path.")
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with."""
        try:
            config: dict[str, Any] = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))["config"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise StoreError(f"{self.path}/config.yaml cannot be read: {error}; restore it or start anew.") from error
        return config

    # -- metrics ---------------------------------------------------------------------------------------------------

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    def log(self, record: dict[str, Any]) -> None:
        """Append a record to the metrics.

        Raises:
            StoreError: It cannot be written.
        """
        with writing(self.metrics_path), self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for hear in self.listeners:
            hear(record)

    def metrics(self) -> list[dict[str, Any]]:
        """Return all records; a last line that was cut off when the run was killed is left out."""
        if not self.metrics_path.is_file():
            return []
        records = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    # -- trajectories ----------------------------------------------------------------------------------------------

    def trajectories(self) -> TrajectoryStore:
        """Open the database of episodes."""
        return TrajectoryStore(self.path / "trajectories.sqlite")

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def checkpoint_path(self, step: int) -> Path:
        """Return where the checkpoint after `step` steps lies or will lie."""
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[int]:
        """Return the steps of all complete checkpoints, in order."""
        found = [_CHECKPOINT.fullmatch(path.name) for path in (self.path / "checkpoints").glob("step-*")]
        return sorted(int(match[1]) for match in found if match)

    # -- taking up again -------------------------------------------------------------------------------------------

    def rewind(self, step: int) -> None:
        """Forget everything that was recorded after `step` steps; a resumed run records it again."""
        kept = [record for record in self.metrics() if record.get("step", 0) <= step]
        write_text(self.metrics_path, "".join(json.dumps(record) + "\n" for record in kept))
        with self.trajectories() as store:
            store.forget_after(step)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
