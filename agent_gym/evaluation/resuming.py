"""The folder of an evaluation: made, or found again and compared with what is asked for now.

config.yaml    the configuration, with versions
suites.json    what each suite amounted to when the run was started: its tasks, what they say, how they are played
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from agent_gym.config import EvalConfig
from agent_gym.config_files import as_dict, build, read_yaml
from agent_gym.errors import AgentGymError, ConfigError, DataError, StoreError
from agent_gym.evaluation.plans import Plan
from agent_gym.store.atomic import write_text
from agent_gym.store.holding import held
from agent_gym.store.run import RunFolder
from agent_gym.store.tracking import check_trackers, tracked
from agent_gym.store.trajectories import TrajectoryStore

PHASE: Final = "eval"
_SUITES: Final = "suites.json"
_MEMORY: Final = Path(":memory:")
_MAY_DIFFER: Final = (
    *("limits.", "rollout.concurrency", "rollout.workers", "rollout.ray_", "threads", "tracking"),
    *("server.timeout", "server.tries", "server.patience", "server.price", "server.api_key_env"),
)
"""Keys, and beginnings of keys, that do not change what an episode is."""
_MAY_GROW: Final = "attempts"


@contextmanager
def keeping(
    folder: str | Path | None, config: EvalConfig, plans: Sequence[Plan], *, resume: bool
) -> Iterator[tuple[RunFolder | None, TrajectoryStore]]:
    """Open the run of a folder and its episodes, and let no other process write there meanwhile.

    Args:
        folder: Where it is kept; None keeps the episodes in memory alone.
        config: The configuration.
        plans: What it asks for.
        resume: Whether a run that is there already is gone on with.

    Raises:
        StoreError: There is a run and it is not to be resumed, or another process is writing to it.
        ConfigError: The run was started with another configuration; names the key.
        DataError: The tasks are not those of the run; names the first that differs.
        MissingExtraError: A tracker is not installed.
    """
    if folder is None:
        with TrajectoryStore(_MEMORY) as store:
            yield None, store
        return
    path = Path(folder)
    check_trackers(config.tracking)
    if resume and (path / "config.yaml").is_file():
        run = RunFolder.open(path)
        with held(path):
            _compare(run, config, plans)
            _write(run, config, plans)
            with tracked(run, config.tracking), run.trajectories() as store:
                yield run, store
        return
    run = RunFolder.create(path, stored_form(config))
    played = True
    try:
        with held(path):
            _write(run, config, plans)
            with tracked(run, config.tracking), run.trajectories() as store:
                try:
                    yield run, store
                except AgentGymError:
                    played = store.count() > 0
                    raise
    finally:
        if not played:
            # It could not even begin, for a mistyped model, say: the name is free for the next try.
            shutil.rmtree(path, ignore_errors=True)


def stored_form(config: EvalConfig) -> dict[str, Any]:
    """Return what is written of a configuration; reading it gives the same one.

    With suites it is what was said alone: what was not, each suite says for itself.
    """
    if not config.suites:
        return as_dict(config)
    said = config.model_dump(mode="json", exclude_unset=True)
    return {**said, "suites": config.suites, "model": config.model, "seed": config.seed}


def stored_config(folder: Path) -> dict[str, Any]:
    """Return the configuration that a run was started with, as it is stored; nothing where there is no run."""
    path = folder / "config.yaml"
    return dict(read_yaml(path).get("config") or {}) if path.is_file() else {}


def suite_records(folder: Path) -> list[dict[str, Any]]:
    """Return what a run has written down of its suites: name, split, metric, tasks, references and so on.

    Raises:
        StoreError: It cannot be read.
    """
    path = folder / _SUITES
    if not path.is_file():
        return []
    try:
        records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}): restore it, or start anew.") from error
    return records


def _write(run: RunFolder, config: EvalConfig, plans: Sequence[Plan]) -> None:
    records = json.dumps([plan.record() for plan in plans], indent=None)
    write_text(run.path / _SUITES, records + "\n")
    header = read_yaml(run.path / "config.yaml")
    if header.get("config") != (config_now := stored_form(config)):
        header["config"] = config_now
        write_text(run.path / "config.yaml", yaml.safe_dump(header, sort_keys=False))


def _compare(run: RunFolder, config: EvalConfig, plans: Sequence[Plan]) -> None:
    before, now = _flat(as_dict(build(EvalConfig, stored_config(run.path)))), _flat(as_dict(config))
    for key in sorted(before.keys() | now.keys()):
        if key in ("k", _MAY_GROW) or key.startswith(_MAY_DIFFER):
            continue
        if key == "model" and before.get("server.name") and all(_is_address(one[key]) for one in (before, now)):
            # The name says which model it is, wherever its server has moved.
            continue
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"The run {run.path} was started with {key}={before.get(key)}, not {now.get(key)}: leave that out, or "
                "choose another --name."
            )
    records = {record["name"]: record for record in suite_records(run.path)}
    for plan in plans:
        if plan.name in records:
            _compare_suite(plan, records[plan.name], run.path)


def _is_address(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def _compare_suite(plan: Plan, record: dict[str, Any], path: Path) -> None:
    if plan.attempts < record["attempts"]:
        raise ConfigError(
            f"The run {path} has {record['attempts']} attempts a task: on resume they can be raised, not lowered to "
            f"{plan.attempts}."
        )
    # What JSON has read is compared with what JSON would read.
    now = json.loads(json.dumps(plan.record()))
    for index, (old, new) in enumerate(zip(record["tasks"], now["tasks"], strict=False)):
        if old[0] != new[0]:
            raise DataError(
                f"Task {index} of {plan.title} is now {new[0]!r} instead of {old[0]!r}: restore the data or the suite, "
                "or start another run."
            )
        if old[1] != new[1]:
            raise DataError(
                f"The task {new[0]!r} of {plan.title} does not say what it said when the run {path} was started: "
                "restore the data, or start another run."
            )
    for key in sorted(record.keys() | now.keys()):
        if key in ("attempts", "references", "description", "needs", "rollout", "contents", "ids", "count", "changed"):
            continue
        if record.get(key) != now.get(key):
            raise ConfigError(
                f"The suite {plan.title} has changed since the run {path} was started: its {key} differs; restore the "
                "suite, or start another run."
            )
    rollouts = ({**each, "concurrency": None} for each in (record["rollout"], now["rollout"]))
    if next(rollouts) != next(rollouts):
        raise ConfigError(
            f"The suite {plan.title} is played in another way than when the run {path} was started: its rollout "
            "differs; restore the suite, or start another run."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name != "env.options":
            found |= _flat(value, f"{name}.")
        else:
            found[name] = value
    return found
