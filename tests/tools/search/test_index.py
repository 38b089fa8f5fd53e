"""The local index: what it finds, how it is kept, and what it does with anything that is not a good query."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import ConfigError, DataError, MissingExtraError
from agent_gym.tools.search import Document, LocalIndex, read_documents

RECORDED = Path(__file__).parents[2] / "golden" / "search" / "recorded.json"
SHARED_RECORDING = Path(__file__).parents[4] / "shared" / "data" / "search_cache.json.xz"
CORPUS = [
    Document("1", "Cats sleep for most of the day.", "Cats", "https://www.animals.org/Cats/"),
    Document("2", "Dogs bark at night. A dog that sleeps does not bark.", "Dogs", "https://animals.org/dogs"),
    Document("3", "故宫博物院位于北京市中心。", "故宫", "https://zh.example.org/故宫"),
    Document("4", "", "An empty page about zebras"),
]


@pytest.fixture(scope="module")
def index() -> LocalIndex:
    return LocalIndex.build(CORPUS)


def test_a_document_is_found_by_its_words_and_its_title(index: LocalIndex) -> None:
    assert [hit.url for hit in index.search("who barks: a dog?", 5)] == ["https://animals.org/dogs"]
    assert index.search("zebras", 5)[0].url == "4"
    hit = index.search("cats", 1)[0]
    assert (hit.title, hit.text) == ("Cats", "Cats sleep for most of the day.") and hit.score > 0


def test_the_better_document_comes_first_and_no_more_than_asked_for(index: LocalIndex) -> None:
    assert [hit.title for hit in index.search("sleep bark dogs", 5)] == ["Dogs", "Cats"]
    assert [hit.title for hit in index.search("sleep bark dogs", 1)] == ["Dogs"]
    assert index.search("cats", 0) == [] and index.search("cats", -1) == []


def test_chinese_is_found(index: LocalIndex) -> None:
    for query in ("北京的博物院", "宫", "故宫在哪里?"):
        assert [hit.title for hit in index.search(query, 5)] == ["故宫"]


@pytest.mark.parametrize("query", ["", "   ", "?!", "unheard", "\x00", "\ud800", "()[]*+?{}\\", "the"])
def test_what_cannot_be_found_has_no_hits(query: str) -> None:
    assert LocalIndex.build(CORPUS[:1]).search(query.replace("the", "xyz"), 5) == []


def test_an_index_of_nothing_finds_nothing() -> None:
    for documents in ([], [Document("1", "")], [Document("1", "...", "!")]):
        empty = LocalIndex.build(documents)
        assert empty.search("cats", 5) == [] and len(empty) == len(documents)


def test_equal_documents_keep_the_order_of_the_corpus() -> None:
    index = LocalIndex.build(Document(str(number), "the same words") for number in range(50))
    assert [hit.url for hit in index.search("same", 7)] == [str(number) for number in range(7)]


def test_a_long_document_is_one_hit_with_its_best_passage() -> None:
    filler = " ".join(f"filler{number % 50}" for number in range(3000))
    long = f"{filler} Ärger: the secret of the pyramid is thirteen. {filler}"
    index = LocalIndex.build([Document("long", long), *CORPUS], passage_words=100, overlap=20)
    assert index.passages > 60
    hits = index.search("secret pyramid", 5)
    assert [hit.url for hit in hits] == ["long"]
    assert "Ärger: the secret of the pyramid is thirteen." in hits[0].text
    assert len(hits[0].text.split()) == 100


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=80), max_size=6), query=st.text(max_size=40))
def test_any_texts_and_any_query(texts: list[str], query: str) -> None:
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    index = LocalIndex.build(documents, passage_words=5, overlap=2)
    for hit in index.search(query, 3):
        assert hit.text in texts[int(hit.url)]
    for document in documents:
        assert index.get(document.id) == document


def test_whole_documents_are_had_by_url_however_it_is_spelt(index: LocalIndex) -> None:
    spellings = ["https://www.animals.org/Cats/", "http://animals.org/Cats", "HTTPS://ANIMALS.ORG/Cats#sleep",
                 " animals.org/Cats ", "1"]  # fmt: skip
    assert [index.get(spelling) for spelling in spellings] == [CORPUS[0]] * 5
    assert index.get("https://zh.example.org/%E6%95%85%E5%AE%AB") == CORPUS[2]
    for address in ("https://animals.org/cats", "", "https://", "5", "://", "\ud800"):
        assert index.get(address) is None


def test_an_index_that_is_kept_answers_as_before(index: LocalIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "kept.index")
    kept = LocalIndex.load(tmp_path / "kept.index")
    assert kept.key == index.key and len(kept) == 4
    for query in ("dogs that sleep", "北京", ""):
        assert kept.search(query, 5) == index.search(query, 5)
    assert kept.get("2") == CORPUS[1]


def test_the_key_tells_documents_and_cuts_apart(index: LocalIndex) -> None:
    assert LocalIndex.build(CORPUS).key == index.key
    others = [
        LocalIndex.build(CORPUS[:3]),
        LocalIndex.build(CORPUS, passage_words=100),
        LocalIndex.build([Document("1Cats", "", ""), Document("", "", "")]),
        LocalIndex.build([Document("1", "Cats", ""), Document("", "", "")]),
    ]
    assert len({index.key, *(other.key for other in others)}) == 5


def write(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_a_corpus_is_indexed_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", "cats")
    kept = tmp_path / "corpus.jsonl.index"
    assert LocalIndex.open(corpus).search("cats", 1)
    written = kept.stat().st_mtime_ns
    assert LocalIndex.open(corpus).search("cats", 1)
    assert kept.stat().st_mtime_ns == written

    # The same size and the same time: only the content tells.
    times = corpus.stat()
    write(corpus, "dogs")
    os.utime(corpus, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert LocalIndex.open(corpus).search("dogs", 1) and not LocalIndex.open(corpus).search("cats", 1)


def test_other_passages_and_a_damaged_file_are_built_anew(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", " ".join(f"word{number}" for number in range(100)))
    folder = tmp_path / "kept"
    assert LocalIndex.open(corpus, folder=folder, passage_words=50, overlap=0).passages == 2
    assert LocalIndex.open(corpus, folder=folder, passage_words=25, overlap=0).passages == 4
    kept = folder / "corpus.jsonl.index"
    kept.write_bytes(kept.read_bytes()[:-64])
    assert LocalIndex.open(corpus, folder=folder, passage_words=25, overlap=0).search("word99", 1)
    assert LocalIndex.open(kept).passages == 4


def test_an_index_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from agent_gym.tools.search import LocalIndex, read_documents;"
        "LocalIndex.build(read_documents(Path(sys.argv[1]))).save(sys.argv[2])"
    )
    files = []
    for seed in ("1", "2"):
        files.append(tmp_path / f"{seed}.index")
        subprocess.run(
            [sys.executable, "-c", code, str(RECORDED), str(files[-1])],
            env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
        )  # fmt: skip
    assert files[0].read_bytes() == files[1].read_bytes()


def test_many_threads_search_at_once(index: LocalIndex) -> None:
    expected = index.search("dogs that sleep", 5)
    found: list[object] = []

    def search() -> None:
        found.extend(index.search("dogs that sleep", 5) == expected for _ in range(50))

    threads = [threading.Thread(target=search) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 400


def test_searching_says_nothing(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        LocalIndex.build(CORPUS).search("cats", 1)
    assert capsys.readouterr() == ("", "") and not caplog.records


def test_errors_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="must be fewer"):
        LocalIndex.build([], passage_words=10, overlap=10)
    with pytest.raises(DataError, match="cannot be read"):
        LocalIndex.open(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is no index"):
        LocalIndex.open(tmp_path / "none.index")
    with pytest.raises(DataError, match="name a folder that can be written"):
        (tmp_path / "file").write_text("")
        LocalIndex.build(CORPUS).save(tmp_path / "file" / "a.index")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r"agent-gym\[search\]"):
        LocalIndex.build(CORPUS)


@pytest.mark.skipif(not SHARED_RECORDING.exists(), reason="the shared recording of searches is not here")
def test_most_recorded_queries_find_one_of_their_own_pages() -> None:
    from agent_gym.tools.search import read_recording
    from agent_gym.tools.search.documents import recorded_pages

    recording = read_recording(SHARED_RECORDING)
    index = LocalIndex.build(read_documents(SHARED_RECORDING))
    queries = [query for query in list(recording)[::10] if recorded_pages(recording[query])]
    own = sum(any(hit.text in recorded_pages(recording[query]) for hit in index.search(query, 5)) for query in queries)
    assert own / len(queries) > 0.9
