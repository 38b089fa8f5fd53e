"""Documents from files, and passages of them."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from agent_gym.errors import DataError, MissingExtraError
from agent_gym.tools.search import Document, read_documents, read_recording, recorded_documents
from agent_gym.tools.search.documents import cut_passages

RECORDED = Path(__file__).parents[2] / "golden" / "search" / "recorded.json"


def test_lines_of_json_become_documents(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    rows = [
        {"id": 7, "title": "A", "text": "about a", "url": "https://a.org"},
        {"contents": '"Kings"\nOf the valley.', "id": "k"},
        {"content": "no id"},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    assert list(read_documents(path)) == [
        Document("7", "about a", "A", "https://a.org"),
        Document("k", "Of the valley.", "Kings"),
        Document("3", "no id"),
    ]


@pytest.mark.parametrize(("suffix", "module"), [("gz", gzip), ("xz", lzma)])
def test_lines_of_json_may_be_packed(tmp_path: Path, suffix: str, module: object) -> None:
    path = tmp_path / f"corpus.jsonl.{suffix}"
    path.write_bytes(module.compress(b'{"text": "packed"}\n'))  # type: ignore[attr-defined]
    assert [document.text for document in read_documents(path)] == ["packed"]


def test_rows_of_parquet_become_documents(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    table = pyarrow.table({"id": [1, 2], "text": ["one", "two"], "title": [None, "Two"]})
    parquet.write_table(table, tmp_path / "corpus.parquet")
    assert list(read_documents(tmp_path / "corpus.parquet")) == [Document("1", "one"), Document("2", "two", "Two")]


def test_parquet_without_pyarrow_tells_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agent-gym\[parquet\]'"):
        list(read_documents(tmp_path / "corpus.parquet"))


def test_recorded_searches_become_documents_each_once() -> None:
    documents = list(recorded_documents({"q": "Page 1: one\nPage 2: two\nand more", "r": "Page 1: one", "s": "None."}))
    assert documents == [Document("recorded/1/1", "one"), Document("recorded/1/2", "two\nand more")]


def test_a_real_recording_is_read() -> None:
    texts = [document.text for document in read_documents(RECORDED)]
    assert any(text.startswith("KV38 is an ancient Egyptian tomb") for text in texts)
    assert not any("No search results found" in text for text in texts)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "cannot be read at line 2"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "Row 2 of .* is no document"),
        ("a.jsonl", b'{"title": "x", "text": 5}\n', "Row 1 of .* is no document"),
        ("a.jsonl", b"\xff\xfe\n", "cannot be read at line"),
        ("a.jsonl.gz", b"not packed", "cannot be read at line"),
        ("a.jsonl.xz", b"not packed", "cannot be read at line"),
        ("a.json", b"[1, 2]", "holds no recorded searches"),
        ("a.json", b"{", "cannot be read"),
        ("a.csv", b"", "is no corpus"),
        ("a.parquet", b"PAR1 but no more", "cannot be read"),
    ],
)
def test_a_corpus_that_cannot_be_read_says_where(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem):
        list(read_documents(tmp_path / name))


def test_a_corpus_that_is_not_there_is_an_error_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_recording(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_documents(tmp_path / "none.jsonl"))


def test_passages_overlap_and_leave_no_word_out() -> None:
    text = "  " + " ".join(f"w{number}" for number in range(100)) + "\n"
    passages = [text[start:end].split() for start, end in cut_passages(text, 30, 10)]
    assert [(words[0], words[-1]) for words in passages] == [
        ("w0", "w29"), ("w20", "w49"), ("w40", "w69"), ("w60", "w89"), ("w80", "w99"),
    ]  # fmt: skip


def test_a_short_text_is_one_passage() -> None:
    assert cut_passages("a few words", 30, 10) == [(0, 11)]
    assert cut_passages("", 30, 10) == [(0, 0)]


def test_a_text_without_spaces_is_cut_all_the_same() -> None:
    chinese = "故宫博物院位于北京" * 20
    assert [end - start for start, end in cut_passages(chinese, 50, 10)] == [50, 50, 50, 50, 20]
    assert max(end - start for start, end in cut_passages("x" * 100_000, 50, 10)) <= 50 * 100
