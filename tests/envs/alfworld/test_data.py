"""The official games: every way to get them ends in the same file, and nothing bad ever replaces something good."""

import hashlib
import json
import lzma
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from envs.data.loopback import Site, serving

from agent_gym.envs.alfworld import data
from agent_gym.envs.alfworld.data import Holding, get_games, holding, holdings, official_games
from agent_gym.envs.alfworld.engine import Simulator
from agent_gym.envs.alfworld.loading import load_games
from agent_gym.errors import DataError, GameError, UnknownIdError

GOLDEN = Path(__file__).parents[2] / "golden" / "alfworld" / "games.json.xz"
OFFICIAL = Path(__file__).parents[4] / "shared" / "data" / "alfworld_games.json.xz"
SPLITS = {"train": 3553, "valid_seen": 140, "valid_unseen": 134, "valid_train": 200}

needs_official_games = pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"no official games in {OFFICIAL.parent}")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def entries() -> dict[str, Any]:
    with lzma.open(GOLDEN, "rt", encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content


def game_file(entry: Mapping[str, Any], placing: str = "move {o} to {r}", **changes: Any) -> bytes:
    task = f'grammar :: """{{"task": [{{"rhs": "Your task is to: {entry["task"]}."}}]}}""";'
    content = {
        "pddl_domain": "(define (domain alfred))",
        "grammar": f'{task}\naction PutObject {{\n    template :: "{placing}";\n}}\n',
        "pddl_problem": entry["problem"],
        "solvable": True,
        "walkthrough": entry["walkthrough"],
        **changes,
    }
    return json.dumps({key: value for key, value in content.items() if value is not None}).encode()


def game_files() -> dict[str, bytes]:
    """The golden games, and beside them five that the official environment leaves out."""
    files = {f"{id_}/game.tw-pddl": game_file(entry) for id_, entry in entries().items()}
    some = next(iter(entries().values()))
    files["train/pick_and_place_simple-AppleSliced-None-Fridge-1/trial/game.tw-pddl"] = game_file(some)
    files["train/pick_and_place_with_movable_recep-Box-Bowl-Bed-1/trial/game.tw-pddl"] = game_file(some)
    files["train/pick_and_juggle-Box-None-Bed-1/trial/game.tw-pddl"] = game_file(some)
    files["train/pick_and_place_simple-Mug-None-Desk-1/trial/game.tw-pddl"] = game_file(some, solvable=False)
    files["train/pick_and_place_simple-Mug-None-Desk-2/trial/game.tw-pddl"] = game_file(some, solvable=None)
    return files


def archive(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("json_2.1.1/README.txt", "games " * 100)
        for name, content in files.items():
            packed.writestr(f"json_2.1.1/{name}", content)
    return path


def folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def names(path: Path) -> list[str]:
    return sorted(found.name for found in path.iterdir())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(archive(tmp_path / "served.zip", game_files()).read_bytes()) as started:
        yield started


# -- what the official environment plays -------------------------------------------------------------------------------


@needs_official_games
def test_the_official_splits_have_their_official_sizes() -> None:
    library = load_games(OFFICIAL, official_only=True)
    assert {split: len(library.select(split=split)) for split in SPLITS} == SPLITS


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_games_that_the_official_environment_leaves_out_are_left_out_on_demand(tmp_path: Path, kind: str) -> None:
    make = folder if kind == "folder" else archive
    path = make(tmp_path / ("games" if kind == "folder" else "games.zip"), game_files())
    assert len(load_games(path)) == len(entries()) + 5
    assert sorted(game.id for game in load_games(path, official_only=True)) == sorted(entries())


def test_an_entry_of_a_compact_file_may_say_that_it_is_not_solvable(tmp_path: Path) -> None:
    first, *others = entries().items()
    path = tmp_path / "games.json"
    path.write_text(json.dumps({first[0]: {**first[1], "solvable": False}, **dict(others)}))
    assert len(load_games(path, official_only=True)) == len(others)


def test_a_game_whose_folder_names_no_type_is_judged_by_its_problem(tmp_path: Path) -> None:
    path = folder(tmp_path / "mine", {"game 1/game.tw-pddl": game_file(next(iter(entries().values())))})
    assert [game.id for game in load_games(path, official_only=True)] == ["game 1"]


def test_an_archive_holds_the_same_games_as_the_compact_file(tmp_path: Path) -> None:
    path = archive(tmp_path / "games.zip", game_files())
    assert list(load_games(path, official_only=True)) == list(load_games(GOLDEN))


def test_an_archive_that_has_changed_is_opened_anew(tmp_path: Path) -> None:
    path = archive(tmp_path / "games.zip", game_files())
    load_games(path)
    few = dict(list(game_files().items())[:1])
    archive(tmp_path / "new.zip", few).replace(path)
    assert len(load_games(path)) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"no archive"])
