"""Results of searches that are kept on the disk."""

import sqlite3
import threading
from pathlib import Path

import pytest

from agent_gym.errors import ToolError
from agent_gym.tools.search import Hit, SearchCache
from agent_gym.tools.search.cache import cache_key

HITS = [Hit("Größe", "https://a.org", "text", 1.5), Hit("", "", "only text")]


def test_hits_come_back_in_another_cache_of_the_same_file(tmp_path: Path) -> None:
    SearchCache(tmp_path / "new" / "cache.sqlite").put("k", HITS)
    cache = SearchCache(tmp_path / "new" / "cache.sqlite")
    assert cache.get("k") == HITS and cache.get("other") is None
    cache.put("k", [])
    assert cache.get("k") == []


def test_results_grow_old(tmp_path: Path) -> None:
    now = [1000.0]
    cache = SearchCache(tmp_path / "cache.sqlite", seconds=60, clock=lambda: now[0])
    cache.put("k", HITS)
    now[0] += 60
    assert cache.get("k") == HITS
    now[0] += 1
    assert cache.get("k") is None
    assert SearchCache(tmp_path / "cache.sqlite").get("k") == HITS


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    cache = SearchCache(tmp_path / "cache.sqlite")
    cache.put("k", HITS)
    writer = sqlite3.connect(tmp_path / "cache.sqlite", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM searches")
    try:
        assert cache.get("k") == HITS
    finally:
        writer.close()


def test_many_threads_write_at_once(tmp_path: Path) -> None:
    cache = SearchCache(tmp_path / "cache.sqlite")
    threads = [threading.Thread(target=cache.put, args=(f"k{number}", HITS)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(cache.get(f"k{number}") == HITS for number in range(20))


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(ToolError, match="cannot be used"):
        SearchCache(tmp_path / "cache.sqlite")
    with pytest.raises(ToolError, match="cannot be made"):
        SearchCache(tmp_path / "cache.sqlite" / "below")


def test_a_key_depends_on_each_part() -> None:
    keys = {cache_key(query="a", count=1), cache_key(query="a", count=2), cache_key(query="b", count=1)}
    assert len(keys) == 3 and cache_key(count=1, query="a") in keys
