"""Recorded searches answer as they were recorded."""

from pathlib import Path

import pytest

from agent_gym.errors import DataError
from agent_gym.tools.search import RecordedSearch

RECORDED = Path(__file__).parents[2] / "golden" / "search" / "recorded.json"


def test_a_recorded_query_has_the_recorded_pages_in_their_order() -> None:
    hits = RecordedSearch(RECORDED).search("search query: Which valley of the Kings did Thutmose I rest in?", 3)
    assert [hit.text.split(" ")[0] for hit in hits] == ["KV38", "The", "Feb"]


def test_case_spaces_and_punctuation_make_no_other_query() -> None:
    recorded = RecordedSearch(RECORDED)
    asked = ["which  valley of the kings did thutmose i rest in", " Search query: WHICH valley of the Kings did Thutmose I rest in ?"]  # fmt: skip  # noqa: E501
    assert all(recorded.search(query, 5) for query in asked)


def test_a_query_that_was_not_recorded_has_no_hits_unless_the_nearest_is_asked_for() -> None:
    query = "In which film did Amy Smart debut?"
    assert RecordedSearch(RECORDED).search(query, 5) == []
    nearest = RecordedSearch(RECORDED, nearest=True)
    hits = nearest.search(query, 5)
    assert hits[0].title == "Amy Smart film debut Campfire Tales" and len(hits) == 5
    assert nearest.search("qwertyuiop", 5) == [] and nearest.search("", 5) == []
    assert nearest.search("网页", 5)


def test_a_search_that_found_nothing_finds_nothing_again() -> None:
    assert RecordedSearch(RECORDED).search("molecular formula of ascorbic acid", 5) == []


def test_a_mapping_will_do_and_a_file_of_another_kind_will_not(tmp_path: Path) -> None:
    recorded = RecordedSearch({"q": "Page 1: a"})
    assert len(recorded) == 1 and recorded.search("Q?", 1)[0].text == "a"
    (tmp_path / "a.json").write_text('{"q": ["a"]}')
    with pytest.raises(DataError, match="holds no recorded searches"):
        RecordedSearch(tmp_path / "a.json")
