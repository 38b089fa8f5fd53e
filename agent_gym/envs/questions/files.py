"""Rows of a data set from a file: JSON lines, JSON, CSV or Parquet, as they are or compressed."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from agent_gym.errors import DataError, MissingExtraError

Row = dict[str, Any]

_UNPACKED: Final[dict[str, Callable[[bytes], bytes]]] = {
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".bz2": bz2.decompress,
}
_FORMS: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a file, by the ending of its name: .jsonl, .json, .csv, .tsv or .parquet, and .gz, .xz or .bz2.

    Raises:
        DataError: There is no such file, its ending is none of these, or a row cannot be read; names file and line.
        MissingExtraError: The file is a Parquet file, and pyarrow is not installed.
    """
    if not path.is_file():
        raise DataError(f"There is no data file {path}: give the path of one.")
    form = _form(path)
    try:
        if form == ".parquet":
            return _parquet_rows(_read(path))
        return list(_READERS[form](_read(path).decode("utf-8-sig")))
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as {form[1:]} ({error}): restore the file, or rename it.") from error


def _form(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _UNPACKED]
    if not suffixes or suffixes[-1] not in _FORMS:
        raise DataError(f"{path} has none of the endings {', '.join(_FORMS)}: rename it to what it holds.")
    return suffixes[-1]


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    unpack = _UNPACKED.get(path.suffix.lower())
    return unpack(content) if unpack is not None else content


def _json_lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no object")
        yield row


def _json_array(text: str) -> Iterator[Row]:
    content = json.loads(text)
    # Some sets wrap their list: {"data": [...]}.
    rows = content.get("data", content) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of objects")
    yield from rows


def _table(delimiter: str) -> Callable[[str], Iterator[Row]]:
    return lambda text: csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)


def _parquet_rows(content: bytes) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError.of("parquet", "Reading Parquet files") from error
    rows: list[Row] = parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
    return rows


_READERS: Final[dict[str, Callable[[str], Iterator[Row]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_array,
    ".csv": _table(","),
    ".tsv": _table("\t"),
}
