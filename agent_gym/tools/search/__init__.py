"""Search: the tool `SearchTool` over a local index, recorded searches, or search engines on the web."""

from agent_gym.tools.search.apis import ENGINES, Bing, Brave, SearXNG, Serper, WebSearch
from agent_gym.tools.search.base import Document, Hit, SearchBackend
from agent_gym.tools.search.cache import SearchCache
from agent_gym.tools.search.dense import DenseSearch, Encoder, HybridSearch, SentenceEncoder
from agent_gym.tools.search.documents import read_documents, read_recording, recorded_documents
from agent_gym.tools.search.index import LocalIndex
from agent_gym.tools.search.recorded import RecordedSearch
from agent_gym.tools.search.tool import SearchTool, open_backend

__all__ = [
    "ENGINES",
    "Bing",
    "Brave",
    "DenseSearch",
    "Document",
    "Encoder",
    "Hit",
    "HybridSearch",
    "LocalIndex",
    "RecordedSearch",
    "SearXNG",
    "SearchBackend",
    "SearchCache",
    "SearchTool",
    "SentenceEncoder",
    "Serper",
    "WebSearch",
    "open_backend",
    "read_documents",
    "read_recording",
    "recorded_documents",
]
