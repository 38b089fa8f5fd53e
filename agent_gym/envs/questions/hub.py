"""Data sets of the Hugging Face hub by name, read through the package `datasets`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_gym.errors import DataError, MissingExtraError


@dataclass(frozen=True, slots=True)
class HubData:
    """A data set of the hub, and which of its splits are ours."""

    path: str
    """As the hub calls it: "owner/name"."""
    splits: Mapping[str, str]
    """Its splits, by what they are called here: {"valid": "validation"}."""
    config: str | None = None
    """Which of its configurations, where it has several."""

    @classmethod
    def named(cls, name: str) -> "HubData":
        """Return the data set that "owner/name" or "owner/name:config" stands for."""
        path, _, config = name.partition(":")
        return cls(path, {"train": "train", "valid": "validation", "test": "test"}, config or None)

    def rows(self, split: str) -> list[dict[str, Any]]:
        """Download a split, or take it from the cache of `datasets`.

        Raises:
            MissingExtraError: The package is not installed.
            DataError: The hub cannot be reached, or has no such data set or split.
        """
        try:
            import datasets
        except ImportError as error:
            raise MissingExtraError.of("datasets", "Reading data sets of the hub") from error
        try:
            loaded = datasets.load_dataset(self.path, self.config, split=self.splits[split])
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                f"The split {self.splits[split]!r} of {self.path} cannot be had from the hub ({error}): check the name "
                "and the connection, or give a file."
            ) from error
        return [dict(row) for row in loaded]
