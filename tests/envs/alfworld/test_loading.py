"""Game files: every form is read, nothing is parsed before its time, and a broken file names itself and the remedy."""

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.alfworld.games import generate
from agent_gym.envs.alfworld.loading import GameLibrary, load_games
from agent_gym.envs.alfworld.scene import TASK_TYPES
from agent_gym.errors import GameError, UnknownIdError

GOLDEN = Path(__file__).parents[2] / "golden" / "alfworld" / "games.json.xz"
LOOK = "train/look_at_obj_in_light-Box-None-DeskLamp-225/trial_T20190908_140219_482769"


def entries() -> dict[str, Any]:
    with lzma.open(GOLDEN, "rt", encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content


def grammar(task: str, placing: str = "move {o} to {r}") -> str:
    task_rule = f'grammar :: """{{"task": [{{"rhs": "Your task is to: {task}."}}]}}""";'
    return f'{task_rule}\naction PutObject {{\n    template :: "{placing}";\n}}\n'


def write_game(folder: Path, **changes: Any) -> Path:
    """Write the look game of the golden file as game.tw-pddl, with changed keys (None removes one)."""
    entry = entries()[LOOK]
    content = {
        "pddl_domain": "(define (domain alfred))",
        "grammar": grammar(entry["task"]),
        "pddl_problem": entry["problem"],
        "solvable": True,
        "walkthrough": entry["walkthrough"],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")
    return path


def break_problem(old: str, new: str) -> str:
    problem: str = entries()[LOOK]["problem"]
    assert old in problem
    return problem.replace(old, new, 1)


def test_the_compact_file_is_a_sequence_of_games_in_the_order_of_their_ids() -> None:
    library = load_games(GOLDEN)
    assert [game.id for game in library] == sorted(entries())
    assert {game.task_type for game in library} == set(TASK_TYPES)
    assert library[-1].id == library[len(library) - 1].id
    assert [game.id for game in library[1:3]] == [library[1].id, library[2].id]
    with pytest.raises(IndexError):
        library[len(library)]


def test_ids_splits_and_task_types_are_known_without_parsing(tmp_path: Path) -> None:
    path = tmp_path / "games.json"
    path.write_text(json.dumps({id_: {**entry, "problem": "broken"} for id_, entry in entries().items()}))
    library = load_games(path)
    assert len(library) == len(entries())
    assert all(game.id.startswith(f"{game.split}/{game.task_type}-") for game in library.select().stored)
    with pytest.raises(GameError, match="lacks its"):
        library[0]


def test_a_plain_json_file_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "games.json"
    path.write_text(json.dumps(entries()), encoding="utf-8")
    assert list(load_games(path)) == list(load_games(GOLDEN))


def test_a_folder_of_game_files_gives_the_same_games_as_the_compact_file(tmp_path: Path) -> None:
    path = write_game(tmp_path / "json_2.1.1" / LOOK)
    compact = load_games(GOLDEN)
    expected = compact[compact.index_of(LOOK)]
    assert list(load_games(tmp_path)) == list(load_games(path)) == [expected]


def test_a_game_outside_the_official_folders_counts_as_train_and_tells_its_type(tmp_path: Path) -> None:
    library = load_games(write_game(tmp_path / "mine"))
    (stored,) = library.select(split="train").stored
    assert (stored.id, stored.task_type) == ("mine", "look_at_obj_in_light")


def test_games_of_task_types_that_are_not_supported_are_left_out_by_name(tmp_path: Path) -> None:
    write_game(tmp_path / "train" / "pick_and_place_with_movable_recep-Box-Bowl-Bed-1" / "trial", pddl_problem="broken")
    library = load_games(tmp_path)
    assert (len(library), len(library.select())) == (1, 0)


def test_the_dialect_is_read_from_the_grammar(tmp_path: Path) -> None:
    path = write_game(tmp_path, grammar=grammar("examine the box with the desklamp", "put {o} in/on {r}"))
    (game,) = load_games(path)
    assert (game.dialect, game.objective) == ("put", "examine the box with the desklamp")


def test_only_the_latest_games_are_kept(tmp_path: Path) -> None:
    games = [generate(seed, size="tiny") for seed in range(100)]
    library = GameLibrary.of(games)
    assert sorted(game.id for game in library) == sorted(game.id for game in games)
    assert len(library._parsed) == 64


def test_select_keeps_a_split_and_task_types() -> None:
    library = load_games(GOLDEN)
    seen = library.select(split="valid_seen")
    assert {game.split for game in seen} == {"valid_seen"}
    looks = library.select(task_types=["look_at_obj_in_light"])
    assert {game.task_type for game in looks} == {"look_at_obj_in_light"}


def test_an_unknown_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match=f"did you mean '{LOOK}'"):
        load_games(GOLDEN).index_of(LOOK[:-1])


def test_a_missing_path_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(GameError, match=r"no game file or folder .*nowhere.*alfworld-download"):
        load_games(tmp_path / "nowhere")


def test_a_folder_without_games_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GameError, match=r"No game\.tw-pddl lies in"):
        load_games(tmp_path)