def test_a_file_that_is_no_archive_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "games.zip").write_bytes(content)
    with pytest.raises(GameError, match=r"games\.zip is not a readable archive"):
        load_games(tmp_path / "games.zip")


# -- getting them ------------------------------------------------------------------------------------------------------


def test_every_form_of_the_same_games_ends_in_the_same_file(tmp_path: Path) -> None:
    files = game_files()
    (tmp_path / "games.json").write_text(json.dumps(entries()))
    sources = [
        archive(tmp_path / "games.zip", files),
        folder(tmp_path / "games", files),
        tmp_path / "games.json",
        GOLDEN,
    ]
    kept = [get_games(f"form{number}", source=source) for number, source in enumerate(sources)]
    assert len({one.digest for one in kept}) == len({one.path.read_bytes() for one in kept}) == 1
    assert list(load_games(kept[0].path)) == list(load_games(GOLDEN))
    assert sum(kept[0].counts.values()) == len(entries())
    assert list(kept[0].counts) == [split for split in SPLITS if kept[0].counts.get(split)]
    assert [one.archive_sha256 for one in kept[:2]] == [hashlib.sha256(sources[0].read_bytes()).hexdigest(), None]
    assert [found.version for found in holdings()] == ["form0", "form1", "form2", "form3"]
    assert holdings() == kept


def test_both_verbs_for_placing_survive(tmp_path: Path) -> None:
    chosen = next((id_, entry) for id_, entry in entries().items() if any("move" in c for c in entry["walkthrough"]))
    id_, entry = chosen
    said = [command.replace("move ", "put ").replace(" to ", " in/on ", 1) for command in entry["walkthrough"]]
    old = [new if new.startswith("put ") else kept for new, kept in zip(said, entry["walkthrough"], strict=True)]
    content = game_file(entry, "put {o} in/on {r}", walkthrough=old)
    files = {f"{id_}/game.tw-pddl": content}
    kept = get_games("old", source=archive(tmp_path / "games.zip", files))
    (game,) = load_games(kept.path)
    assert (game.dialect, list(game.walkthrough)) == ("put", old)
    simulator = Simulator(game)
    simulator.start()
    assert any("You put the" in simulator.step(command) for command in game.walkthrough)
    assert simulator.won
    new = get_games("new", source=archive(tmp_path / "new.zip", {f"{id_}/game.tw-pddl": game_file(entry)}))
    assert "dialect" not in json.loads(lzma.decompress(new.path.read_bytes()))[id_]


