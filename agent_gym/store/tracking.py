"""Metrics for the programs that draw them: TensorBoard, Weights & Biases, MLflow and trackio, by accelerate's trackers.

metrics.jsonl is what counts; trackers are told what stands in it. Each has a thread of its own, so that training never
waits for a network. What cannot be sent is sent later, with the next record or when the run is resumed: beside the
run's metrics stands how many records a tracker has (tracking/NAME.json), and none is sent twice. TensorBoard's files,
which lie in the run folder, are written anew when a run is resumed: they say what metrics.jsonl says.
"""

import json
import logging
import math
import os
import re
import shutil
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import yaml

from agent_gym.errors import MissingExtraError
from agent_gym.store.atomic import write_json
from agent_gym.store.run import RunFolder

logger = logging.getLogger(__name__)

EXTRAS = {"tensorboard": "tracking", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""The trackers, and which extra of agent-gym brings each."""
PROJECT = "agent-gym"
"""The project, or MLflow's experiment, that runs belong to; WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME name another."""
_PATIENCE = 60.0
"""Seconds that a tracker may take to begin, and at the end to send what is left."""


def check_trackers(names: Sequence[str]) -> None:
    """Find out before anything is done whether the trackers are installed.

    Raises:
        MissingExtraError: One is not; the message says what installs it.
    """
    for name in names:
        if find_spec(name) is None:
            raise MissingExtraError.of(EXTRAS[name], f"Tracking with {name}")


@contextmanager
def tracked(run: RunFolder, names: Sequence[str]) -> Iterator[None]:
    """Tell trackers what is logged in a run, and what was logged before.

    Args:
        run: The run; what is to be forgotten of it has been.
        names: Keys of `EXTRAS`.
    """
    senders = [Sender(name, run) for name in dict.fromkeys(names)]

    def hear(record: dict[str, Any]) -> None:
        for sender in senders:
            sender.send(record)

    run.listeners.append(hear)
    try:
        yield
    finally:
        run.listeners.remove(hear)
        for sender in senders:
            sender.close()


def values(record: dict[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a record by names that keep phases and suites apart.

    {"phase": "train", "step": 3, "reward": 1.0, "seconds": {"update": 2.0}} becomes
    {"train/reward": 1.0, "train/seconds/update": 2.0}.
    """
    place = "/".join(str(record[key]) for key in ("phase", "suite") if record.get(key))
    return dict(_numbers({key: value for key, value in record.items() if key not in ("phase", "suite", "step")}, place))


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, value


class Sender:
    """Sends the records of a run to one tracker, in order, from a thread of its own.

    A tracker that fails is told of once; the run goes on.

    Args:
        name: A key of `EXTRAS`.
        run: The run, whose records so far are sent first.
    """

    def __init__(self, name: str, run: RunFolder) -> None:
        self.name = name
        self.run = run
        self.folder = run.path / "tracking"
        self.state: dict[str, Any] = {"id": None, "sent": 0}
        """What the tracker calls the run, and how many records it has."""
        self.failures = 0
        self._tracker: Any = None
        self._waiting: deque[dict[str, Any]] = deque()
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._recall()
        records = run.metrics()
        # A run that was taken up again repeats what it had logged after its last checkpoint; the tracker has these.
        self._known = max(self.state["sent"] - len(records), 0)
        for record in records[self.state["sent"] :]:
            self._queue.put(record)
        self._begun = Event()
        self._thread = Thread(target=self._work, name=f"tracking by {name}", daemon=True)
        self._thread.start()
        self._begun.wait(_PATIENCE)

    def send(self, record: dict[str, Any]) -> None:
        """Put a record in line."""
        if self._known:
            self._known -= 1
        else:
            self._queue.put(record)

    def close(self) -> None:
        """Wait until all is sent, but not for ever."""
        self._queue.put(None)
        self._thread.join(_PATIENCE)
        left = len(self._waiting) + self._queue.qsize()
        if left or self._thread.is_alive():
            logger.error(
                f"{self.name} did not take {left} of the run's records ({self.failures} failures): they are in "
                f"{self.run.metrics_path}, and are sent when the run is resumed."
            )

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        began = self._tried(self._begin)
        self._begun.set()
        for record in iter(self._queue.get, None):
            self._waiting.append(record)
            if began:
                self._tried(self._send_waiting)
        if began:
            self._tried(self._send_waiting)
            self._tried(self._tracker.finish)

    def _tried(self, work: Any) -> bool:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a tracker may fail in any way, and training goes on
            self.failures += 1
            if self.failures == 1:
                logger.error(f"{self.name} failed ({type(error).__name__}: {error}); the run goes on without it.")
            return False
        return True

    def _send_waiting(self) -> None:
        while self._waiting:
            record = self._waiting[0]
            numbers = values(record)
            if self.name == "mlflow":
                # It has rules for names: no @, for one.
                numbers = {re.sub(r"[^\w ./-]", "_", name): number for name, number in numbers.items()}
            self._tracker.log(numbers, step=record.get("step", 0))
            self._waiting.popleft()
            self.state["sent"] += 1
            self._remember()

    def _begin(self) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        # Accelerate's own messages ask for it.
        PartialState()
        self.folder.mkdir(exist_ok=True)
        arguments = getattr(self, f"_{self.name}_arguments")()
        tracker: Any = LOGGER_TYPE_TO_CLASS[self.name](**arguments)
        tracker.start()
        if self.name == "mlflow":
            self.state["id"] = tracker.tracker.info.run_id
        self._tracker = tracker
        if self.state["sent"] == 0:
            self._send_config()
        self._remember()

    def _send_config(self) -> None:
        config = self.run.config
        if self.name == "tensorboard":
            # As text: as hyper-parameters it would be one more run among the runs.
            text = yaml.safe_dump(config, sort_keys=False)
            self._tracker.log({"config": "\n".join(f"    {line}" for line in text.splitlines())}, step=0)
        else:
            self._tracker.store_init_configuration(dict(_flat(config)))

    # -- what differs between trackers -----------------------------------------------------------------------------

    def _tensorboard_arguments(self) -> dict[str, Any]:
        return {"run_name": self.name, "logging_dir": str(self.folder)}

    def _wandb_arguments(self) -> dict[str, Any]:
        return {
            "run_name": os.environ.get("WANDB_PROJECT", PROJECT),
            "name": self.run.path.name,
            "id": self.state["id"],
            "resume": "allow",
            "dir": str(self.folder),
        }

    def _mlflow_arguments(self) -> dict[str, Any]:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            import mlflow

            mlflow.set_tracking_uri(f"sqlite:///{(self.folder / 'mlflow.sqlite').absolute()}")
        return {"experiment_name": PROJECT, "run_id": self.state["id"], "run_name": self.run.path.name}

    def _trackio_arguments(self) -> dict[str, Any]:
        return {"run_name": PROJECT, "name": f"{self.run.path.name}-{self.state['id']}", "resume": "allow"}

    # -- what is kept ----------------------------------------------------------------------------------------------

    def _recall(self) -> None:
        if self.name == "tensorboard":
            shutil.rmtree(self.folder / self.name, ignore_errors=True)
            return
        try:
            self.state |= json.loads(self._state_path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            self.state["id"] = None if self.name == "mlflow" else uuid.uuid4().hex[:8]

    def _remember(self) -> None:
        if self.name != "tensorboard":
            write_json(self._state_path, self.state)

    @property
    def _state_path(self) -> Path:
        return self.folder / f"{self.name}.json"


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values of nested sections by dotted names; trackers take nothing else."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, bool | int | float | str) else str(value)
