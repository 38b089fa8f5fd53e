"""The tool with which an agent searches, whatever answers."""

import os
import re
from functools import lru_cache
from pathlib import Path

from agent_gym.errors import ConfigError, ToolError, UnknownIdError
from agent_gym.tools.base import Tool
from agent_gym.tools.search.apis import ENGINES
from agent_gym.tools.search.base import SearchBackend, shorten, show_hits
from agent_gym.tools.search.index import LocalIndex
from agent_gym.tools.search.recorded import RecordedSearch

_SEVERAL = re.compile(r"[;\n]+")
_SHOWN_QUERY = 100
_KEYS = {name: engine.key_variable for name, engine in ENGINES.items() if engine.key_variable}


class SearchTool(Tool):
    """Searches a local index, recorded searches or the web.

    Args:
        backend: What answers: any `SearchBackend`, a file (see `open_backend`) or the name of an engine of `ENGINES`.
            By default the first of these engines whose key is in the environment.
        count: Hits that are shown of a query, at most.
        snippet_characters: Longest text that is shown of a hit.
        queries: Queries in one call, at most, separated by ";" or lines; those beyond are not answered.

    Raises:
        ToolError: No backend is given and the environment has no key, or the backend cannot be made.
        ConfigError: A number is less than 1.
    """

    blocking = True
    shared = ("backend",)

    def __init__(
        self,
        backend: SearchBackend | Path | str | None = None,
        *,
        count: int = 5,
        snippet_characters: int = 800,
        queries: int = 1,
    ) -> None:
        if min(count, snippet_characters, queries) < 1:
            raise ConfigError("A search tool shows at least one hit, one character and one query.")
        if backend is None:
            backend = _engine_of_environment()
        self.backend = open_backend(backend) if isinstance(backend, Path | str) else backend
        self._count = count
        self._snippet_characters = snippet_characters
        self._queries = queries

    def run(self, query: str) -> str:
        """Search for pages.

        Args:
            query: What to search for.
        """
        queries = [part.strip() for part in _SEVERAL.split(query)] if self._queries > 1 else [query.strip()]
        queries = [part for part in queries if part]
        if not queries:
            raise ToolError("The query is empty: say what to search for.")
        if len(queries) == 1:
            return self._answer(queries[0])
        answers = [f"Results for {_shown(part)}:\n{self._answer(part)}" for part in queries[: self._queries]]
        if len(queries) > self._queries:
            answers.append(f"The queries after the first {self._queries} were not answered.")
        return "\n\n".join(answers)

    def _answer(self, query: str) -> str:
        hits = self.backend.search(query, self._count)
        if not hits:
            return f"Nothing was found for {_shown(query)}: try other words."
        return show_hits(hits, self._snippet_characters)


def open_backend(reference: Path | str) -> SearchBackend:
    """Return what answers searches, by name; all the tools of a process share the index of a file, or an engine.

    Args:
        reference: An engine of `ENGINES`; recorded searches (".json", perhaps ".xz" or ".gz"); or a corpus or an
            index, see `LocalIndex.open`.

    Raises:
        UnknownIdError: There is neither such an engine nor such a file.
        ToolError: The engine cannot be made.
        DataError: The file cannot be read.
    """
    if str(reference) in ENGINES:
        settings = {name: os.environ.get(name, "") for name in (*_KEYS.values(), "SEARXNG_URL")}
        return _open_engine(str(reference), tuple(settings.items()))
    path = Path(reference)
    if not path.is_file():
        raise UnknownIdError.of("search engine or file", str(reference), ENGINES)
    state = path.stat()
    return _open_file(path.resolve(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _open_engine(name: str, settings: tuple[tuple[str, str], ...]) -> SearchBackend:
    """Make an engine, anew where the environment has another key than before."""
    return ENGINES[name]()


@lru_cache(maxsize=8)
def _open_file(path: Path, changed: int, size: int) -> SearchBackend:
    """Open a file that has this time and size: one that has been written anew is opened anew."""
    recorded = path.name.removesuffix(".gz").removesuffix(".xz").endswith(".json")
    return RecordedSearch(path) if recorded else LocalIndex.open(path)


def _engine_of_environment() -> str:
    variables = {**{name: _KEYS[name] for name in ("serper", "brave")}, "searxng": "SEARXNG_URL"}
    for name, variable in variables.items():
        if os.environ.get(variable):
            return name
    raise ToolError(
        "The search tool has nothing to search: give SearchTool a corpus, an index or a backend, or set one of "
        f"{', '.join(sorted(variables.values()))}."
    )


def _shown(query: str) -> str:
    return repr(shorten(query, _SHOWN_QUERY))
