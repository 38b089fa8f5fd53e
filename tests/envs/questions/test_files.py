"""Rows from files of every kind, and what is said of files that hold none."""

import bz2
import gzip
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_gym.envs.questions import read_rows
from agent_gym.errors import DataError, MissingExtraError

ROWS = [{"question": "Où?", "answer": "ici, là"}, {"question": 'a "b"\nc', "answer": "d"}]
JSON_LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"
QA = Path(__file__).parents[4] / "shared/data/qa"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", JSON_LINES),
        ("rows.json", json.dumps(ROWS)),
        ("wrapped.json", json.dumps({"version": 1, "data": ROWS})),
        ("rows.csv", '\ufeffquestion,answer\nOù?,"ici, là"\n"a ""b""\nc",d\n'),
        ("rows.tsv", 'question\tanswer\nOù?\tici, là\n"a ""b""\nc"\td\n'),
    ],
)
def test_text_of_every_form_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_rows(tmp_path / name) == ROWS


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress), ("", bytes)]
)
def test_compressed_files_are_unpacked(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(pack(JSON_LINES.encode()))
    assert read_rows(path) == ROWS


def test_parquet_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet") == ROWS


def test_without_pyarrow_the_extra_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"agent-gym\[parquet\]"):
        read_rows(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.jsonl", b'{"a": 1}\n{"a": \n', "line 2"),
        ("rows.jsonl", b'{"a": 1}\n[1]\n', "line 2 is no object"),
        ("rows.json", b'{"a": 1}', "no list of objects"),
        ("rows.jsonl", b"\xff\xfe", "cannot be read as jsonl"),
        ("rows.jsonl.gz", b"no gzip", "cannot be read as jsonl"),
        ("rows.jsonl.xz", b"no xz", "cannot be read as jsonl"),
        ("rows.json", b"[" * 200_000, "cannot be read as json"),
        ("rows.txt", b"", "none of the endings"),
        ("rows", b"", "none of the endings"),
        ("rows.parquet", b"PAR1", "cannot be read as parquet"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_rows(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no data file .*missing\.jsonl"):
        read_rows(tmp_path / "missing.jsonl")


@pytest.mark.skipif(not QA.is_dir(), reason="the shared data is not here")
def test_real_question_files_are_read() -> None:
    counts = {path.stem: len(read_rows(path)) for path in QA.glob("*.jsonl")}
    assert counts == {
        "2wiki": 200,
        "bamboogle": 125,
        "hotpotqa": 200,
        "musique": 200,
        "simpleqa": 500,
        "webwalker": 200,
    }
