"""Dense retrieval with a small stand-in for a model, and the fusion of rankings."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from agent_gym.errors import MissingExtraError, ToolError
from agent_gym.tools.search import DenseSearch, Document, Hit, HybridSearch, LocalIndex, SentenceEncoder


class Topics:
    """Encodes a text as how often it speaks of each of three topics, in whatever words."""

    name = "topics 1"
    topics = (("cat", "kitten", "feline"), ("car", "engine", "automobile"), ("bread", "flour", "bakery"))

    def __init__(self) -> None:
        self.encoded: list[tuple[bool, int]] = []

    def encode(self, texts: Sequence[str], *, query: bool) -> Any:
        self.encoded.append((query, len(texts)))
        return np.array([[10.0 * sum(text.lower().count(w) for w in topic) for topic in self.topics] for text in texts])


INDEX = LocalIndex.build(
    [
        Document("cats", "A kitten, being feline, purrs."),
        Document("cars", "An engine drives the wheels."),
        Document("bread", "Flour and water. " * 50 + "The kitten of the bakery.", "Bread"),
    ],
    passage_words=20,
    overlap=0,
)


def test_a_document_is_found_by_its_meaning_without_a_word_in_common() -> None:
    dense = DenseSearch(INDEX, Topics())
    hits = dense.search("automobile", 2)
    assert INDEX.search("automobile", 2) == []
    assert hits[0].url == "cars" and hits[0].score == pytest.approx(1.0)
    assert [hit.url for hit in dense.search("cat", 3)][:2] == ["cats", "bread"]


def test_passages_are_encoded_in_batches_and_not_as_queries() -> None:
    encoder = Topics()
    dense = DenseSearch(INDEX, encoder, batch=4)
    counts = [count for _, count in encoder.encoded]
    assert sum(counts) == INDEX.passages and max(counts) == 4 and not any(query for query, _ in encoder.encoded)
    dense.search("cat", 1)
    assert encoder.encoded[-1] == (True, 1)


def test_vectors_are_kept_until_documents_or_encoder_change(tmp_path: Path) -> None:
    keep = tmp_path / "vectors.index"
    first, second, third = Topics(), Topics(), Topics()
    expected = DenseSearch(INDEX, first, keep=keep).search("bakery", 3)
    assert DenseSearch(INDEX, second, keep=keep).search("bakery", 3) == expected
    assert second.encoded == [(True, 1)]
    third.name = "topics 2"
    DenseSearch(INDEX, third, keep=keep)
    assert third.encoded
    keep.write_bytes(b"damaged")
    assert DenseSearch(INDEX, Topics(), keep=keep).search("bakery", 3) == expected


def test_an_empty_query_and_an_empty_index_have_no_hits() -> None:
    assert DenseSearch(INDEX, Topics()).search("  ", 3) == []
    assert DenseSearch(LocalIndex.build([]), Topics()).search("cat", 3) == []


def test_fusion_counts_the_places_in_each_ranking() -> None:
    class Fixed:
        def __init__(self, *urls: str) -> None:
            self.hits = [Hit(url, url, f"text of {url}") for url in urls]

        def search(self, query: str, count: int) -> list[Hit]:
            return self.hits[:count]

    fused = HybridSearch([Fixed("a", "b", "c"), Fixed("c", "b", "d")], k=60).search("q", 3)
    assert [hit.url for hit in fused] == ["c", "b", "a"]
    assert [hit.score for hit in fused] == pytest.approx([1 / 63 + 1 / 61, 2 / 62, 1 / 61])


def test_words_and_meaning_together_find_what_either_finds() -> None:
    hits = HybridSearch([INDEX, DenseSearch(INDEX, Topics())]).search("wheels automobile", 3)
    assert hits[0].url == "cars"


def test_a_backend_that_fails_is_left_out_unless_all_do() -> None:
    class Broken:
        def search(self, query: str, count: int) -> list[Hit]:
            raise ToolError("It is out of order.")

    assert HybridSearch([Broken(), INDEX]).search("kitten", 3)
    with pytest.raises(ToolError, match="out of order"):
        HybridSearch([Broken(), Broken()]).search("kitten", 3)


def test_a_model_of_sentence_transformers_is_given_its_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    class SentenceTransformer:
        def __init__(self, path: str, device: str | None = None) -> None:
            self.path, self.device = path, device

        def encode(self, texts: list[str], **options: Any) -> Any:
            assert options == {"batch_size": 8, "convert_to_numpy": True, "show_progress_bar": False}
            return np.array([[float(len(text)), float(text.startswith("query: "))] for text in texts])

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    encoder = SentenceEncoder("model", query_prefix="query: ", passage_prefix="passage: ", batch_size=8)
    assert encoder.encode(["abc"], query=True).tolist() == [[10.0, 1.0]]
    assert encoder.encode(["abc"], query=False).tolist() == [[12.0, 0.0]]
    assert encoder.name != SentenceEncoder("model").name


def test_without_sentence_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"agent-gym\[dense\]"):
        SentenceEncoder("model")
