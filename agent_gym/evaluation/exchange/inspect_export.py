"""A run's episodes as logs of inspect_ai: one for each suite (else environment and split) and phase."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

import agent_gym
from agent_gym.errors import ConfigError
from agent_gym.evaluation.exchange.inspect_log import OURS, InspectLog, identifier
from agent_gym.evaluation.exchange.reading import Stored, SystemPrompts, model_of
from agent_gym.files import replacing
from agent_gym.secrecy import is_secret
from agent_gym.store.atomic import writing
from agent_gym.store.run import RunFolder

LOG_ENDING: Final = ".eval"
_MEASURED: Final = "eval"
_GENERATION: Final = ("temperature", "top_p", "top_k", "max_tokens", "stop_seqs", "seed")


@dataclass(frozen=True, slots=True)
class _Open:
    log: InspectLog
    path: Path
    phase: str
    suite: str


def write_logs(run: RunFolder, episodes: Iterator[Stored], out: Path) -> dict[Path, int]:
    """Write episodes as logs; return how many episodes each file has.

    Args:
        run: Where they are from.
        episodes: Those to write.
        out: A file that ends in ".eval", or a folder, in which logs are named as inspect_ai names them.

    Raises:
        ConfigError: The episodes belong to several logs, and `out` is a file.
        StoreError: They cannot be written; then no file is.
    """
    single = out.suffix == LOG_ENDING
    config, prompts = run.config, SystemPrompts(run)
    logs: dict[str, _Open] = {}
    with writing(out), ExitStack() as stack:
        (out.parent if single else out).mkdir(parents=True, exist_ok=True)
        for stored in episodes:
            name = _title(stored)
            if name not in logs:
                if single and logs:
                    raise ConfigError(
                        f"A log of inspect_ai holds one evaluation, and these are {next(iter(logs))!r} and {name!r} "
                        "at least: give --suite or --phase, or a folder as --out."
                    )
                prompt = prompts.of(stored)
                spec = _spec(run.path, config, name, stored, prompt)
                path = out if single else out / _file_name(spec)
                partial = stack.enter_context(replacing(path))
                log = InspectLog(partial, spec, _plan(config), system_prompt=prompt)
                stack.callback(log.close)
                logs[name] = _Open(log, path, stored.phase, stored.suite)
            logs[name].log.add(stored)
        _finish(run, list(logs.values()))
    return {each.path: each.log.tally.episodes for each in logs.values()}


def _finish(run: RunFolder, logs: list[_Open]) -> None:
    """Say of each log whether its evaluation came to its end."""
    seconds = (run.path / "trajectories.sqlite").stat().st_mtime
    completed = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    done = {str(record.get("suite") or "") for record in run.metrics() if record.get("phase") == _MEASURED}
    for each in logs:
        ended = each.phase != _MEASURED or each.suite in done
        each.log.finish(status="success" if ended else "cancelled", completed=completed)


def _title(stored: Stored) -> str:
    """Return what an episode's log is called: other phases than evaluation are named."""
    split = stored.trajectory.metadata.get("split", "")
    name = stored.suite or "/".join(filter(None, [stored.trajectory.env_id or "episodes", split]))
    return name if stored.phase == _MEASURED else f"{name} ({stored.phase})"


def _file_name(spec: dict[str, Any]) -> str:
    """Return the name as inspect_ai makes it: time, task, id; parts are told apart by underscores."""
    time = spec["created"].replace(":", "-").replace("+", "-")
    task = "".join(letter if letter.isalnum() else "-" for letter in spec["task"]).strip("-")
    return f"{time}_{task}_{spec['task_id']}{LOG_ENDING}"


def _spec(path: Path, config: dict[str, Any], name: str, first: Stored, prompt: str) -> dict[str, Any]:
    """Return what a log says of its evaluation as a whole."""
    created = _created(path)
    model, run_id = model_of(config) or OURS, identifier(created, path.resolve().name)
    return {
        "eval_id": identifier(run_id, name, "eval"),
        "run_id": run_id,
        "created": created,
        "task": name,
        "task_id": identifier(run_id, name),
        "task_version": 0,
        "task_display_name": name,
        "task_attribs": {},
        "task_args": {"env": first.trajectory.env_id, **_shown((config.get("env") or {}).get("options") or {})},
        "task_args_passed": {},
        "dataset": {"name": name, "shuffled": False},
        "model": model,
        "model_generate_config": {},
        "model_args": {},
        "packages": {OURS: agent_gym.__version__},
        "metadata": {"run": path.resolve().name, "seed": config.get("seed"), "system_prompt": prompt},
    }


def _shown(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what may be secret: a log is made to be handed on."""
    return {name: value for name, value in options.items() if not is_secret(name)}


def _plan(config: dict[str, Any]) -> dict[str, Any]:
    """Return how episodes were played."""
    rollout = config.get("rollout") or {}
    generation = {name: value for name, value in {**rollout, **config}.items() if name in _GENERATION}
    step = {"solver": OURS, "params": rollout, "params_passed": {}}
    return {"name": "plan", "steps": [step], "config": generation}


def _created(path: Path) -> str:
    """Return when a run began, in ISO 8601."""
    said = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")).get("created")
    try:
        return datetime.fromisoformat(str(said)).astimezone(UTC).isoformat(timespec="seconds")
    except ValueError:
        return datetime.fromtimestamp((path / "config.yaml").stat().st_mtime, UTC).isoformat(timespec="seconds")
