"""Copying a folder that untrusted code has filled: links, queues, holes, any depth, and names of any kind.

It is done here and not by `cp`, which would be a process that code in a box further up could see and change.
"""

from __future__ import annotations

import errno
import os
import stat

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_LINKED = 256
"""Files of several names that are remembered; each takes a descriptor. What is beyond becomes several files."""
_PIECE = 1 << 20


def copy_folder(source: str, target: str) -> None:
    """Copy what is in a folder into another one that is empty.

    A path can be longer than the kernel accepts, so that it is walked by one step at a time.

    Raises:
        OSError: Not everything could be copied.
    """
    here, there = os.open(source, _FOLDER), os.open(target, _FOLDER)
    linked: dict[int, int] = {}
    try:
        waiting = [os.listdir(here)]
        while True:
            if waiting[-1]:
                name = waiting[-1].pop()
                found = os.stat(name, dir_fd=here, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    os.mkdir(name, 0o700, dir_fd=there)
                    here = _step(here, name)
                    there = _step(there, name)
                    waiting.append(os.listdir(here))
                else:
                    _copy_entry(here, there, name, found, linked)
                continue
            _copy_marks(there, os.fstat(here))
            waiting.pop()
            if not waiting:
                return
            here = _step(here, "..")
            there = _step(there, "..")
    finally:
        for descriptor in (here, there, *linked.values()):
            os.close(descriptor)


def _step(folder: int, name: str) -> int:
    """Go to a neighbouring folder; the one that was open is closed."""
    neighbour = os.open(name, _FOLDER, dir_fd=folder)
    os.close(folder)
    return neighbour


def _copy_entry(here: int, there: int, name: str, found: os.stat_result, linked: dict[int, int]) -> None:
    """Copy what is no folder."""
    if found.st_ino in linked:
        os.link(f"/proc/self/fd/{linked[found.st_ino]}", name, dst_dir_fd=there, follow_symlinks=True)
        return
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=there, follow_symlinks=False)
        return
    if not stat.S_ISREG(found.st_mode):
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=there)
        return
    source = os.open(name, _FILE | os.O_RDONLY, dir_fd=here)
    try:
        target = os.open(name, _FILE | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=there)
    except BaseException:
        os.close(source)
        raise
    try:
        _copy_content(source, target, found.st_size)
        _copy_marks(target, found)
        if found.st_nlink > 1 and len(linked) < _MOST_LINKED:
            linked[found.st_ino] = os.dup(target)
    finally:
        os.close(source)
        os.close(target)


def _copy_content(source: int, target: int, size: int) -> None:
    """Copy the data of a file, and leave its holes as they are."""
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # there is only a hole left
        end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            sent = os.sendfile(target, source, start, min(_PIECE, end - start))
            if sent == 0:
                return
            start += sent
    os.ftruncate(target, size)


def _copy_marks(target: int, found: os.stat_result) -> None:
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