def test_a_download_ends_in_the_same_file_and_leaves_no_archive(site: Site, cache: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    kept = get_games("mine", url=site.url, tell=lambda *news: told.append(news))
    assert kept.origin == site.url
    assert kept.archive_sha256 == hashlib.sha256(site.content).hexdigest()
    assert names(cache / "alfworld" / "mine") == ["about.json", "games.json.xz"]
    assert list(load_games(kept.path)) == list(load_games(GOLDEN))
    assert ("downloading", len(site.content), len(site.content)) in told
    assert told[-1] == ("converting", len(game_files()), len(game_files()))


def test_what_is_there_is_not_fetched_again_unless_forced(site: Site) -> None:
    first = get_games("mine", url=site.url)
    assert get_games("mine", url=site.url) == first
    assert len(site.asked) == 1
    assert get_games("mine", url=site.url, force=True) == first
    assert len(site.asked) == 2


def test_a_broken_download_goes_on_and_then_counts_every_byte_once(site: Site) -> None:
    site.cuts = [1000]
    get_games("mine", url=site.url, fetch=lambda *a, **k: data.download(*a, sleep=lambda seconds: None, **k))
    assert site.served == [1000, len(site.content) - 1000]


def test_an_interrupted_conversion_does_not_download_again(site: Site) -> None:
    def interrupt(what: str, done: int, total: int | None) -> None:
        if what == "converting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get_games("mine", url=site.url, tell=interrupt)
    assert holding("mine") is None
    get_games("mine", url=site.url)
    assert len(site.asked) == 1


@pytest.fixture
def good(tmp_path: Path) -> Holding:
    return get_games("mine", source=GOLDEN)


def assert_still_good(good: Holding) -> None:
    assert holding("mine") == good
    assert names(good.path.parent) == ["about.json", "games.json.xz"]
    assert len(load_games(good.path)) == len(entries())


@pytest.mark.parametrize("damage", ["flipped", "cut", "no archive"])
def test_a_damaged_archive_replaces_nothing_and_is_not_kept(site: Site, good: Holding, damage: str) -> None:
    middle = len(site.content) // 2
    content = bytearray(site.content)
    content[middle] ^= 0xFF
    site.content = {"flipped": bytes(content), "cut": site.content[:middle], "no archive": b"<html>"}[damage]
    with pytest.raises(DataError, match=r"damaged|not a readable archive"):
        get_games("mine", url=site.url, force=True)
    assert_still_good(good)


def test_an_archive_with_another_checksum_replaces_nothing(site: Site, good: Holding, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the sha256"):
        get_games("mine", url=site.url, sha256="0" * 64, force=True)
    local = archive(tmp_path / "local.zip", game_files())
    with pytest.raises(DataError, match="has the sha256"):
        get_games("mine", source=local, sha256="0" * 64, force=True)
    assert_still_good(good)
    assert get_games(
        "mine", source=local, sha256=hashlib.sha256(local.read_bytes()).hexdigest(), force=True
    ).path.exists()


def test_a_folder_has_no_checksum(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no checksum"):
        get_games("mine", source=folder(tmp_path / "games", game_files()), sha256="0" * 64)


def test_an_archive_without_games_replaces_nothing(tmp_path: Path, good: Holding) -> None:
    with pytest.raises(GameError, match=r"No game\.tw-pddl lies in"):
        get_games("mine", source=archive(tmp_path / "empty.zip", {}), force=True)
    sliced = {name: content for name, content in game_files().items() if "Sliced" in name}
    with pytest.raises(DataError, match="has no game that the official environment plays"):
        get_games("mine", source=archive(tmp_path / "sliced.zip", sliced), force=True)
    assert_still_good(good)


def test_a_missing_server_file_replaces_nothing(site: Site, good: Holding) -> None:
    site.statuses = [404]
    with pytest.raises(DataError, match="404 Not Found"):
        get_games("mine", url=site.url, force=True)
    assert_still_good(good)


def test_other_games_are_not_taken_for_a_release(site: Site) -> None:
    with pytest.raises(
        DataError, match=r"does not hold the games of release 2\.1\.3 .*valid_train 200\).*--version NAME"
    ):
        get_games(url=site.url)
    with pytest.raises(GameError):
        official_games()


def test_games_that_say_something_else_are_not_taken_for_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = get_games("mine", source=GOLDEN)
    content = data._Content(kept.counts, kept.digest)
    monkeypatch.setattr(data, "_PINNED", {"2.1.3": content})
    get_games(source=GOLDEN)
    monkeypatch.setattr(data, "_PINNED", {"2.1.3": replace(content, digest="another")})
    with pytest.raises(DataError, match=r"the digest of its games is [0-9a-f]{64} and should be another"):
        get_games(source=GOLDEN, force=True)
    assert official_games() == holding("2.1.3").path  # type: ignore[union-attr]


def test_the_digest_does_not_depend_on_indentation(tmp_path: Path) -> None:
    id_, entry = next(iter(entries().items()))
    found = set()
    for number, problem in enumerate([entry["problem"], entry["problem"].replace("\n", "\n   ")]):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps({id_: {**entry, "problem": problem}}))
        found.add(get_games(f"version{number}", source=path).digest)
    assert len(found) == 1


@needs_official_games
@pytest.mark.slow
def test_the_official_games_are_the_pinned_ones() -> None:
    kept = get_games(source=OFFICIAL)
    assert dict(kept.counts) == SPLITS
    assert official_games() == kept.path


@pytest.mark.parametrize("version", ["3.0", "../up", "", "a b"])
def test_an_unknown_release_is_answered_with_the_known_ones(version: str) -> None:
    with pytest.raises(UnknownIdError, match=r"Known: 2\.1\.1, 2\.1\.2, 2\.1\.3"):
        get_games(version)


def test_games_that_are_not_there_are_an_error_with_both_remedies(cache: Path) -> None:
    with pytest.raises(
        GameError, match=r"run `agent-gym data get alfworld`, or, .* `agent-gym data get alfworld --from"
    ):
        official_games()
    with pytest.raises(GameError, match=r"`agent-gym data get alfworld --version 2\.1\.2`"):
        official_games("2.1.2")
    assert holdings() == []
    assert not cache.exists()


def test_a_damaged_note_counts_as_not_there(good: Holding) -> None:
    (good.path.parent / "about.json").write_text("{")
    assert holding("mine") is None
    assert get_games("mine", source=GOLDEN) == good
