"""What TensorBoard reads from a run folder, and what it should."""

from pathlib import Path
from typing import Any

import pytest

from agent_gym.store.run import RunFolder
from agent_gym.store.tracking import values

Curves = dict[str, list[tuple[int, Any]]]


def tensorboard(folder: Path) -> Curves:
    """Return the points of each curve in a run's event files, with their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tracking" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]}


def logged(folder: Path) -> Curves:
    """Return the same from the run's metrics; an event file has numbers of 32 bits."""
    curves: Curves = {}
    for record in RunFolder.open(folder).metrics():
        for name, value in values(record).items():
            curves.setdefault(name, []).append((record["step"], pytest.approx(value)))
    return curves