@pytest.mark.parametrize("content", [b"not json", b"[1, 2]", b'{"a": 1}', b"\xff\xfe", b'{"a": '])
def test_a_compact_file_of_another_kind_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    for name, data in (("games.json", content), ("games.json.xz", lzma.compress(content)), ("raw.json.xz", content)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(GameError, match=name):
            load_games(tmp_path / name)


@pytest.mark.parametrize("key", ["task", "problem", "walkthrough"])
def test_an_entry_without_a_key_is_an_error_when_it_is_played(tmp_path: Path, key: str) -> None:
    entry = {k: v for k, v in entries()[LOOK].items() if k != key}
    (tmp_path / "games.json").write_text(json.dumps({LOOK: entry}), encoding="utf-8")
    library = load_games(tmp_path / "games.json")
    with pytest.raises(GameError, match=f"has no '{key}'"):
        library[0]


@pytest.mark.parametrize("key", ["grammar", "pddl_problem", "walkthrough"])
def test_a_game_file_without_a_key_is_an_error_that_names_the_file(tmp_path: Path, key: str) -> None:
    library = load_games(write_game(tmp_path, **{key: None}))
    with pytest.raises(GameError, match=rf"game\.tw-pddl has no '{key}'"):
        library[0]


@pytest.mark.parametrize("content", ["nonsense", "[]", "3", '{"grammar": 1'])
def test_a_game_file_that_is_no_json_object_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "game.tw-pddl").write_text(content, encoding="utf-8")
    with pytest.raises(GameError, match=r"game\.tw-pddl"):
        load_games(tmp_path)[0]


def test_a_grammar_without_a_task_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GameError, match="names no task"):
        load_games(write_game(tmp_path, grammar="grammar"))[0]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("(:init", "(:begin", r"lacks its \(:init"),
        ("(:goal", "(:wish", r"lacks its \(:init"),
        ("(atLocation agent1", "(atLocation agent1 (", "unbalanced"),
        ("(atLocation agent1", "(levitates agent1", "'levitates'"),
        ("(isToggled ?ot)", "(inReceptacleObject ?ot ?o)", "does not support"),
        ("(isToggled ?ot)", "(isToggled ?ot) (isHot ?o)", "combines several tasks"),
        ("(objectType ?o BoxType)", "(holds ?a ?o)", "does not name one kind"),
    ],
)
def test_a_malformed_or_unsupported_problem_is_an_error_with_its_reason(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    path = write_game(tmp_path, pddl_problem=break_problem(old, new))
    with pytest.raises(GameError, match=rf"game\.tw-pddl .*{reason}.*: leave it out, or download"):
        load_games(path)[0]


def test_comments_and_distances_of_older_problems_are_skipped(tmp_path: Path) -> None:
    problem = break_problem("(:init", "(:init ; (a comment\n (= (total-cost) 0) (= (distance loc_bar_1 loc_bar_2) 22)")
    (game,) = load_games(write_game(tmp_path / LOOK, pddl_problem=problem))
    compact = load_games(GOLDEN)
    assert game == compact[compact.index_of(LOOK)]


def test_a_sliced_goal_is_read(tmp_path: Path) -> None:
    problem = break_problem("(holds ?a ?o)", "(sliceable ?o) (isSliced ?o) (holds ?a ?o)")
    (game,) = load_games(write_game(tmp_path, pddl_problem=problem))
    assert game.goal.sliced
