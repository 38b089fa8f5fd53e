"""The browse tool, called as a model calls it."""

import re
from importlib.util import find_spec
from typing import Any

import pytest

from agent_gym.errors import ConfigError, ToolError
from agent_gym.tools.browse import BrowseTool, CorpusPages, Link, Page, WebPages
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.search import Document, LocalIndex, SearchTool
from agent_gym.tools.toolbox import Toolbox

PARAGRAPHS = [f"Paragraph {number} tells of the pharaoh and his tomb, number {number}." for number in range(100)]


class Shelf:
    """A few pages by name."""

    def __init__(self) -> None:
        self.pages = {
            "long": Page("https://a.org/long", "Long", "\n\n".join(PARAGRAPHS), cut=True),
            "short": Page("https://a.org/short", "Short", "A short page.", (Link("more", "https://a.org/more"),)),
            "empty": Page("https://a.org/empty", "", ""),
            "links": Page("https://a.org/links", "", "", tuple(Link("", f"https://a.org/{n}") for n in range(200))),
            "dense": Page("https://a.org/dense", "D" * 10_000, "字" * 5_000),
        }

    def open(self, url: str) -> Page:
        if url not in self.pages:
            raise ToolError(f"There is no page {url!r}.")
        return self.pages[url]


@pytest.fixture
def box() -> Toolbox:
    return Toolbox([BrowseTool(Shelf(), chunk_characters=1000)])


def browse(box: Toolbox, **arguments: Any) -> ToolResult:
    return box.call(ToolCall("browse", arguments))


def test_a_short_page_is_shown_whole(box: Toolbox) -> None:
    assert browse(box, url="short").text == "Short\nhttps://a.org/short\n[chunk 1 of 1]\n\nA short page."
    assert browse(box, url="empty").text.endswith("(The page has no text.)")


def test_a_long_page_is_shown_chunk_by_chunk_and_no_word_is_lost(box: Toolbox) -> None:
    texts = [browse(box, url="long").text]
    count = int(re.search(r"chunk 1 of (\d+)", texts[0])[1])  # type: ignore[index]
    texts += [browse(box, action="next").text for _ in range(count - 1)]
    assert all(f"[chunk {number} of {count}]" in text and len(text) < 1200 for number, text in enumerate(texts, 1))
    bodies = [text.split("]\n\n", 1)[1] for text in texts]
    assert all(body.startswith("Paragraph") for body in bodies)
    assert "\n\n".join(bodies).startswith("\n\n".join(PARAGRAPHS))
    assert bodies[-1].endswith("(The page is longer than can be read; this is its beginning.)")
    result = browse(box, action="next")
    assert result.status == "error" and "no further chunk" in result.text


def test_a_text_without_spaces_is_cut_all_the_same(box: Toolbox) -> None:
    text = browse(box, url="dense").text
    assert "[chunk 1 of 5]" in text and text.count("字") == 1000 and len(text) < 1500


def test_words_are_found_with_their_surroundings_and_their_chunk(box: Toolbox) -> None:
    browse(box, url="long")
    text = browse(box, action="find", query=" PARAGRAPH  50 tells").text
    assert text.startswith("'PARAGRAPH  50 tells' is in the page once.\n[chunk 4] … ")
    assert "tomb, number 49. Paragraph 50 tells of the pharaoh" in text and len(text) < 700
    text = browse(box, action="find", query="pharaoh").text
    assert "is in the page 100 times." in text and "more passages are not shown" in text and len(text) < 8000


def test_words_that_do_not_stand_together_are_found_apart(box: Toolbox) -> None:
    browse(box, url="long")
    text = browse(box, action="find", query="number 77 pharaoh").text
    assert "is not in the page. Passages with some of the words:" in text
    assert "Paragraph 77" in text.split("\n")[1]
    assert browse(box, action="find", query="zeppelin").text == "'zeppelin' is not in the page."


def test_a_query_is_no_pattern(box: Toolbox) -> None:
    browse(box, url="long")
    for query in (".*", "(a+)+$", "[", "\\", "x" * 100_000, "\x00"):
        assert "is not in the page" in browse(box, action="find", query=query).text
    result = browse(box, action="find", query="  ")
    assert result.status == "error" and "give words" in result.text


def test_links_are_listed_and_bounded(box: Toolbox) -> None:
    browse(box, url="short")
    assert browse(box, action="links").text == "- more: https://a.org/more"
    text = browse(box, url="links", action="links").text
    assert text.count("\n") == 40 and text.endswith("(160 more links are not shown.)")
    assert browse(box, url="empty", action="links").text == "The page has no links."


@pytest.mark.parametrize("action", ["next", "find", "links"])
def test_without_an_open_page_there_is_nothing_to_do(box: Toolbox, action: str) -> None:
    result = browse(box, action=action, query="x")
    assert result.status == "error" and "No page is open" in result.text


def test_calls_that_are_wrong_are_observations(box: Toolbox) -> None:
    assert "say which page to open" in browse(box).text
    assert browse(box, action="close").status == "invalid"
    assert browse(box, url="none").status == "error"


def test_a_page_that_cannot_be_opened_leaves_the_old_one_open(box: Toolbox) -> None:
    browse(box, url="short")
    browse(box, url="none")
    assert "more" in browse(box, action="links").text


def test_a_new_episode_has_no_page(box: Toolbox) -> None:
    browse(box, url="short")
    box.setup()
    assert "No page is open" in browse(box, action="links").text


def test_a_fork_reads_on_for_itself(box: Toolbox) -> None:
    browse(box, url="long")
    browse(box, action="next")
    twin = box.fork()
    assert twin.tools["browse"].pages is box.tools["browse"].pages  # type: ignore[attr-defined]
    assert "[chunk 3 of" in browse(box, action="next").text
    assert "[chunk 3 of" in browse(twin, action="next").text
    browse(twin, url="short")
    assert "[chunk 4 of" in browse(box, action="next").text
    assert "more" in browse(twin, action="links").text


def test_what_a_search_shows_can_be_opened_offline() -> None:
    index = LocalIndex.build(
        [Document("k", "The tomb KV38 was found in 1899. " * 200, "KV38", "https://tombs.org/kv38")]
    )
    box = Toolbox([SearchTool(index), BrowseTool(CorpusPages(index))])
    found = box.call(ToolCall("search", {"query": "when was KV38 found"})).text
    url = re.search(r"https://\S+", found)[0]  # type: ignore[index]
    assert "[chunk 1 of 2]" in browse(box, url=url).text
    assert "1899" in browse(box, action="find", query="found in").text


def test_a_model_is_told_what_it_can_do(box: Toolbox) -> None:
    (schema,) = box.schemas()
    properties = schema["function"]["parameters"]["properties"]
    assert schema["function"]["name"] == "browse"
    assert properties["action"]["enum"] == ["open", "next", "find", "links"]
    assert all(properties[name]["description"] for name in ("url", "action", "query"))
    assert box.text_parameter("browse") == "url"


@pytest.mark.skipif(find_spec("trafilatura") is None, reason="trafilatura (the extra search) is not installed")
def test_by_default_it_is_the_public_web_through_one_fetcher() -> None:
    tool = BrowseTool()
    assert isinstance(tool.pages, WebPages) and BrowseTool().pages is tool.pages
    assert "not public" in Toolbox([tool]).call(ToolCall("browse", {"url": "http://169.254.169.254/latest/"})).text


def test_a_chunk_has_a_least_length() -> None:
    with pytest.raises(ConfigError, match="at least 100"):
        BrowseTool(Shelf(), chunk_characters=10)
