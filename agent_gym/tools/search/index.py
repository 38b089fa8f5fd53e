"""The local index: BM25 over the passages of a corpus, kept in one file that processes share.

Knows nothing of tools or the web.
"""

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import numpy as np

from agent_gym.errors import ConfigError, DataError, MissingExtraError
from agent_gym.tools.search.base import Document, Hit
from agent_gym.tools.search.documents import cut_passages, file_digest, read_documents
from agent_gym.tools.search.storage import Array, Keys, Strings, map_arrays, save_arrays
from agent_gym.tools.search.words import document_words, query_words

SUFFIX = ".index"
_FORMAT = "passages of words 1"
"""To be changed with everything that makes an old index wrong: the words of a text, the arrays."""


class LocalIndex:
    """Finds documents by the words of their passages, with BM25, and returns whole documents by their address.

    Made by `build` from documents or by `open` from a file. A search reads only what it needs, so that any number of
    threads may search; an index that was opened is mapped, so that processes share it and it need not fit into memory.

    Raises:
        MissingExtraError: bm25s is not installed.
    """

    def __init__(self, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
        self._arrays = dict(arrays)
        self._about = dict(about)
        self._fields = Strings(arrays["fields"], arrays["field_ends"])
        self._texts = Strings(arrays["texts"], arrays["text_ends"])
        self._words = Keys(arrays["word_digests"], arrays["word_numbers"])
        self._addresses = Keys(arrays["address_digests"], arrays["address_numbers"])
        self._engine = _import_bm25s().BM25()
        self._engine.nonoccurrence_array = None
        self._engine.scores = {name: arrays[name] for name in ("data", "indices", "indptr")}
        self._engine.scores["num_docs"] = self.passages

    @classmethod
    def build(cls, documents: Iterable[Document], *, passage_words: int = 200, overlap: int = 40) -> Self:
        """Index documents in memory; that takes some 6 kB for a passage of a hundred words.

        Args:
            documents: What can be found.
            passage_words: Words of a passage at most; a document is found by its best passage.
            overlap: Words that a passage shares with the next, so that no sentence is cut in all of them.

        Raises:
            ConfigError: The overlap is not shorter than the passage.
        """
        builder = _Builder(passage_words, overlap)
        for document in documents:
            builder.add(document)
        return cls(builder.arrays(), builder.about())

    @classmethod
    def open(
        cls, path: Path | str, *, folder: Path | str | None = None, passage_words: int = 200, overlap: int = 40
    ) -> Self:
        """Open the index of a corpus, built when there is none yet, or one of another content or other settings.

        Args:
            path: The corpus, see `read_documents`, or an index that was saved (".index").
            folder: Where the index is kept, as "<name of the corpus>.index"; beside the corpus by default.
            passage_words: See `build`; a saved index has its own.
            overlap: See `build`.

        Raises:
            DataError: The corpus cannot be read, or the index cannot be read or kept.
            ConfigError: See `build`.
        """
        path = Path(path)
        if path.suffix == SUFFIX:
            return cls.load(path)
        kept = Path(folder or path.parent) / (path.name + SUFFIX)
        source = {"file": file_digest(path), "passage_words": passage_words, "overlap": overlap, "format": _FORMAT}
        if kept.exists():
            try:
                arrays, about = map_arrays(kept)
                if about.get("source") == source:
                    return cls(arrays, about)
            except DataError:
                logging.getLogger(__name__).warning("%s cannot be read: it is built anew.", kept)
        built = cls.build(read_documents(path), passage_words=passage_words, overlap=overlap)
        built._about["source"] = source
        built.save(kept)
        return cls.load(kept)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Map an index that was saved.

        Raises:
            DataError: It cannot be read, or another version of agent_gym saved it.
        """
        arrays, about = map_arrays(Path(path))
        if about.get("format") != _FORMAT:
            raise DataError(f"{path} was saved by another version of agent_gym: build the index anew.")
        return cls(arrays, about)

    def save(self, path: Path | str) -> None:
        """Keep the index in a file, for `load`.

        Raises:
            DataError: It cannot be written.
        """
        save_arrays(Path(path), self._arrays, self._about)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def passages(self) -> int:
        """Number of passages."""
        return len(self._arrays["passage_starts"])

    @property
    def key(self) -> str:
        """Digest of the documents and of how they were cut."""
        return str(self._about["key"])

    def search(self, query: str, count: int) -> list[Hit]:
        """See `SearchBackend.search`; the text of a hit is the best passage of its document."""
        words = (self._words.find(word) for word in query_words(query))
        known = [word for word in words if word is not None]
        if not known:
            return []
        return self.hits(self._engine.get_scores_from_ids(known), count, above=0.0)

    def hits(self, scores: Array, count: int, *, above: float) -> list[Hit]:
        """Return the documents with the best passages; of equal ones those that come first in the corpus.

        Args:
            scores: One for each passage.
            count: Hits at most.
            above: Documents whose score is not larger are left out.
        """
        firsts = self._arrays["first_passages"]
        by_document = scores if len(self) == self.passages else np.maximum.reduceat(scores, firsts[:-1])
        found = []
        for number in best(by_document, count, above):
            first, end = int(firsts[number]), int(firsts[number + 1])
            passage = first + int(np.argmax(scores[first:end]))
            document = self.document(number, text=self.passage(passage))
            found.append(Hit(document.title, document.address, document.text, float(scores[passage])))
        return found

    def passage(self, number: int) -> str:
        """Return the text of a passage."""
        starts, ends = self._arrays["passage_starts"], self._arrays["passage_ends"]
        return self._texts.part(int(starts[number]), int(ends[number]))

    def document(self, number: int, *, text: str | None = None) -> Document:
        """Return a document by its place in the corpus, with its whole text unless another is given."""
        identity, title, url = self._fields[number].split("\0")
        return Document(identity, self._texts[number] if text is None else text, title, url)

    def get(self, address: str) -> Document | None:
        """Return the whole document that has this url or id, or None.

        A url is known with and without "https://", "www.", "#..." and a slash at its end.
        """
        for spelling in (address.strip(), f"https://{address.strip()}"):
            number = self._addresses.find(_address_key(spelling))
            if number is not None:
                return self.document(number // 2)
        return None


def best(scores: Array, count: int, above: float) -> list[int]:
    """Return the numbers of the largest scores, in order; of equal ones the first."""
    count = min(count, int(np.count_nonzero(scores > above)))
    if count < 1:
        return []
    least = np.partition(scores, -count)[-count]
    candidates = np.flatnonzero(scores >= least)
    order = np.lexsort((candidates, -scores[candidates]))
    return [int(number) for number in candidates[order][:count]]


class _Builder:
    """Takes documents one by one and makes the arrays of an index of them."""

    def __init__(self, passage_words: int, overlap: int) -> None:
        if not 0 <= overlap < passage_words:
            raise ConfigError(f"A passage of {passage_words} words cannot overlap by {overlap}: it must be fewer.")
        self._cut = (passage_words, overlap)
        self._digest = blake2b(repr((_FORMAT, passage_words, overlap)).encode(), digest_size=16)
        # A word that is new takes the next number.
        self._vocabulary: defaultdict[str, int] = defaultdict(itertools.count().__next__)
        self._passages: list[list[int]] = []
        self._fields: list[str] = []
        self._texts: list[str] = []
        self._spans: list[tuple[int, int]] = []
        self._first_passages = [0]
        self._bytes = 0

    def add(self, document: Document) -> None:
        fields = "\0".join(part.replace("\0", " ") for part in (document.id, document.title, document.url))
        for part in (fields, document.text):
            data = part.encode("utf-8", "replace")
            self._digest.update(len(data).to_bytes(8) + data)
        title = self._numbers(document.title)
        passages = cut_passages(document.text, *self._cut)
        for start, end in passages:
            self._passages.append(title + self._numbers(document.text[start:end]))
        self._spans += [(self._bytes + start, self._bytes + end) for start, end in _in_bytes(document.text, passages)]
        self._bytes += len(data)
        self._fields.append(fields)
        self._texts.append(document.text)
        self._first_passages.append(len(self._passages))

    def about(self) -> dict[str, Any]:
        return {"format": _FORMAT, "key": self._digest.hexdigest()}

    def arrays(self) -> dict[str, Array]:
        fields, texts = Strings.of(self._fields), Strings.of(self._texts)
        words, addresses = Keys.of(self._vocabulary), Keys.of(self._address_keys())
        spans = np.array(self._spans, np.int64).reshape(-1, 2)
        return {
            **self._scores(),
            "fields": fields.data,
            "field_ends": fields.ends,
            "texts": texts.data,
            "text_ends": texts.ends,
            "word_digests": words.digests,
            "word_numbers": words.numbers,
            "address_digests": addresses.digests,
            "address_numbers": addresses.numbers,
            "first_passages": np.array(self._first_passages, np.int64),
            "passage_starts": np.ascontiguousarray(spans[:, 0]),
            "passage_ends": np.ascontiguousarray(spans[:, 1]),
        }

    def _scores(self) -> dict[str, Array]:
        if not self._vocabulary:  # bm25s cannot count what is not there
            return {"data": np.zeros(0, np.float32), "indices": np.zeros(0, np.int32), "indptr": np.zeros(1, np.int64)}
        engine = _import_bm25s().BM25()
        engine.index((self._passages, self._vocabulary), create_empty_token=False, show_progress=False)
        return {name: engine.scores[name] for name in ("data", "indices", "indptr")}

    def _numbers(self, text: str) -> list[int]:
        return list(map(self._vocabulary.__getitem__, document_words(text)))

    def _address_keys(self) -> Iterable[str]:
        for fields in self._fields:
            identity, _, url = fields.split("\0")
            yield _address_key(identity)
            yield _address_key(url or identity)


def _in_bytes(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return places in a text as places in its UTF-8 form."""
    if text.isascii():
        return spans
    places, before, at = {0: 0}, 0, 0
    for place in sorted({place for span in spans for place in span}):
        at += len(text[before:place].encode("utf-8", "replace"))
        places[place] = at
        before = place
    return [(places[start], places[end]) for start, end in spans]


def _address_key(address: str) -> str:
    _, is_url, rest = address.partition("://")
    if not is_url:
        return address
    host, _, path = rest.partition("#")[0].partition("/")
    return f"//{host.lower().removeprefix('www.')}/{unquote(path).rstrip('/')}"


def _import_bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError.of("search", "The local search index") from error
    # It sets its logger to tell every step; in a program that logs, that is a line for each query.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
