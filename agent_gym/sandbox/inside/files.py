"""Files in and out of a box, as messages: no path of one side is ever used on the other.

The work is done by a process with no more rights than the untrusted code, since that may have put anything in the way.
"""

from __future__ import annotations

import _signal
import os
import stat
import time

from . import frames
from .processes import become_untrusted, complain, end_after
from .streams import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_SECONDS = 30.0
_DEEPEST = 32
_LONGEST_NAME = 1024
_MOST_ENTRIES = 20_000
_END = frames.pack({"end": True})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write(message: dict[str, Any], payload: bytes, config: dict[str, Any], program: bytes) -> frames.Frame:
    """Write the files of a message; the answer says which path failed, if one did."""

    def work(out: int) -> None:
        start = 0
        for path, size in message["files"]:
            try:
                _write_file(config["work"], path, payload[start : start + size])
            except OSError as error:
                _send(out, {"failed": path, "why": os.strerror(error.errno or 0)})
                return
            start += size
        _send(out, {"written": True})

    blob = _in_child(work, config, program, at_most=65536)
    answers = list(frames.Reader(0).feed(blob)) if blob else []
    return (answers[0][0] if answers else {"failed": "", "why": "the sandbox is full or took too long"}), b""


def read(message: dict[str, Any], config: dict[str, Any], program: bytes) -> frames.Frame:
    """Return the regular files below the working folder, each in a frame of its own, within limits."""

    def work(out: int) -> None:
        room, count = message["bytes"], 0
        for path, problem, descriptor, size in _walk(config["work"]):
            if not problem and not _wanted(path, message["patterns"]):
                os.close(descriptor)
                continue
            if not problem and (count >= message["files"] or size > room):
                problem = "too many files" if count >= message["files"] else "too large"
                os.close(descriptor)
            if problem:
                _send(out, {"path": path, "problem": problem})
                continue
            with open(descriptor, "rb") as file:
                data = file.read(size)
            room -= len(data)
            count += 1
            _send(out, {"path": path}, data)

    blob = _in_child(work, config, program, at_most=message["bytes"] + 8 * 1024 * 1024)
    return {"complete": blob is not None}, blob or b""


def _in_child(work: Callable[[int], None], config: dict[str, Any], program: bytes, *, at_most: int) -> bytes | None:
    """Do some work in a process that is trusted with nothing; return what it wrote, None without an end."""
    out, end = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        # The code has used up the processes.
        complain(error)
        os.close(out)
        os.close(end)
        return None
    if pid == 0:

        def whole() -> None:
            os.close(out)
            become_untrusted(config, program)
            work(end)
            _send_all(end, _END)

        end_after(whole)
    os.close(end)
    try:
        return _read_all(out, at_most, time.monotonic() + _SECONDS)
    finally:
        os.close(out)
        try:
            os.kill(pid, _signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it has ended, and the supervisor has collected it already


def _read_all(out: int, at_most: int, deadline: float) -> bytes | None:
    parts = bytearray()
    while readable(out, deadline - time.monotonic()):
        data = os.read(out, 1 << 20)
        if not data:
            return bytes(parts[: -len(_END)]) if parts.endswith(_END) else None
        parts += data
        if len(parts) > at_most:
            return None
    return None


def _send(out: int, message: dict[str, Any], payload: bytes = b"") -> None:
    _send_all(out, frames.pack(message, payload))


def _send_all(out: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(out, left) :]


def _write_file(root: str, path: str, data: bytes) -> None:
    """Write a file below a folder, through real folders only; missing ones are made."""
    *folders, name = path.split("/")
    here = os.open(root, _FOLDER)
    try:
        for folder in folders:
            try:
                os.mkdir(folder, 0o755, dir_fd=here)
            except FileExistsError:
                pass
            below = os.open(folder, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        try:
            # What stands there now may be a link, or a queue that nobody reads from.
            os.unlink(name, dir_fd=here)
        except FileNotFoundError:
            pass
        descriptor = os.open(name, _FILE | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=here)
        with open(descriptor, "wb") as file:
            file.write(data)
    finally:
        os.close(here)


def _walk(root: str) -> Iterator[tuple[str, str, int, int]]:
    """Yield each entry below a folder: its path, why it is refused, and else an open file and its size."""
    entries = 0
    stack = [("", os.open(root, _FOLDER), iter(sorted(os.listdir(root))))]
    while stack:
        prefix, folder, names = stack[-1]
        name = next(names, None)
        if name is None:
            os.close(folder)
            stack.pop()
            continue
        entries += 1
        if entries > _MOST_ENTRIES:
            yield prefix or ".", "too many entries", -1, 0
            return
        path = prefix + name
        problem, descriptor, size = _open_entry(folder, name, path)
        if problem == "folder":
            if len(stack) <= _DEEPEST:
                stack.append((path + "/", descriptor, iter(sorted(os.listdir(descriptor)))))
                continue
            os.close(descriptor)
            problem = "too deep"
        yield _sayable(path), problem, descriptor, size


def _open_entry(folder: int, name: str, path: str) -> tuple[str, int, int]:
    """Open an entry; return why it cannot be taken ("" or "folder" if it can), a descriptor and its size."""
    if _sayable(path) != path or len(path) > _LONGEST_NAME or any(ord(letter) < 32 for letter in path):
        return "a name that cannot be used", -1, 0
    try:
        known = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(known.st_mode):
            return "folder", os.open(name, _FOLDER, dir_fd=folder), 0
        if not stat.S_ISREG(known.st_mode):
            return "a link" if stat.S_ISLNK(known.st_mode) else "not a regular file", -1, 0
        descriptor = os.open(name, _FILE | os.O_RDONLY, dir_fd=folder)
    except OSError as error:
        return os.strerror(error.errno or 0), -1, 0
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return "", descriptor, found.st_size
    os.close(descriptor)
    return "a file of several names", -1, 0


def _sayable(path: str) -> str:
    return path.encode("utf-8", "replace").decode("utf-8")


def _wanted(path: str, patterns: list[str]) -> bool:
    import fnmatch

    return any(
        pattern == "**" or fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, pattern.replace("**/", ""))
        for pattern in patterns
    )
