"""The official ALFWorld games: where they come from, and the compact file of them that is kept.

An archive of a release holds thousands of game.tw-pddl files that repeat one domain and one grammar. What differs is
written to one compact file (see `load_games`), some 60 times smaller.

What is checked: the length that the server announces, the CRC of every member of the archive, and for release 2.1.3
how many games each split has and a digest of what the games say. The digest does not depend on how an archive is
packed or a problem is indented. No checksum of an archive is known here; give your own, if you have one (`sha256`).
"""

import hashlib
import json
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agent_gym.envs.alfworld.loading import (
    BROKEN_ARCHIVE,
    SPLITS,
    GameReader,
    GameText,
    game_readers,
    official_text,
    split_of,
)
from agent_gym.envs.data import cache_folder, download, keeping_whole
from agent_gym.envs.data.download import check_sha256, sha256_of
from agent_gym.errors import DataError, GameError, UnknownIdError

NEWEST: Final = "2.1.3"
_RELEASES: Final = "https://github.com/alfworld/alfworld/releases/download"
ARCHIVES: Final[Mapping[str, str]] = {
    "2.1.3": f"{_RELEASES}/0.4.2/json_2.1.3_tw-pddl.zip",
    "2.1.2": f"{_RELEASES}/0.4.0/json_2.1.2_tw-pddl.zip",
    "2.1.1": f"{_RELEASES}/0.2.2/json_2.1.1_tw-pddl.zip",
}
"""The archive of each release that holds its games; the others of a release hold what the games were made from."""
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Tell = Callable[[str, int, int | None], None]
"""Is told what is going on ("downloading", "converting"), how far it is, and of how much where that is known."""


@dataclass(frozen=True, slots=True)
class _Content:
    """What a set of games amounts to."""

    counts: Mapping[str, int]
    """Games a split."""
    digest: str
    """Over all games; see `_line`."""


_PINNED: Final = {
    "2.1.3": _Content(
        {"train": 3553, "valid_seen": 140, "valid_unseen": 134, "valid_train": 200},
        "46d25665645405d69f2ded49001eb47dedd92f708df5c8cc346c12c400877b81",
    )
}
"""Measured on the release itself."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A set of games in the cache."""

    version: str
    path: Path
    """The compact file."""
    counts: Mapping[str, int]
    """Games a split."""
    digest: str
    """Tells sets of games apart: over what each of them says."""
    origin: str
    """The address or the path that they were taken from."""
    archive_sha256: str | None
    """Of the archive that they were taken from; None where it was no single file."""

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return self.path.stat().st_size


def official_games(version: str = NEWEST) -> Path:
    """Return the compact file of the official games.

    Args:
        version: The release.

    Raises:
        GameError: It is not in the cache; the message says how to get it.
    """
    path = _games_path(version)
    if not path.is_file():
        command = "agent-gym data get alfworld" + ("" if version == NEWEST else f" --version {version}")
        raise GameError(
            f"The official ALFWorld games ({version}) are not in {path.parent}: run `{command}`, or, without internet, "
            f"`{command} --from FILE` with an archive, a folder of game.tw-pddl files or a compact file."
        )
    return path


def holding(version: str = NEWEST) -> Holding | None:
    """Return what the cache holds of a release, or None."""
    path = _games_path(version)
    try:
        about = json.loads((path.parent / "about.json").read_text(encoding="utf-8"))
        found = Holding(path=path, **about)
    except (OSError, ValueError, TypeError):
        return None
    return found if path.is_file() else None


def holdings() -> list[Holding]:
    """Return everything that the cache holds, in the order of the versions."""
    folder = _folder()
    versions = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [found for found in map(holding, versions) if found]


def get_games(
    version: str = NEWEST,
    *,
    source: Path | None = None,
    url: str | None = None,
    sha256: str | None = None,
    force: bool = False,
    tell: Tell | None = None,
    fetch: Callable[..., Path] = download,
) -> Holding:
    """Put the official games into the cache; what is there stays until the new games are complete and checked.

    Args:
        version: The release, or, with `source` or `url`, any name for other games.
        source: An archive (.zip), a folder of game.tw-pddl files or a compact file to take the games from; downloaded
            if None.
        url: Where to download the archive, if not from its release.
        sha256: The checksum of the archive or compact file, in hex digits.
        force: Get them again, although they are there.
        tell: Is told how far it is.
        fetch: Downloads; see `agent_gym.envs.data.download`.

    Raises:
        UnknownIdError: No such release.
        DataError: The archive cannot be downloaded or is not what it should be.
        GameError: The source cannot be read, or holds no games.
    """
    if not _LABEL.fullmatch(version) or not (version in ARCHIVES or source or url):
        raise UnknownIdError.of("version of alfworld", version, ARCHIVES)
    there = holding(version)
    if there and not force:
        return there
    tell = tell or _ignore
    if source is not None:
        if sha256 is not None:
            check_sha256(source, sha256, str(source))
        return _keep(version, source.resolve(), str(source.resolve()), tell)
    address = url or ARCHIVES[version]
    archive = _archive_path(version, address)
    # It lies there complete where an earlier conversion was interrupted.
    if force or not archive.is_file() or sha256 not in (None, sha256_of(archive)):
        fetch(address, archive, sha256=sha256, progress=lambda done, total: tell("downloading", done, total))
    try:
        kept = _keep(version, archive, address, tell)
    except _DamagedError:
        # Downloading it again is all that can help.
        archive.unlink(missing_ok=True)
        raise
    archive.unlink(missing_ok=True)
    return kept


