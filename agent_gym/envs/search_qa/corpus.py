"""What the agent searches: pages of the generated worlds, pages that came with the questions, a file, or an engine."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from agent_gym.envs.search_qa.loading import Question
from agent_gym.envs.search_qa.world import World
from agent_gym.errors import ConfigError
from agent_gym.tools.base import Tool
from agent_gym.tools.browse import BrowseTool, CorpusPages
from agent_gym.tools.search import Document, LocalIndex, SearchBackend, SearchTool, open_backend
from agent_gym.tools.search.apis import ENGINES
from agent_gym.tools.toolbox import Toolbox

Corpus = SearchBackend | Path | str


def world_index(world: World) -> LocalIndex:
    """Return the index of the pages of a world.

    A page is opened by its subject's name, which is its whole address: what a search shows of it stays short.
    """
    return LocalIndex.build(Document(id=page.title, text=page.text) for page in world.pages)


def context_index(questions: Iterable[Question]) -> LocalIndex:
    """Return the index of the pages that came with questions.

    Raises:
        ConfigError: None came with them.
    """
    documents = list(_documents(questions))
    if not documents:
        raise ConfigError("The data has no pages of its own to search: give a corpus.")
    return LocalIndex.build(documents)


def _documents(questions: Iterable[Question]) -> Iterator[Document]:
    pages = dict.fromkeys(page for question in questions for page in question.context)
    seen: dict[str, int] = {}
    for title, text in pages:
        seen[title] = seen.get(title, 0) + 1
        # Some titles have several pages: MuSiQue cuts articles into paragraphs.
        yield Document(id=title if seen[title] == 1 else f"{title} ({seen[title]})", text=text)


def open_corpus(corpus: Corpus, index_folder: Path | str | None) -> SearchBackend:
    """Return what searches a corpus: a file of documents or of recorded searches, or an engine's name.

    Args:
        corpus: See `LocalIndex.open`, and `agent_gym.tools.search.open_backend` for engines.
        index_folder: Where the index of a file is kept; beside it if None.
    """
    if isinstance(corpus, str) and corpus in ENGINES:
        return open_backend(corpus)
    if isinstance(corpus, str | Path):
        return LocalIndex.open(corpus, folder=index_folder)
    return corpus


def corpus_tools(backend: SearchBackend, *, hits: int, hit_characters: int, page_characters: int) -> Sequence[Tool]:
    """Return the tools for a corpus: to search, and to read the pages where it has them."""
    tools: list[Tool] = [SearchTool(backend, count=hits, snippet_characters=hit_characters)]
    if isinstance(backend, LocalIndex):
        tools.append(BrowseTool(CorpusPages(backend), chunk_characters=page_characters))
        for tool in tools:
            # All is in memory: a thread for each call would only cost.
            tool.blocking = False
    return tools


def search_instead(toolbox: Toolbox, index: LocalIndex) -> None:
    """Let the tools of `corpus_tools` search and read another corpus from now on."""
    for tool in toolbox.tools.values():
        if isinstance(tool, SearchTool):
            tool.backend = index
        elif isinstance(tool, BrowseTool):
            tool.pages = CorpusPages(index)
