"""Trackers are told what is in metrics.jsonl: all of it, once, and never at the price of the run."""

import json
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker
from curves import logged, tensorboard

from agent_gym.errors import MissingExtraError
from agent_gym.store import tracking
from agent_gym.store.run import RunFolder
from agent_gym.store.tracking import check_trackers, tracked, values

RECORDS = [
    {"phase": "before", "step": 0, "success_rate": 0.25, "split": "valid", "seconds": {"total": 1.5}},
    {"phase": "train", "step": 1, "reward": 0.5, "seconds": {"total": 2.5, "update": 1.0}},
    {"phase": "train", "step": 2, "reward": 0.75, "kl": float("nan"), "seconds": {"total": 3.5}},
]


class Remembered(GeneralTracker):  # type: ignore[misc]
    """Stands in for a tracker in the network: it keeps what it was told, and fails where it is said to."""

    name = "mlflow"
    requires_logging_directory = False
    told: list[tuple[int, dict[str, float]]]
    broken = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        type(self).opened.append(arguments)

    def start(self) -> None:
        if type(self).broken == "at the start":
            raise ConnectionError("no route to host")
        self.info = type("Info", (), {"run_id": "run-1"})

    @property
    def tracker(self) -> Any:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        type(self).configs.append(values)

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        if type(self).broken:
            raise ConnectionError("no route to host")
        type(self).told.append((step or 0, values))


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> type[Remembered]:
    kind = type("Fresh", (Remembered,), {"told": [], "opened": [], "configs": [], "broken": False})
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "mlflow", kind)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    return kind


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"steps": 3, "env": {"id": "echo"}, "measure": {"split": None}})


def test_phases_suites_and_nested_numbers_have_names_of_their_own() -> None:
    record = {"phase": "eval", "suite": "math/aime24", "step": 0, "pass": {"1": 0.5, "8": None}, "model": "expert"}
    assert values(record) == {"eval/math/aime24/pass/1": 0.5}
    assert values(RECORDS[2]) == {"train/reward": 0.75, "train/seconds/total": 3.5}
    assert values({"phase": "train", "live": True, "count": 3}) == {"train/count": 3}


def test_tensorboard_has_what_the_metrics_say(run: RunFolder) -> None:
    with tracked(run, ["tensorboard"]):
        for record in RECORDS:
            run.log(record)
    assert tensorboard(run.path) == logged(run.path)
    assert tensorboard(run.path)["train/seconds/total"] == [(1, 2.5), (2, 3.5)]


def test_a_run_that_is_taken_up_again_goes_on_without_doubling(run: RunFolder, remembered: type[Remembered]) -> None:
    with tracked(run, ["tensorboard", "mlflow"]):
        for record in RECORDS:
            run.log(record)
    run.rewind(1)
    with tracked(run, ["tensorboard", "mlflow"]):
        run.log(RECORDS[2] | {"seconds": {"total": 9.0}})
        run.log({"phase": "train", "step": 3, "reward": 1.0})
    assert tensorboard(run.path) == logged(run.path)
    assert [step for step, _ in remembered.told] == [0, 1, 2, 3]
    assert remembered.opened[1]["run_id"] == "run-1"
    assert remembered.configs == [{"steps": 3, "env.id": "echo", "measure.split": "None"}]


def test_a_tracker_that_comes_later_is_told_of_the_beginning(run: RunFolder, remembered: type[Remembered]) -> None:
    run.log(RECORDS[0])
    with tracked(run, ["mlflow"]):
        run.log(RECORDS[1])
    assert [step for step, _ in remembered.told] == [0, 1]


@pytest.mark.parametrize("broken", ["at the start", "later"])
def test_a_tracker_that_fails_is_told_of_once_and_told_all_when_it_works_again(
    broken: str, run: RunFolder, remembered: type[Remembered], caplog: pytest.LogCaptureFixture
) -> None:
    remembered.broken = broken
    with tracked(run, ["mlflow"]):
        for record in RECORDS:
            run.log(record)
    first, last = (record.getMessage() for record in caplog.records)
    assert first == "mlflow failed (ConnectionError: no route to host); the run goes on without it."
    assert "did not take 3 of the run's records" in last and str(run.metrics_path) in last
    assert len(run.metrics()) == 3
    remembered.broken = False
    with tracked(run, ["mlflow"]):
        pass
    assert [step for step, _ in remembered.told] == [0, 1, 2]


def test_a_tracker_that_hangs_holds_nobody_up(
    run: RunFolder, remembered: type[Remembered], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from threading import Event

    released = Event()
    monkeypatch.setattr(remembered, "start", lambda self: released.wait())
    monkeypatch.setattr(tracking, "_PATIENCE", 0.01)
    with tracked(run, ["mlflow"]):
        run.log(RECORDS[0])
    released.set()
    assert "did not take" in caplog.text


def test_what_is_not_installed_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"Tracking with wandb .* pip install 'agent-gym\[wandb\]'"):
        check_trackers(["wandb"])


def test_what_a_tracker_has_is_kept_beside_the_run(run: RunFolder, remembered: type[Remembered]) -> None:
    with tracked(run, ["mlflow"]):
        run.log(RECORDS[0])
    assert json.loads((run.path / "tracking" / "mlflow.json").read_text()) == {"id": "run-1", "sent": 1}
