"""The cache: where it is, and that a file in it is the old one or the new one."""

from pathlib import Path

import pytest

from agent_gym.envs.data import cache_folder, keeping_whole
from agent_gym.errors import DataError


def test_the_folder_follows_the_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("AGENT_GYM_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "agent_gym"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "agent_gym"
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_file_is_replaced_only_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with keeping_whole(path) as new:
        new.write_text("old")
    with pytest.raises(KeyboardInterrupt), keeping_whole(path) as new:
        new.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with keeping_whole(path) as new:
        new.write_text("new")
    assert [(found.name, found.read_text()) for found in path.parent.iterdir()] == [("file", "new")]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/below cannot be written"), keeping_whole(tmp_path / "file" / "below"):
        pass
