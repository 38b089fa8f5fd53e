"""What can be searched: the generated world, pages of the questions, files, anything that searches."""

import json
from pathlib import Path

import pytest

from agent_gym.envs.search_qa.corpus import context_index, corpus_tools, open_corpus, search_instead, world_index
from agent_gym.envs.search_qa.loading import Question
from agent_gym.envs.search_qa.world import make_world
from agent_gym.errors import ConfigError, DataError
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.search import Document, Hit, LocalIndex
from agent_gym.tools.toolbox import Toolbox

INDEX = world_index(make_world("train", 0, 20))


def test_the_pages_of_a_world_are_found_by_their_names() -> None:
    assert len(INDEX) == 20 + 20 + 3 + 5
    document = INDEX.document(0)
    assert INDEX.search(document.id, 1)[0].url == document.id and INDEX.get(document.id) == document


def test_tools_can_be_given_another_corpus() -> None:
    toolbox = Toolbox(corpus_tools(INDEX, hits=1, hit_characters=100, page_characters=100))
    twin = toolbox.fork()
    other = LocalIndex.build([Document(id="Rome", text="The capital of Italy.")])
    search_instead(toolbox, other)
    calls = [ToolCall("search", {"query": "capital"}), ToolCall("browse", {"url": "Rome"})]
    assert all("The capital of Italy." in toolbox.call(call).text for call in calls)
    assert not any("The capital of Italy." in twin.call(call).text for call in calls)


def test_pages_that_came_with_questions_are_found_once_each() -> None:
    pages = (("Rome", "The capital of Italy."), ("Rome", "A city on the Tiber."))
    questions = [Question("a", ("b",), pages), Question("c", ("d",), (*pages, ("Paris", "The capital of France.")))]
    index = context_index(questions)
    assert len(index) == 3
    assert [hit.url for hit in index.search("city on the Tiber", 1)] == ["Rome (2)"]


def test_questions_without_pages_need_a_corpus() -> None:
    with pytest.raises(ConfigError, match="no pages of its own to search: give a corpus"):
        context_index([Question("a", ("b",))])


def test_a_file_of_documents_is_indexed_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text(json.dumps({"id": "1", "title": "Rome", "text": "The capital of Italy."}) + "\n")
    folder = tmp_path / "indices"
    folder.mkdir()
    backend = open_corpus(path, folder)
    assert [hit.title for hit in backend.search("capital", 3)] == ["Rome"] and list(folder.iterdir()) != []
    with pytest.raises(DataError):
        open_corpus(tmp_path / "missing.jsonl", folder)


class Oracle:
    """Knows one thing."""

    def search(self, query: str, count: int) -> list[Hit]:
        return [Hit("Truth", "https://truth.example", "42")]


def test_only_a_corpus_with_pages_can_be_read() -> None:
    names = [tool.name for tool in corpus_tools(Oracle(), hits=1, hit_characters=10, page_characters=100)]
    assert names == ["search"]
    tools = corpus_tools(INDEX, hits=1, hit_characters=10, page_characters=100)
    assert [tool.name for tool in tools] == ["search", "browse"] and not any(tool.blocking for tool in tools)


def test_anything_that_searches_is_taken_as_it_is() -> None:
    oracle = Oracle()
    assert open_corpus(oracle, None) is oracle
    index = LocalIndex.build([])
    assert open_corpus(index, None) is index
