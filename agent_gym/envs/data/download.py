"""Downloads one file over HTTP, and goes on where an earlier attempt, or an earlier process, was cut off.

What has arrived lies in "<file>.part", beside a note of which version of the file it is a part of ("<file>.part.json").
A part is only ever continued where the server says that its file is still that version.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

import httpx

from agent_gym.envs.data.cache import keeping, keeping_whole
from agent_gym.errors import DataError

Progress = Callable[[int, int | None], None]
"""Is told how many bytes have arrived, and of how many where that is known."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes of troubles that may pass."""
_LONGEST_PAUSE: Final = 30.0


class _PassingError(Exception):
    """The attempt has failed in a way that another one may not; says why."""


@dataclass(frozen=True, slots=True)
class _Version:
    """Which version of a file a part belongs to."""

    url: str
    etag: str = ""
    """The strong ETag, or empty."""
    modified: str = ""
    """The Last-Modified header, or empty."""
    length: int | None = None
    """The length of the whole file, as far as the server has told it."""

    @classmethod
    def told_by(cls, headers: Mapping[str, str], url: str, length: int | None) -> Self:
        etag = headers.get("etag", "")
        return cls(url, "" if etag.startswith("W/") else etag, headers.get("last-modified", ""), length)

    @property
    def validator(self) -> str:
        """What to ask the server for, so that it sends the rest only if the file is the same."""
        return self.etag or self.modified


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    attempts: int = 4,
    timeout: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download `url` to `target`; whatever lies there stays until the new file is complete.

    An attempt that fails in a way that may pass (the connection breaks, the server is busy) is followed by another,
    after 1, 2, 4 ... seconds. If the last one fails too, or the process is interrupted, the part stays, and the next
    call goes on from there.

    Args:
        url: Where the file is; redirects are followed.
        target: Where it is to lie.
        sha256: Its checksum in hex digits, if it is known.
        progress: Is told how far it is.
        attempts: How many times to try in all.
        timeout: Seconds to wait for a connection, and for each piece of the file.
        sleep: Waits between two attempts.

    Raises:
        DataError: The file cannot be had, or it is not the one that was announced; the message says what to do.
    """
    part = target.with_name(target.name + ".part")
    with keeping(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    with httpx.Client(follow_redirects=True, timeout=timeout) as client:
        for attempt in range(1, attempts + 1):
            try:
                _fetch(client, url, part, progress or _ignore)
                break
            except _PassingError as trouble:
                if attempt == attempts:
                    raise DataError(
                        f"{url} could not be downloaded ({trouble}; {attempts} attempts): the same command goes on "
                        f"after the {_size(part):,} bytes that have arrived."
                    ) from trouble
                sleep(min(2.0 ** (attempt - 1), _LONGEST_PAUSE))
    if sha256 is not None:
        check_sha256(part, sha256, url, lambda: _discard(part))
    with keeping(target):
        part.replace(target)
        _discard(part)
    return target


def sha256_of(path: Path) -> str:
    """Return the checksum of a file in hex digits.

    Raises:
        DataError: It is no file that can be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} has no checksum ({error.strerror}): give a file, or leave out the checksum."
        ) from error


def check_sha256(path: Path, expected: str, name: str, otherwise: Callable[[], None] | None = None) -> None:
    """Compare the checksum of a file with the one that is expected.

    Args:
        path: The file.
        expected: Hex digits.
        name: What the file is called when speaking to people.
        otherwise: Runs before the error is raised.

    Raises:
        DataError: They differ.
    """
    found, expected = sha256_of(path), expected.strip().lower()
    if found != expected:
        if otherwise:
            otherwise()
        raise DataError(
            f"{name} has the sha256 {found} instead of {expected}: it is another file or it is damaged; get it "
            "again or correct the checksum."
        )


# -- one attempt -------------------------------------------------------------------------------------------------------


def _fetch(client: httpx.Client, url: str, part: Path, progress: Progress) -> None:
    """Fetch what is missing of the part."""
    known = _noted(part, url)
    have = _size(part) if known else 0
    if known and known.length is not None and have == known.length:
        progress(have, known.length)
        return
    # Without "identity" the server may compress, and then positions and lengths are no longer those of the file.
    headers = {"Accept-Encoding": "identity"}
    if known and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
    try:
        with client.stream("GET", url, headers=headers) as response:
            _receive(response, url, part, known, have, progress)
    except httpx.TransportError as error:
        raise _PassingError(str(error) or type(error).__name__) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DataError(f"{url} cannot be downloaded ({error}): check the address.") from error


def _receive(
    response: httpx.Response, url: str, part: Path, known: _Version | None, have: int, progress: Progress
) -> None:
    """Append the rest of the file to the part, or begin it anew where the server sends the file from its start."""
    if response.status_code == 206 and known and _continues(response, known, have):
        version = known
    elif response.status_code in (206, 416):
        # The rest of another version, or a part that is longer than the file is now.
        _discard(part)
        raise _PassingError("the file has changed on the server")
    elif response.status_code in _PASSING:
        raise _PassingError(f"the server answered {response.status_code} {response.reason_phrase}")
    elif response.status_code != 200:
        raise DataError(
            f"{url} cannot be downloaded (the server answered {response.status_code} {response.reason_phrase}): check "
            "the address."
        )
    else:
        _discard(part)
        have, version = 0, _Version.told_by(response.headers, url, _announced(response))
        _note(part, version)
    with keeping(part), part.open("ab") as file:
        progress(have, version.length)
        # Pieces as they arrive: gathering them to chunks of one size would lose the last ones where the line breaks.
        for chunk in response.iter_raw():
            file.write(chunk)
            have += len(chunk)
            progress(have, version.length)
    if version.length is not None and have != version.length:
        if have > version.length:
            _discard(part)
        raise _PassingError(f"{have:,} bytes arrived instead of {version.length:,}")


def _continues(response: httpx.Response, known: _Version, have: int) -> bool:
    """Return whether an answer is the rest of the version that we know.

    Servers are known that send the rest whatever stands in If-Range, so what they say of it is looked at as well.
    """
    found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
    if not found:
        return False
    now = _Version.told_by(response.headers, known.url, int(found[2]))
    told = ((now.etag, known.etag), (now.modified, known.modified))
    same_file = all(new == old for new, old in told if new and old)
    return int(found[1]) == have and same_file and known.length in (None, now.length)


def _announced(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() and "content-encoding" not in response.headers else None


# -- the part and the note beside it -----------------------------------------------------------------------------------


def _note_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _note(part: Path, version: _Version) -> None:
    with keeping_whole(_note_path(part)) as path:
        path.write_text(json.dumps(asdict(version)) + "\n", encoding="utf-8")


def _noted(part: Path, url: str) -> _Version | None:
    """Return which version the part belongs to, or None where it cannot be continued."""
    try:
        version = _Version(**json.loads(_note_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.url == url and version.validator else None


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_path(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _ignore(done: int, total: int | None) -> None:
    pass
