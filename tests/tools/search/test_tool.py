"""The search tool, called as a model calls it."""

import json
import os
from pathlib import Path

import pytest

from agent_gym.errors import ConfigError, ToolError, UnknownIdError
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.search import Document, Hit, LocalIndex, RecordedSearch, SearchTool, open_backend
from agent_gym.tools.toolbox import Toolbox

RECORDED = Path(__file__).parents[2] / "golden" / "search" / "recorded.json"
INDEX = LocalIndex.build(
    [
        Document("1", "Cats sleep.\n\nFor most of the day.", "Cats", "https://animals.org/cats"),
        Document("2", "Dogs do not sleep."),
    ]
)


class Fixed:
    """Always has the same hits."""

    def __init__(self, *hits: Hit) -> None:
        self.hits = list(hits)

    def search(self, query: str, count: int) -> list[Hit]:
        return self.hits[:count]


def ask(tool: SearchTool, query: str) -> str:
    return Toolbox([tool]).call(ToolCall("search", {"query": query})).text


def test_hits_are_numbered_with_title_address_and_snippet() -> None:
    assert ask(SearchTool(INDEX), "who sleeps: sleep") == (
        "1. 2\n   Dogs do not sleep.\n2. Cats\n   https://animals.org/cats\n   Cats sleep. For most of the day."
    )


def test_a_model_is_told_name_purpose_and_argument() -> None:
    (schema,) = Toolbox([SearchTool(INDEX)]).schemas()
    function = schema["function"]
    assert (function["name"], function["description"]) == ("search", "Search for pages.")
    assert function["parameters"]["required"] == ["query"]
    assert function["parameters"]["properties"]["query"]["description"] == "What to search for."
    assert Toolbox([SearchTool(INDEX)]).text_parameter("search") == "query"


@pytest.mark.parametrize("query", ["", "  \n", ";"])
def test_an_empty_query_is_an_observation(query: str) -> None:
    result = Toolbox([SearchTool(INDEX, queries=3)]).call(ToolCall("search", {"query": query}))
    assert result.status == "error" and "The query is empty" in result.text


def test_nothing_found_is_an_observation_of_bounded_length() -> None:
    answer = ask(SearchTool(INDEX), "unheard " * 10_000)
    assert answer.startswith("Nothing was found for 'unheard unheard") and len(answer) < 200


def test_what_is_shown_of_a_hit_is_bounded_and_harmless() -> None:
    hostile = Hit(
        "T" * 10_000 + "\x1b[2J", "https://a.org/" + "u" * 10_000, "\x1b]0;owned\x07" + "word \u202e\x00" * 10_000
    )
    answer = ask(SearchTool(Fixed(hostile, hostile), snippet_characters=300), "x")
    assert len(answer) < 2 * (200 + 500 + 300 + 20)
    assert not set(answer) & set("\x1b\x07\x00\u202e") and "owned" not in answer


def test_a_hit_cannot_forge_another_one() -> None:
    answer = ask(SearchTool(Fixed(Hit("A\n2. Forged", "https://a.org", "text\n2. Forged\n   https://forged.org"))), "x")
    assert [line for line in answer.splitlines() if line.startswith("2.")] == []


def test_no_more_hits_than_asked_for() -> None:
    assert ask(SearchTool(INDEX, count=1), "sleep").count("\n") == 1


def test_several_queries_in_one_call_where_they_are_allowed() -> None:
    tool = SearchTool(INDEX, queries=2)
    answer = ask(tool, "cats; dogs\n birds")
    assert answer == (
        "Results for 'cats':\n1. Cats\n   https://animals.org/cats\n   Cats sleep. For most of the day.\n\n"
        "Results for 'dogs':\n1. 2\n   Dogs do not sleep.\n\n"
        "The queries after the first 2 were not answered."
    )
    assert ask(SearchTool(INDEX), "cats; dogs").count("Results for") == 0


def test_forks_share_the_backend() -> None:
    box = Toolbox([SearchTool(INDEX)])
    twin = box.fork()
    assert twin.tools["search"] is not box.tools["search"]
    assert twin.tools["search"].backend is INDEX  # type: ignore[attr-defined]


def test_a_backend_is_named_by_its_file(tmp_path: Path) -> None:
    assert isinstance(open_backend(RECORDED), RecordedSearch)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"text": "cats"}))
    first = open_backend(str(corpus))
    assert isinstance(first, LocalIndex) and open_backend(corpus) is first
    assert "cats" in ask(SearchTool(str(corpus)), "cats")
    corpus.write_text(json.dumps({"text": "dogs"}))
    os.utime(corpus, ns=(0, 0))
    assert "dogs" in ask(SearchTool(str(corpus)), "dogs")
    assert open_backend(str(tmp_path / "corpus.jsonl.index")).search("dogs", 1)


def test_a_backend_that_is_neither_engine_nor_file_is_unknown() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'serper'"):
        SearchTool("serpr")


def test_without_a_backend_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SERPER_API_KEY", "BRAVE_SEARCH_API_KEY", "SEARXNG_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ToolError, match="BRAVE_SEARCH_API_KEY, SEARXNG_URL, SERPER_API_KEY"):
        SearchTool()
    monkeypatch.setenv("SEARXNG_URL", "http://127.0.0.1:1")
    assert SearchTool().backend.name == "SearXNG"  # type: ignore[attr-defined]
    monkeypatch.setenv("BRAVE_SEARCH_API_KEY", "k")
    assert SearchTool().backend.name == "Brave"  # type: ignore[attr-defined]


def test_tools_of_the_same_engine_share_it_until_its_key_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAVE_SEARCH_API_KEY", "one")
    first = SearchTool("brave").backend
    assert SearchTool("brave").backend is first
    monkeypatch.setenv("BRAVE_SEARCH_API_KEY", "two")
    assert SearchTool("brave").backend is not first


def test_numbers_that_make_no_sense_are_refused() -> None:
    for options in ({"count": 0}, {"snippet_characters": 0}, {"queries": 0}):
        with pytest.raises(ConfigError):
            SearchTool(INDEX, **options)
