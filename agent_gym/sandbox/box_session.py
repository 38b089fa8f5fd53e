"""A session in a box: what it remembers, how it is forked, and when it is lost."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from agent_gym.errors import ConfigError, ForkDiverged, SandboxError
from agent_gym.sandbox.base import MIB, Files, Language, Limits, Result, Session, check_language
from agent_gym.sandbox.boxes import DEEPEST_FORK, Box, understanding
from agent_gym.sandbox.channels import BoxLost
from agent_gym.sandbox.inside import frames

if TYPE_CHECKING:
    from agent_gym.sandbox.sessions import BoxSandbox

logger = logging.getLogger(__name__)

_FILE_SECONDS = 45.0
_LONGEST_SECONDS = 1_000_000
_LONGEST_INPUT = 32 * MIB
_T = TypeVar("_T")


class BoxSession(Session):
    """A session in a box; the box is opened by the first call."""

    def __init__(self, sandbox: BoxSandbox) -> None:
        self._sandbox = sandbox
        self._box: Box | None = None
        self._history: list[_Deed] = []
        self._lost = False
        self._closed = False
        self._opened = self._used = time.monotonic()
        self._lock = threading.RLock()

    def run(
        self, code: str, *, language: Language = "python", stdin: bytes = b"", timeout: float | None = None
    ) -> Result:
        """See `Session.run`."""
        check_language(language)
        deed = _Cell(encoded(code, stdin), language, stdin, checked_seconds(timeout, self._sandbox.limits))
        with self._lock, self._sandbox._gate, self._in_use():
            lost, self._lost = self._lost, False
            result = self._do(deed.run)
            self._history.append(replace(deed, outcome=_outcome(result)))
            if result.files_lost:
                self._drop()
            return replace(result, restarted=True, files_lost=True) if lost else result

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """See `Session.write_files`."""
        deed = _Writing(checked_files(files, self._sandbox.limits))
        with self._lock, self._in_use():
            self._do(deed.run)
            self._history.append(deed)

    def read_files(self, patterns: Sequence[str] = ("**",)) -> Files:
        """See `Session.read_files`."""
        with self._lock, self._in_use():
            return self._do(lambda box: read(box, patterns))

    def fork(self) -> BoxSession:
        """See `Session.fork`.

        Raises:
            ForkDiverged: The backend cannot fork, and replaying the cells gave other results.
        """
        with self._lock, self._in_use():
            twin = self._sandbox.session()
            twin._lost = self._lost
            if self._box is None:
                return twin
            try:
                if self._sandbox.can_fork and self._box.depth < DEEPEST_FORK:
                    twin._box = self._sandbox._fork_box(self._box)
                    twin._history = list(self._history)
                else:
                    twin._replay(self._history)
            except BaseException as error:
                twin.close()
                if isinstance(error, BoxLost):
                    raise SandboxError(f"The session's sandbox was lost ({error}) when it was to be forked.") from error
                raise
            return twin

    def close(self) -> None:
        """See `Session.close`."""
        with self._lock:
            self._closed = True
            self._drop()

    def __del__(self) -> None:
        # Forgotten rather than closed: its processes must not live for as long as the sandbox. The collector of garbage
        # calls this at any time, in the middle of anything, so that no lock may be taken here.
        if self._box is not None:
            self._sandbox._forgotten.append(self._box)

    def expire(self, now: float) -> None:
        """End the session's box if its time is over; called now and then by the sandbox."""
        limits = self._sandbox.limits
        if not self._lock.acquire(blocking=False):
            return
        try:
            old, idle = now - self._opened > limits.session_seconds, now - self._used > limits.idle_seconds
            if self._box is not None and (old or idle):
                logger.info("A session has ended: %s.", "its time is over" if old else "it was idle for too long")
                self._drop()
                self._lost = True
        finally:
            self._lock.release()

    def _do(self, work: Callable[[Box], _T]) -> _T:
        """Do some work in the session's box; what nothing has happened in yet is replaced once if it is lost."""
        for attempt in range(2):
            try:
                if self._box is None:
                    self._box = self._sandbox._take_box()
                    self._history = []
                    self._opened = time.monotonic()
                return work(self._box)
            except BoxLost as error:
                logger.warning("A sandbox was lost: %s.", self._sandbox._explained(error))
                fresh = not self._history
                self._drop()
                self._sandbox._drop_spares()
                if attempt or not fresh:
                    self._lost = True
                    raise SandboxError(
                        f"The session's sandbox was lost ({error}): its variables and files are gone."
                    ) from error
        raise AssertionError("not reached")

    def _drop(self) -> None:
        box, self._box, self._history = self._box, None, []
        if box is not None:
            box.close()

    def _replay(self, history: Sequence[_Deed]) -> None:
        for number, deed in enumerate(history, 1):
            again = self._do(deed.run)
            if isinstance(deed, _Cell) and not deed.same(again):
                raise ForkDiverged(
                    f"Cell {number} gave another result when it was replayed: the backend cannot fork a session, so "
                    "that its cells must be deterministic; use the bubblewrap sandbox."
                )
            self._history.append(deed)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        if self._closed:
            raise SandboxError("The session was closed: open a new one.")
        try:
            yield
        finally:
            self._used = time.monotonic()


