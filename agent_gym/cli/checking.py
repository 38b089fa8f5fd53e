"""`agent-gym check`: the conformance suite as a table, and the manifest that it holds an environment to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent_gym.envs.conformance import conform
from agent_gym.envs.manifest import Manifest, check_manifest, find_manifest
from agent_gym.envs.manifest import record as record_manifest
from agent_gym.envs.walks import MakeEnv
from agent_gym.errors import ConfigError, ManifestError
from agent_gym.registry import make
from agent_gym.store.atomic import write_text

_MARKS = {True: "[green]ok[/green]", False: "[red]fails[/red]", None: "[dim]-[/dim]"}


def run_checks(
    env_id: str, options: dict[str, Any], *, only: str | None, manifest: Path | None = None, record: Path | None = None
) -> None:
    """Run the checks and print a row each; exit with code 1 if one fails.

    Args:
        env_id: See `agent_gym.make`.
        options: What the environment is made with.
        only: Run only the check of this name.
        manifest: The manifest to hold it to; the one beside its module if None.
        record: Where to write what it says today, if all checks passed.
    """
    console = Console()
    if manifest is not None and record is not None:
        raise ConfigError("--manifest compares and --record writes: give one of them.")
    # What cannot be made at all, or cannot be read or written, is an error of its own, not a failed check.
    make(env_id, **options).close()
    onto = _manifest_to_renew(record, env_id) if record is not None else None
    # An environment that is about to be recorded may differ from what was recorded before.
    more = {} if record is not None else _comparison(env_id, manifest)
    failed = _print_checks(console, env_id, options, only, more)
    if failed and record is not None:
        console.print("nothing is recorded")
    if failed:
        raise typer.Exit(1)
    if record is not None:
        with console.status("recording"):
            recorded = record_manifest(env_id, options, onto=onto)
        write_text(record, recorded.text())
        episodes = sum(len(recording.episodes) for recording in recorded.recordings)
        console.print(f"recorded {episodes} episodes in {escape(str(record))}")


def _manifest_to_renew(path: Path, env_id: str) -> Manifest | None:
    """Return the manifest that is at `path`, None where nothing is there yet."""
    if not path.absolute().parent.is_dir():
        raise ManifestError(f"{path} cannot be written: there is no folder {path.parent}; make it first.")
    return Manifest.load(path, env_id) if path.exists() else None


def _comparison(env_id: str, path: Path | None) -> dict[str, Callable[[MakeEnv], str]]:
    """Return the check against a manifest, which is read now."""
    manifest = Manifest.load(path, env_id) if path is not None else find_manifest(env_id)
    return {"manifest": lambda _: check_manifest(env_id, manifest)}


def _print_checks(
    console: Console,
    env_id: str,
    options: dict[str, Any],
    only: str | None,
    more: Mapping[str, Callable[[MakeEnv], str]],
) -> int:
    """Run the checks and print their table; return how many failed."""
    table = Table(title=env_id)
    for heading in ("check", "", "what was found", "s"):
        table.add_column(heading, justify="right" if heading == "s" else "left")
    failed, told = 0, set[str]()
    with console.status("checking") as status:
        for check in conform(lambda: make(env_id, **options), only=only, more=more):
            status.update(f"checking: {check.name} is done")
            detail = "the same" if check.passed is False and check.detail in told else escape(check.detail)
            told.add(check.detail)
            table.add_row(check.name, _MARKS[check.passed], detail, f"{check.seconds:.2f}")
            failed += check.passed is False
    console.print(table)
    if failed:
        console.print(f"{failed} of {table.row_count} checks failed")
    return failed
