"""Arrays in one file, and strings in arrays: an index is built once and then shared, mapped, by all processes.

Knows nothing of search.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from agent_gym.errors import DataError
from agent_gym.files import replacing

Array = np.ndarray[Any, Any]
_MAGIC = b"agent_gym arrays 1\n"
_ALIGNMENT = 64


class Strings:
    """A sequence of strings in two arrays, of which one is decoded at a time.

    Args:
        data: All of them, one after the other, in UTF-8 (bytes).
        ends: Where each ends, in bytes; one entry more than there are strings, the first is 0.
    """

    def __init__(self, data: Array, ends: Array) -> None:
        self.data = data
        self.ends = ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Strings":
        """Pack strings; halves of surrogate pairs, which are no text, are replaced by question marks."""
        packed = bytearray()
        ends = [0]
        for string in strings:
            packed += string.encode("utf-8", "replace")
            ends.append(len(packed))
        return cls(np.frombuffer(bytes(packed), np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> str:
        return self.part(int(self.ends[number]), int(self.ends[number + 1]))

    def part(self, start: int, end: int) -> str:
        """Return what stands between two positions in bytes."""
        return bytes(self.data[start:end]).decode("utf-8", "replace")


class Keys:
    """Finds the number of a string without a dictionary in memory, by the digest of the string.

    Two strings share a digest once in some 10^12 searches among ten million strings; who cannot bear that compares.

    Args:
        digests: Sorted, 64 bits each.
        numbers: The number of each.
    """

    def __init__(self, digests: Array, numbers: Array) -> None:
        self.digests = digests
        self.numbers = numbers

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Keys":
        """Number strings by their order; of equal ones the first is found."""
        digests = np.array([_digest(string) for string in strings], np.uint64)
        order = np.argsort(digests, kind="stable")
        return cls(digests[order], order.astype(np.int32))

    def find(self, string: str) -> int | None:
        """Return the number of a string, or None."""
        digest = np.uint64(_digest(string))
        at = int(np.searchsorted(self.digests, digest))
        found = at < len(self.digests) and self.digests[at] == digest
        return int(self.numbers[at]) if found else None


def save_arrays(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Write arrays into one file, which takes the place of an old one when it is complete.

    Args:
        path: The file; folders are made.
        arrays: By name.
        about: What else to keep, as JSON.

    Raises:
        DataError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Processes that start together may all build the index: none writes into the file of another.
        with replacing(path, f".{secrets.token_hex(4)}.partial") as partial, partial.open("wb") as file:
            _write(file, arrays, about)
    except OSError as error:
        raise DataError(f"The index cannot be kept in {path}: {error}; name a folder that can be written.") from error


def map_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of a file, read from the disk as they are used, and what was kept with them.

    Raises:
        DataError: It cannot be read, or `save_arrays` did not write it.
    """
    try:
        with path.open("rb") as file:
            head = _read_head(file)
            start = _aligned(file.tell())
        whole = np.memmap(path, np.uint8, "r")
        arrays = {name: _view(whole, start, **place) for name, place in head["arrays"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no index that can be read: build it anew.") from error
    return arrays, head["about"]


def _write(file: BinaryIO, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    places: dict[str, dict[str, Any]] = {}
    at = 0
    for name, array in arrays.items():
        places[name] = {"kind": array.dtype.str, "at": at, "count": len(array)}
        at = _aligned(at + array.nbytes)
    head = json.dumps({"about": dict(about), "arrays": places}).encode()
    file.write(_MAGIC + b"%d\n" % len(head) + head)
    for array in arrays.values():
        file.write(bytes(_aligned(file.tell()) - file.tell()))
        file.write(np.ascontiguousarray(array).data)
    file.write(bytes(_aligned(file.tell()) - file.tell()))


def _read_head(file: BinaryIO) -> dict[str, Any]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("another kind of file")
    head: dict[str, Any] = json.loads(file.read(int(file.readline(20))))
    return head


def _view(whole: Array, start: int, kind: str, at: int, count: int) -> Array:
    dtype = np.dtype(kind)
    begin = start + at
    if begin + count * dtype.itemsize > len(whole):
        raise ValueError("the file is cut off")
    return whole[begin : begin + count * dtype.itemsize].view(dtype)


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


def _digest(string: str) -> int:
    return int.from_bytes(blake2b(string.encode("utf-8", "replace"), digest_size=8).digest(), "little")
