"""Getting the files that a suite is played on into the folder of fetched data: downloaded, or taken from your own."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from agent_gym.envs.data import cache_folder, download, keeping_whole
from agent_gym.envs.questions import read_rows
from agent_gym.errors import ConfigError, DataError
from agent_gym.evaluation.suites import Suite

Tell = Callable[[str, int, int | None], None]
"""Is told what is going on, how far it is, and of how much where that is known."""


def get_data(suite: Suite, source: Path | None, *, url: str | None = None, tell: Tell | None = None) -> list[Path]:
    """Put the files of a suite where it looks for them; return their paths.

    Args:
        suite: The suite.
        source: The file, in any form that `read_rows` reads, or a folder that has files of these names; downloaded if
            None.
        url: Where to download the only file, if not from where the suite says.
        tell: Is told how far a download is.

    Raises:
        ConfigError: The suite needs no files.
        DataError: The files are not there, cannot be read or downloaded, or only you can get them.
    """
    targets = [cache_folder() / name for name in suite.needs.files]
    if not targets:
        raise ConfigError(f"The suite {suite.name} needs no data: agent-gym eval --suite {suite.name} plays it.")
    if source is None:
        _download(suite, targets, url or suite.needs.url, tell)
    elif source.is_dir():
        for target in targets:
            _take(source / target.name, target)
    elif len(targets) > 1:
        names = ", ".join(target.name for target in targets)
        raise DataError(f"The suite {suite.name} needs several files: give the folder that has {names}.")
    else:
        _take(source, targets[0])
    return targets


def _download(suite: Suite, targets: list[Path], url: str, tell: Tell | None) -> None:
    if not url or len(targets) > 1:
        raise DataError(
            f"The data of {suite.name} is not for download: {suite.needs.command}. {suite.needs.note}".strip()
        )

    def progress(done: int, total: int | None) -> None:
        if tell is not None:
            tell("downloading", done, total)

    try:
        download(url, targets[0], progress=progress)
    except DataError as error:
        raise DataError(f"{error} Without internet: agent-gym data get {suite.name} --from FILE.") from error


def _take(source: Path, target: Path) -> None:
    """Copy a file, or write its rows in the form of the target where it has another one."""
    if not source.is_file():
        raise DataError(f"There is no file {source}: give the path of one, or of the folder that has {target.name}.")
    if source.suffixes == target.suffixes:
        with keeping_whole(target) as partial:
            shutil.copyfile(source, partial)
        return
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in read_rows(source)).encode()
    with keeping_whole(target) as partial:
        partial.write_bytes(gzip.compress(lines) if target.suffix == ".gz" else lines)
