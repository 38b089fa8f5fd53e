"""Dense retrieval over the passages of a local index, and the fusion of several rankings.

The encoder is the user's: a sentence-transformers model in a folder, or any object with `encode`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agent_gym.errors import DataError, MissingExtraError, ToolError
from agent_gym.tools.search.base import Hit, SearchBackend
from agent_gym.tools.search.index import LocalIndex
from agent_gym.tools.search.storage import Array, map_arrays, save_arrays

_NO_SCORE = float("-inf")


class Encoder(Protocol):
    """Turns texts into vectors; safe to call from many threads."""

    name: str
    """Tells its vectors from those of another encoder."""

    def encode(self, texts: Sequence[str], *, query: bool) -> Array:
        """Return a vector for each text, of shape (texts, dimension).

        Args:
            texts: Queries, or passages.
            query: Whether they are queries; some models treat them otherwise.
        """


class SentenceEncoder:
    """A model of sentence-transformers. It is tested with a small stand-in, and no real model was run with it here.

    Args:
        path: Folder of the model, or its name on the Hugging Face hub.
        query_prefix: Put before queries: "query: " for the E5 models.
        passage_prefix: Put before passages: "passage: " for the E5 models.
        device: "cpu", "cuda" and so on; sentence-transformers decides by default.
        batch_size: Texts that are encoded at once.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        query_prefix: str = "",
        passage_prefix: str = "",
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtraError.of("dense", "Dense retrieval") from error
        self._model = SentenceTransformer(str(path), device=device)
        self._prefixes = {True: query_prefix, False: passage_prefix}
        self._batch_size = batch_size
        self.name = f"{path} {query_prefix!r} {passage_prefix!r}"

    def encode(self, texts: Sequence[str], *, query: bool) -> Array:
        """See `Encoder.encode`."""
        prefixed = [self._prefixes[query] + text for text in texts]
        vectors: Array = self._model.encode(
            prefixed, batch_size=self._batch_size, convert_to_numpy=True, show_progress_bar=False
        )
        return vectors


class DenseSearch:
    """Finds documents by the vectors of their passages, by cosine; compares with all of them.

    Args:
        index: The documents.
        encoder: Makes the vectors.
        keep: File of the vectors, made when there is none yet, or one of other documents or of another encoder; they
            are kept in memory by default.
        batch: Passages that are given to the encoder at once.

    Raises:
        DataError: The file cannot be written.
    """

    def __init__(
        self, index: LocalIndex, encoder: Encoder, *, keep: Path | str | None = None, batch: int = 256
    ) -> None:
        self._index = index
        self._encoder = encoder
        about = {"documents": index.key, "encoder": encoder.name}
        vectors = _kept_vectors(Path(keep), about) if keep else None
        if vectors is None:
            vectors = _encoded(index, encoder, batch)
            if keep:
                flat = {"vectors": vectors.reshape(-1)}
                save_arrays(Path(keep), flat, {**about, "dimension": vectors.shape[1]})
        self._vectors = vectors

    def search(self, query: str, count: int) -> list[Hit]:
        """See `SearchBackend.search`."""
        if not query.strip() or not len(self._index):
            return []
        vector = _normalised(self._encoder.encode([query], query=True))[0]
        return self._index.hits(self._vectors @ vector, count, above=_NO_SCORE)


class HybridSearch:
    """Fuses the rankings of several backends by reciprocal rank: a page scores 1 / (k + rank) in each.

    Cormack, Clarke and Büttcher, Reciprocal Rank Fusion, SIGIR 2009; k is 60 there.

    Args:
        backends: Searched one after the other; the text of a hit is that of the first backend that found it.
        k: The larger, the less the first places count.
        depth: Hits that are taken of each backend, at least.
    """

    def __init__(self, backends: Sequence[SearchBackend], *, k: float = 60.0, depth: int = 50) -> None:
        self._backends = list(backends)
        self._k = k
        self._depth = depth

    def search(self, query: str, count: int) -> list[Hit]:
        """See `SearchBackend.search`.

        Raises:
            ToolError: Every backend failed; one that fails while another answers is left out.
        """
        scores: dict[str, float] = {}
        hits: dict[str, Hit] = {}
        for ranking in self._rankings(query, max(count, self._depth)):
            for rank, hit in enumerate(ranking, 1):
                page = hit.url or hit.text
                hits.setdefault(page, hit)
                scores[page] = scores.get(page, 0.0) + 1.0 / (self._k + rank)
        ranked = sorted(scores, key=lambda page: -scores[page])[: max(count, 0)]
        return [Hit(hits[page].title, hits[page].url, hits[page].text, scores[page]) for page in ranked]

    def _rankings(self, query: str, count: int) -> Iterator[list[Hit]]:
        failures: list[ToolError] = []
        for backend in self._backends:
            try:
                yield backend.search(query, count)
            except ToolError as error:
                failures.append(error)
        if failures and len(failures) == len(self._backends):
            raise failures[0]


def _kept_vectors(path: Path, about: dict[str, Any]) -> Array | None:
    if not path.exists():
        return None
    try:
        arrays, kept = map_arrays(path)
    except DataError:
        return None
    dimension = kept.pop("dimension", None)
    return arrays["vectors"].reshape(-1, dimension) if kept == about and dimension else None


def _encoded(index: LocalIndex, encoder: Encoder, batch: int) -> Array:
    texts = [index.passage(number) for number in range(index.passages)]
    parts = [_normalised(encoder.encode(texts[at : at + batch], query=False)) for at in range(0, len(texts), batch)]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def _normalised(vectors: Array) -> Array:
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalised: Array = vectors / np.maximum(lengths, 1e-12)
    return normalised
