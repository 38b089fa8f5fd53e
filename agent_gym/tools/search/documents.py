"""Documents from files: JSON lines, parquet, and recorded searches; and cutting them into passages."""

import gzip
import json
import lzma
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, TextIO

from agent_gym.errors import DataError, MissingExtraError
from agent_gym.tools.search.base import Document
from agent_gym.tools.search.words import SPACELESS

_TEXT_FIELDS = ("text", "contents", "content", "body")
_RECORDED_PAGE = re.compile(r"^Page \d+: ?", re.MULTILINE)
# A character counts as a word where a language has no spaces; a word without end, such as base64, as several.
_PASSAGE_WORD = re.compile(rf"[{SPACELESS}]|[^\s{SPACELESS}]{{1,100}}")


def read_documents(path: Path) -> Iterator[Document]:
    """Read the documents of a file.

    A row has a text ("text", "contents", "content" or "body") and perhaps "id", "title" and "url". The first line of
    "contents" is the title where there is none, as in the corpora of retrieval-augmented question answering.

    Args:
        path: ".jsonl", ".parquet", or recorded searches as ".json"; all but parquet may end in ".gz" or ".xz".

    Raises:
        DataError: It cannot be read, or a row is no document; the message has its number.
        MissingExtraError: It is parquet, and pyarrow is not installed.
    """
    kind = path.name.removesuffix(".gz").removesuffix(".xz").rpartition(".")[2]
    if kind == "json":
        yield from recorded_documents(read_recording(path))
        return
    if kind not in ("jsonl", "parquet"):
        raise DataError(f"{path} is no corpus: documents come as .jsonl, .jsonl.gz, .jsonl.xz, .parquet or .json.")
    rows = _parquet_rows(path) if kind == "parquet" else _json_rows(path)
    for number, row in enumerate(rows, 1):
        yield _document(row, number, path)


def read_recording(path: Path) -> dict[str, str]:
    """Read recorded searches: a JSON object of queries and the text of their results.

    Raises:
        DataError: It cannot be read, or it is something else.
    """
    try:
        with _open_text(path) as file:
            recording = json.load(file)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise DataError(f"The recorded searches in {path} cannot be read: {error}.") from error
    if not isinstance(recording, dict) or not all(isinstance(text, str) for text in recording.values()):
        raise DataError(f'{path} holds no recorded searches: they are one JSON object, {{"query": "Page 1: ..."}}.')
    return recording


def recorded_documents(recording: Mapping[str, str]) -> Iterator[Document]:
    r"""Return the pages of recorded searches as documents, each once; the id tells the query's number and the page's.

    Args:
        recording: Text of the results of each query: "Page 1: ...\nPage 2: ...".
    """
    seen: set[str] = set()
    for number, text in enumerate(recording.values(), 1):
        for page, passage in enumerate(recorded_pages(text), 1):
            if passage not in seen:
                seen.add(passage)
                yield Document(id=f"recorded/{number}/{page}", text=passage)


def recorded_pages(text: str) -> list[str]:
    """Cut the text of recorded results into pages; text without marks says that there were none."""
    return [page for page in (part.strip() for part in _RECORDED_PAGE.split(text)[1:]) if page]


def cut_passages(text: str, words: int, overlap: int) -> list[tuple[int, int]]:
    """Return where the passages of a text begin and end, in characters; one that is empty has one passage.

    Args:
        text: The text.
        words: Words in a passage, at most; a character counts as one where a language has no spaces.
        overlap: Words that a passage shares with the next.
    """
    if len(text) <= words or (text.isascii() and len(text) <= 20 * words and len(text.split()) <= words):
        return [(0, len(text))]
    places = [match.span() for match in _PASSAGE_WORD.finditer(text)]
    if len(places) <= words:
        return [(0, len(text))]
    starts = range(0, len(places) - overlap, words - overlap)
    return [(places[start][0], places[min(start + words, len(places)) - 1][1]) for start in starts]


def file_digest(path: Path) -> str:
    """Return a digest of the content of a file.

    Raises:
        DataError: It cannot be read.
    """
    digest = blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"The corpus {path} cannot be read: {error}.") from error
    return digest.hexdigest()


def _json_rows(path: Path) -> Iterator[Any]:
    number = 0
    try:
        with _open_text(path) as file:
            for line in file:
                number += 1
                if line.strip():
                    yield json.loads(line)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise DataError(f"The corpus {path} cannot be read at line {number}: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError.of("parquet", "Reading a corpus from parquet") from error
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (OSError, ArrowException) as error:
        raise DataError(f"The corpus {path} cannot be read: {error}.") from error


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _document(row: Any, number: int, path: Path) -> Document:
    field = next((name for name in _TEXT_FIELDS if isinstance(row, dict) and isinstance(row.get(name), str)), None)
    if field is None:
        raise DataError(
            f"Row {number} of {path} is no document: it has no text under any of {', '.join(_TEXT_FIELDS)}."
        )
    title, text = str(row.get("title") or ""), row[field]
    if field == "contents" and not title and "\n" in text:
        title, _, text = text.partition("\n")
        title = title.strip().strip('"')
    identity = row.get("id")
    return Document(
        id=str(number if identity is None else identity), text=text, title=title, url=str(row.get("url") or "")
    )
