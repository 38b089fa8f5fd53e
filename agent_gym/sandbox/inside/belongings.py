"""What the twin of a worker takes along: its open files and its shared memory must be those of its own box.

A forked process goes on with the very files, pipes and pages of the one that it was forked from. Here they are looked
at before it moves, and afterwards replaced: files by the new box's copies, memory by a copy, and what leads to a
process that stays behind by something at whose other end is nobody.
"""

from __future__ import annotations

import _socket
import os
import stat

from . import kernel

_HARMLESS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_SHIPPED = ("/usr/", "/opt/")
"""Files that are the same in all boxes, and that nobody can write to."""
_PIECE = 1 << 20


class Descriptor:
    """One that is open.

    Args:
        number: Itself.
    """

    def __init__(self, number: int) -> None:
        found = os.fstat(number)
        self.number, self.kind, self.inode = number, stat.S_IFMT(found.st_mode), found.st_ino
        self.path = os.readlink(f"/proc/self/fd/{number}")
        with open(f"/proc/self/fdinfo/{number}") as info:
            self.flags = next(int(line.split()[1], 8) for line in info if line.startswith("flags:"))

    @property
    def writes(self) -> bool:
        """Whether it is open for writing alone."""
        return self.flags & os.O_ACCMODE == os.O_WRONLY

    def replace(self, other: int) -> None:
        """Let it mean what another one does, which is closed."""
        os.dup2(other, self.number, inheritable=os.get_inheritable(self.number))
        os.close(other)


class Belongings:
    """All that a process has open or shares, as it is now.

    Args:
        spared: Descriptors that are nobody's business here.
    """

    def __init__(self, spared: set[int]) -> None:
        self._outputs = [os.fstat(number).st_ino for number in (1, 2)]
        self._open = []
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in spared:
                try:
                    self._open.append(Descriptor(int(name)))
                except OSError:
                    continue  # that of the listing itself
        self._shared = _shared_memory()
        try:
            self._folder = os.getcwd()
        except OSError:
            self._folder = ""  # it was removed

    def settle(self, work: str) -> None:
        """Replace everything by what belongs to the box that this process is in now, and whose outputs it has."""
        try:
            os.chdir(self._folder or work)
        except OSError:
            os.chdir(work)
        for mapping in self._shared:
            _map_again(*mapping)
        both = self._pipes_that_end_here()
        for each in self._open:
            if each.kind == stat.S_IFREG and each.path.startswith("/"):
                each.replace(_reopened(each))
            elif each.kind == stat.S_IFDIR:
                each.replace(_opened_folder(each, work))
            elif each.inode in self._outputs and each.kind == stat.S_IFIFO:
                each.replace(os.dup(1 + self._outputs.index(each.inode)))
            elif each.kind == stat.S_IFIFO and each.inode not in both:
                each.replace(_pipe_to_nobody(writes=each.writes))
            elif each.kind == stat.S_IFSOCK:
                _cut(each)
            elif each.kind == stat.S_IFCHR and each.path not in _HARMLESS:
                each.replace(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))

    def _pipes_that_end_here(self) -> set[int]:
        """Return those of which this process has both ends: nobody else need know them."""
        pipes = [each for each in self._open if each.kind == stat.S_IFIFO]
        return {one.inode for one in pipes for other in pipes if one.inode == other.inode and one.flags != other.flags}


def _reopened(file: Descriptor) -> int:
    """Open this box's copy of a file; of a deleted file, or one in memory, make a copy."""
    position = os.lseek(file.number, 0, os.SEEK_CUR)
    try:
        twin = os.open(file.path, file.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC) | os.O_CLOEXEC)
    except OSError:
        twin = os.memfd_create("copy")
        offset = 0
        while sent := os.sendfile(twin, file.number, offset, _PIECE):
            offset += sent
    os.lseek(twin, position, os.SEEK_SET)
    return twin


def _opened_folder(folder: Descriptor, work: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(folder.path, flags)
    except OSError:
        return os.open(work, flags)


def _pipe_to_nobody(*, writes: bool) -> int:
    reader, writer = os.pipe()
    os.close(reader if writes else writer)
    return writer if writes else reader


def _cut(connection: Descriptor) -> None:
    """Replace a socket that has a place in a network or the file system, and so another process at its other end."""
    end = _socket.socket(fileno=os.dup(connection.number))
    try:
        named = end.family != _socket.AF_UNIX or end.getsockname() or _peer(end)
        if named:
            connection.replace(_socket.socket(end.family, end.type, end.proto).detach())
    finally:
        end.close()


def _peer(end: _socket.socket) -> object:
    try:
        return end.getpeername()
    except OSError:
        return None  # it is not connected


def _shared_memory() -> list[tuple[int, int, int, str, int]]:
    """Return what is mapped and not private: where, how long, how protected, and the file with the place in it."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, rights, offset, _, _, *path = line.rstrip("\n").split(" ", 5)
            file = path[0].strip() if path else ""
            if rights[3] == "s" and not file.startswith(_SHIPPED):
                start, end = (int(part, 16) for part in span.split("-"))
                protection = sum(bit for bit, right in zip((1, 2, 4), "rwx", strict=True) if right in rights[:3])
                found.append((start, end - start, protection, file, int(offset, 16)))
    return found


def _map_again(start: int, length: int, protection: int, path: str, offset: int) -> None:
    """Map this box's copy of a file in the place of the other one; where there is none, a copy of the memory."""
    try:
        file = os.open(path, (os.O_RDWR if protection & 2 else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError:
        kernel.map_copy(start, length, protection)
        return
    kernel.map_file(start, length, protection, file, offset)
    os.close(file)