def _keep(version: str, source: Path, origin: str, tell: Tell) -> Holding:
    """Check the games at `source` and write the compact file of them."""
    if source.suffix == ".zip" and source.is_file():
        _check_members(source)
    readers = sorted(game_readers(source), key=lambda reader: reader.id)
    path = _games_path(version)
    with keeping_whole(path) as partial:
        content = _convert(readers, partial, tell)
        _check_content(version, content, source)
    kept = Holding(
        version=version,
        path=path,
        counts=content.counts,
        digest=content.digest,
        origin=origin,
        archive_sha256=sha256_of(source) if source.is_file() else None,
    )
    about = {name: getattr(kept, name) for name in ("version", "counts", "digest", "origin", "archive_sha256")}
    with keeping_whole(path.parent / "about.json") as partial:
        partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return kept


# -- checks ------------------------------------------------------------------------------------------------------------


class _DamagedError(DataError):
    """An archive is not what its maker packed."""


def _check_members(archive: Path) -> None:
    """Read every member of an archive and compare its CRC."""
    try:
        with zipfile.ZipFile(archive) as opened:
            bad = opened.testzip()
    except BROKEN_ARCHIVE as error:
        raise _DamagedError(f"{archive} is not a readable archive ({error}): get it again.") from error
    if bad is not None:
        raise _DamagedError(f"{bad} in {archive} is damaged (its CRC differs): get the archive again.")


def _check_content(version: str, found: _Content, source: Path) -> None:
    """Compare the games with those of the release, where those are known."""
    if not found.counts:
        raise DataError(f"{source} has no game that the official environment plays: check that it is the right one.")
    pinned = _PINNED.get(version)
    if pinned is None or found == pinned:
        return
    if found.counts != pinned.counts:
        what = f"it has {_listed(found.counts)} and should have {_listed(pinned.counts)}"
    else:
        what = f"the digest of its games is {found.digest} and should be {pinned.digest}"
    raise DataError(
        f"{source} does not hold the games of release {version} ({what}): get another archive with --force or --from, "
        f"or keep these games under another name with --from {source} --version NAME."
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


# -- the compact file --------------------------------------------------------------------------------------------------


def _convert(readers: Iterable[GameReader], path: Path, tell: Tell) -> _Content:
    """Write the games that the official environment plays, one a line, and return what they amount to."""
    readers = list(readers)
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    # A higher preset takes many times as long and saves little: what repeats lies far apart.
    with lzma.open(path, "wt", encoding="utf-8", newline="\n", preset=2) as file:
        file.write("{")
        for done, reader in enumerate(readers, 1):
            text = official_text(reader)
            if text is not None:
                file.write(",\n" if counts else "\n")
                file.write(f"{json.dumps(reader.id)}: {json.dumps(_entry(text))}")
                digest.update(_line(reader.id, text))
                counts[split_of(reader.id)] += 1
            tell("converting", done, len(readers))
        file.write("\n}\n")
    return _Content({split: counts[split] for split in SPLITS if counts[split]}, digest.hexdigest())


def _entry(text: GameText) -> dict[str, Any]:
    entry = {"task": text.task, "problem": text.problem, "walkthrough": list(text.walkthrough)}
    return entry if text.dialect == "move" else {**entry, "dialect": text.dialect}


def _line(id_: str, text: GameText) -> bytes:
    """Return a game's line in the digest of all games: its id and a checksum of what it says."""
    said = [" ".join(text.problem.split()), text.task, list(text.walkthrough)]
    return f"{id_} {hashlib.sha256(json.dumps(said).encode()).hexdigest()}\n".encode()


# -- the cache ---------------------------------------------------------------------------------------------------------


def _folder() -> Path:
    return cache_folder() / "alfworld"


def _games_path(version: str) -> Path:
    return _folder() / version / "games.json.xz"


def _archive_path(version: str, url: str) -> Path:
    """Return where the archive lies until it is converted; another address has another place."""
    mark = hashlib.sha256(url.encode()).hexdigest()[:8]
    name = Path(urlsplit(url).path).stem or "archive"
    return _folder() / version / f"{name}-{mark}.zip"


def _ignore(what: str, done: int, total: int | None) -> None:
    pass
