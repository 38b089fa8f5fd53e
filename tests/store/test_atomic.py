"""What is written is whole, or not there."""

from pathlib import Path

import pytest

from agent_gym.errors import StoreError
from agent_gym.store.atomic import new_folder, write_text


def test_text_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_sentence_that_names_the_path_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.txt.partial").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"a\.txt cannot be written: No space left.*--resume"):
        write_text(tmp_path / "a.txt", "x")
    assert not (tmp_path / "a.txt").exists()


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with new_folder(tmp_path / "step-1") as folder:
        (folder / "model").write_text("weights")
        assert not (tmp_path / "step-1").exists()
    assert (tmp_path / "step-1" / "model").read_text() == "weights"


def test_a_folder_whose_filling_fails_leaves_the_old_one(tmp_path: Path) -> None:
    with new_folder(tmp_path / "step-1") as folder:
        (folder / "model").write_text("old")
    with pytest.raises(RuntimeError, match="broken"), new_folder(tmp_path / "step-1") as folder:
        (folder / "model").write_text("new")
        raise RuntimeError("broken")
    assert (tmp_path / "step-1" / "model").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
