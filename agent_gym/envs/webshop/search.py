"""Search over the products of a shop: BM25 over their texts, as the original does."""

from collections.abc import Sequence

from agent_gym.envs.webshop.catalogue import Product
from agent_gym.errors import MissingExtraError

RESULTS = 50
"""Products that a search returns, at most."""


class SearchIndex:
    """An index of title, category, description, bullet points and option values.

    Raises:
        MissingExtraError: bm25s is not installed.
    """

    def __init__(self, products: Sequence[Product]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise MissingExtraError.of("webshop", "Searching the shop") from error
        self._products = products
        self._bm25s = bm25s
        self._engine = bm25s.BM25()
        self._engine.index(self._tokens([_text(product) for product in products]), show_progress=False)

    def search(self, query: str) -> tuple[Product, ...]:
        """Return the products that share words with the query, the best first, 50 at most."""
        tokens = self._tokens([query])
        if not tokens[0]:
            return ()
        count = min(RESULTS, len(self._products))
        numbers, scores = self._engine.retrieve(tokens, k=count, show_progress=False, n_threads=0)
        ranked = sorted(zip(-scores[0], numbers[0], strict=True))
        return tuple(self._products[number] for score, number in ranked if score < 0)

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        tokens: list[list[str]] = self._bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
        return tokens


def _text(product: Product) -> str:
    values = (value for values in product.options.values() for value in values)
    return " ".join(
        (product.title, product.category, product.description, *product.bullet_points, *product.attributes, *values)
    )
