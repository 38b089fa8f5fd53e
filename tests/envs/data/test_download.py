"""Downloads: whatever the server or the line does, the file is the right one or there is none."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envs.data.loopback import Site, serving

from agent_gym.envs.data import download
from agent_gym.errors import DataError

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(CONTENT) as started:
        yield started


def get(site: Site, folder: Path, **options: Any) -> Path:
    pauses: list[float] = []
    options = {"sleep": pauses.append, **options}
    return download(site.url, folder / "games.zip", **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_and_nothing_else_is_left(site: Site, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = get(site, tmp_path / "new", progress=lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["games.zip"]
    assert told[0] == (0, len(CONTENT)) and told[-1] == (len(CONTENT), len(CONTENT))
    assert site.asked == [""]


def test_redirects_are_followed(site: Site, tmp_path: Path) -> None:
    site.redirect = "/elsewhere"
    path = download(site.url.replace("/games.zip", "/elsewhere"), tmp_path / "a")
    assert path.read_bytes() == CONTENT


def test_a_connection_that_breaks_is_taken_up_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000, 50_000]
    pauses: list[float] = []
    assert get(site, tmp_path, sleep=pauses.append).read_bytes() == CONTENT
    assert site.asked == ["", "bytes=100000-", "bytes=150000-"]
    assert site.served == [100_000, 50_000, 150_000]
    assert pauses == [1.0, 2.0]


def test_another_call_takes_up_what_an_earlier_one_has_left(site: Site, tmp_path: Path) -> None:
    site.cuts = [120_000]
    with pytest.raises(DataError, match=r"1 attempts\): the same command goes on after the 120,000 bytes"):
        get(site, tmp_path, attempts=1)
    assert names(tmp_path) == ["games.zip.part", "games.zip.part.json"]
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.served == [120_000, 180_000]


def test_an_interruption_keeps_what_has_arrived(site: Site, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(site, tmp_path, progress=interrupt)
    kept = (tmp_path / "games.zip.part").stat().st_size
    assert kept > 100_000
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.asked[-1] == f"bytes={kept}-"


def test_a_server_without_ranges_sends_everything_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.cuts = False, [100_000]
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.served == [100_000, 300_000]


def test_a_server_that_does_not_tell_its_version_is_not_asked_for_the_rest(site: Site, tmp_path: Path) -> None:
    site.etag, site.cuts = "", [100_000]
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == ["", ""]


def test_a_date_is_enough_where_the_etag_is_weak(site: Site, tmp_path: Path) -> None:
    site.etag, site.modified, site.cuts = 'W/"one"', "Mon, 01 Jan 2024 00:00:00 GMT", [100_000]
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.asked == ["", "bytes=100000-"]


@pytest.mark.parametrize("heeds", [True, False])
def test_parts_of_two_versions_are_never_glued_together(site: Site, tmp_path: Path, heeds: bool) -> None:
    site.cuts, site.heeds_if_range = [100_000], heeds
    with pytest.raises(DataError):
        get(site, tmp_path, attempts=1)
    site.content, site.etag = OTHER, '"two"'
    assert get(site, tmp_path).read_bytes() == OTHER


def test_a_part_that_is_longer_than_the_file_is_thrown_away(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000]
    with pytest.raises(DataError):
        get(site, tmp_path, attempts=1)
    site.content = CONTENT[:50_000]
    assert get(site, tmp_path).read_bytes() == CONTENT[:50_000]


def test_a_part_of_another_address_is_not_continued(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000]
    with pytest.raises(DataError):
        get(site, tmp_path, attempts=1)
    download(site.url + "?mirror", tmp_path / "games.zip")
    assert site.asked == ["", ""]


def test_a_part_with_a_damaged_note_is_not_continued(site: Site, tmp_path: Path) -> None:
    (tmp_path / "games.zip.part").write_bytes(b"something")
    (tmp_path / "games.zip.part.json").write_text("{")
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_complete_needs_no_server(site: Site, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(site, tmp_path, progress=interrupt)
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert len(site.asked) == 1


def test_a_busy_server_is_asked_again_after_longer_and_longer_pauses(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429, 500]
    pauses: list[float] = []
    assert get(site, tmp_path, sleep=pauses.append).read_bytes() == CONTENT
    assert pauses == [1.0, 2.0, 4.0]


def test_a_server_that_stays_busy_is_given_up_with_the_remedy(site: Site, tmp_path: Path) -> None:
    site.statuses = [503] * 9
    with pytest.raises(DataError, match=r"the server answered 503 Service Unavailable; 4 attempts\): the same command"):
        get(site, tmp_path)
    assert len(site.asked) == 4


def test_a_missing_file_is_not_asked_for_twice(site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    (tmp_path / "games.zip").write_bytes(b"good")
    with pytest.raises(
        DataError, match=r"games\.zip cannot be downloaded \(the server answered 404 Not Found\): check"
    ):
        get(site, tmp_path)
    assert (site.asked, names(tmp_path)) == ([""], ["games.zip"])
    assert (tmp_path / "games.zip").read_bytes() == b"good"


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/a", "http://"])
def test_an_impossible_address_is_an_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match=r"could not be downloaded|cannot be downloaded"):
        download(url, tmp_path / "a", attempts=1)


def test_the_checksum_decides_whether_the_old_file_is_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "games.zip").write_bytes(b"good")
    with pytest.raises(DataError, match=rf"has the sha256 {hashlib.sha256(CONTENT).hexdigest()} instead of {'0' * 64}"):
        get(site, tmp_path, sha256="0" * 64)
    assert (names(tmp_path), (tmp_path / "games.zip").read_bytes()) == (["games.zip"], b"good")
    get(site, tmp_path, sha256=hashlib.sha256(CONTENT).hexdigest().upper())
    assert (tmp_path / "games.zip").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/games\.zip\.part cannot be written .*AGENT_GYM_CACHE"):
        get(site, tmp_path / "file")
