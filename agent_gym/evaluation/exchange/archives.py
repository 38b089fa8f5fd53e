"""Reading the members of a zip file that a stranger made: nothing is unpacked to disk, and nothing without a limit."""

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Final, Self

from agent_gym.errors import DataError, MissingExtraError

_ZSTANDARD: Final = 93
_BLOCK: Final = 2**16
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read of a file that may be malicious."""

    member: int = 128 * 2**20
    """Bytes of one episode, or of a file's header, when unpacked."""
    members: int = 5_000_000
    """Files in an archive."""

    def too_long(self, what: str) -> DataError:
        """Return the error for something that is longer than a member may be."""
        return DataError(
            f"{what} is longer than {self.member // 2**20} MiB: allow more with --max-mib, if you trust it."
        )


class Archive:
    """A zip file that is open for reading. Use it as a context manager.

    Raises:
        DataError: It is no zip file, or names a place outside of itself.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise DataError(
                f"{path} is not an archive that can be read ({error}): download or write it again."
            ) from error
        # The last of several members with one name counts, as for inspect_ai.
        self.names = list(self._zip.NameToInfo)
        if len(self.names) > limits.members:
            self._zip.close()
            raise DataError(f"{path} has more than {limits.members} members: this is no log of inspect_ai.")
        if bad := next(filter(_leads_outside, self.names), None):
            self._zip.close()
            raise DataError(f"{path} has a member {bad[:100]!r}, which lies outside of the archive: do not trust it.")

    def read(self, name: str) -> bytes:
        """Return the content of a member.

        Raises:
            DataError: It is longer than the limit, or broken.
            MissingExtraError: It is packed by Zstandard, and `zstandard` is not installed.
        """
        info = self._zip.NameToInfo[name]
        what = f"The member {name[:100]!r} of {self.path}"
        if info.file_size > self.limits.member:
            raise self.limits.too_long(what)
        content = bytearray()
        try:
            with self._opened(info) as file:
                while block := file.read(_BLOCK):
                    content += block
                    # What an archive says of its members need not be so.
                    if len(content) > self.limits.member:
                        raise self.limits.too_long(what)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{what} is broken ({error}): download or write it again.") from error
        return bytes(content)

    def _opened(self, info: zipfile.ZipInfo) -> Any:
        if info.compress_type != _ZSTANDARD:
            return self._zip.open(info)
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError.of("inspect", "Reading a log that inspect_ai has packed by Zstandard") from error
        return _Zstandard(zstandard, self.path, info)

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Zstandard:
    """A member that zipfile itself cannot unpack before Python 3.14."""

    def __init__(self, zstandard: Any, path: Path, info: zipfile.ZipInfo) -> None:
        self._file = path.open("rb")
        self._error = zstandard.ZstdError
        self._file.seek(info.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile("no member begins where the directory says")
        self._file.seek(name + extra, 1)
        packed = _Part(self._file, info.compress_size)
        # Frames that ask for more memory than this are refused.
        unpacker = zstandard.ZstdDecompressor(max_window_size=2**27)
        self._reader = unpacker.stream_reader(packed, read_across_frames=True)

    def read(self, count: int) -> bytes:
        try:
            return bytes(self._reader.read(count))
        except self._error as error:
            raise zipfile.BadZipFile(str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


class _Part:
    """The next bytes of a file, and no more."""

    def __init__(self, file: IO[bytes], count: int) -> None:
        self._file, self._left = file, count

    def read(self, count: int = -1) -> bytes:
        wanted = self._left if count < 0 else min(count, self._left)
        block = self._file.read(wanted)
        self._left -= len(block)
        return block


def _leads_outside(name: str) -> bool:
    depth = 0
    for part in PurePosixPath(name.replace("\\", "/")).parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part == "/":
            return True
    return len(name) > 1 and name[1] == ":"