@dataclass(frozen=True, slots=True)
class _Cell:
    """A piece of code that a session has run."""

    code: bytes
    language: Language
    stdin: bytes
    seconds: float
    outcome: tuple[object, ...] = ()

    def run(self, box: Box) -> Result:
        """Run it."""
        return box.run(self.code, self.language, self.stdin, self.seconds, echo=True)

    def same(self, other: object) -> bool:
        """Return whether it has come to the same as before."""
        return isinstance(other, Result) and self.outcome == _outcome(other)


def _outcome(result: Result) -> tuple[object, ...]:
    """Return what must be the same when a cell is replayed; of its output only a digest, since many are remembered."""
    return result.status, hashlib.sha256(result.stdout).digest(), result.exit_code


@dataclass(frozen=True, slots=True)
class _Writing:
    """Files that were put into a session."""

    files: Mapping[str, bytes]

    def run(self, box: Box) -> None:
        """Put them in."""
        write(box, self.files)


_Deed = _Cell | _Writing


def checked_seconds(timeout: float | None, limits: Limits) -> float:
    """Return the seconds that a call may take.

    Raises:
        ConfigError: They are not more than 0, or more than the kernel can wait.
    """
    seconds = limits.seconds if timeout is None else timeout
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise ConfigError(f"timeout must be more than 0 seconds and at most {_LONGEST_SECONDS:,}, not {seconds}.")
    return seconds


def checked_files(files: Mapping[str, bytes], limits: Limits) -> dict[str, bytes]:
    """Return files that may be written, their paths normalised.

    Raises:
        ConfigError: A path leads elsewhere, or they are too large.
    """
    checked = {}
    for path, data in files.items():
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in path or len(path) > 1024:
            raise ConfigError(
                f"The path {path!r} does not lead to a place below /work: give a relative one without '..'."
            )
        checked[str(pure)] = bytes(data)
    size = sum(map(len, checked.values()))
    if size > limits.return_bytes:
        raise ConfigError(f"The files have {size:,} bytes: at most {limits.return_bytes:,} may go in at once.")
    return checked


def write(box: Box, files: Mapping[str, bytes]) -> None:
    """Put checked files into a box.

    Raises:
        ConfigError: One of them cannot be written.
    """
    listed = [[path, len(data)] for path, data in files.items()]
    answer, _ = box.ask({"do": "write", "files": listed}, b"".join(files.values()), seconds=_FILE_SECONDS)
    if "failed" in answer:
        raise ConfigError(f"The file {answer['failed']!r} cannot be written in the sandbox: {answer.get('why')}.")


def read(box: Box, patterns: Sequence[str]) -> Files:
    """Bring files out of a box, see `Session.read_files`."""
    limits = box.limits
    request = {
        "do": "read",
        "patterns": list(patterns),
        "files": limits.return_files,
        "bytes": limits.return_bytes,
    }
    answer, blob = box.ask(request, seconds=_FILE_SECONDS)
    got: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    with understanding():
        if not answer["complete"]:
            refused["."] = "reading the files took too much time or memory"
        for message, data in frames.Reader(limits.return_bytes).feed(blob):
            if "problem" in message:
                refused[str(message["path"])] = str(message["problem"])
            else:
                got[str(message["path"])] = data
    return Files(got, refused)


def encoded(code: str, stdin: bytes) -> bytes:
    """Return code as bytes; what cannot be encoded becomes a question mark.

    Raises:
        ConfigError: It, and what it shall read, are too much for one call.
    """
    data = code.encode("utf-8", "replace")
    if len(data) + len(stdin) > _LONGEST_INPUT:
        raise ConfigError(
            f"The code and its input have {len(data) + len(stdin):,} bytes: at most {_LONGEST_INPUT:,} go in at once; "
            "give larger input as files."
        )
    return data
