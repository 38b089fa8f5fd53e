"""The user's own code on its way to another machine."""

import sys
from pathlib import Path

import pytest
from small_envs import CountEnv

from agent_gym.errors import ConfigError
from agent_gym.registry import make, register
from agent_gym.rollout.shipping import shipment_of


def written(folder: Path) -> None:
    """Write an environment that imports a package and, late, a module beside it, and a file that it does not need."""
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("")
    (folder / "pack" / "words.py").write_text("SAID = 'from a package'\n")
    (folder / "late.py").write_text("MORE = 'and late'\n")
    (folder / "keys.py").write_text("SECRET = 'sesame'\n")
    (folder / "env_of_mine.py").write_text(
        "import math\nfrom small_envs import CountEnv\nfrom pack.words import SAID\n"
        "class Mine(CountEnv):\n    def _said(self):\n        from late import MORE\n        return SAID + ' ' + MORE\n"
        "class Loud:\n    pass\n"
    )


def test_a_file_travels_with_what_it_imports_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    with monkeypatch.context() as at_home:
        at_home.syspath_prepend(tmp_path)
        entry, options, shipment = shipment_of(
            f"{tmp_path}/env_of_mine.py:Mine", {"max_turns": 3, "names": [f"{tmp_path}/env_of_mine.py:Loud"]}
        )
    names = {Path(path).relative_to(tmp_path).as_posix() for path, _ in shipment.files}
    assert names == {"env_of_mine.py", "late.py", "pack/__init__.py", "pack/words.py"}
    for path, _ in shipment.files:
        Path(path).unlink()
    monkeypatch.setattr("sys.path", list(sys.path))
    moved = shipment.unpack(str(tmp_path / "elsewhere"))
    entry, options = moved((entry, options))
    assert Path(entry.rpartition(":")[0]).is_relative_to(tmp_path / "elsewhere")
    assert options == {"max_turns": 3, "names": [entry.replace("Mine", "Loud")]}
    for name in ("pack", "pack.words", "late"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert make(entry, max_turns=3).reset(seed=0)[0] == "from a package and late"


def test_files_that_are_there_already_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    entry, _, shipment = shipment_of(f"{tmp_path}/env_of_mine.py:Mine", {})
    assert shipment.unpack(str(tmp_path / "elsewhere"))(entry) == entry
    assert not (tmp_path / "elsewhere").exists()


def test_installed_environments_do_not_travel() -> None:
    assert shipment_of("alfworld", {"size": "tiny"})[1:] == ({"size": "tiny"}, type(shipment_of("alfworld", {})[2])())


def test_a_class_of_this_process_alone_is_refused() -> None:
    class Local(CountEnv):
        pass

    register("local-to-the-test-of-shipping", Local)
    with pytest.raises(ConfigError, match=r"exists in this process only.*--workers local"):
        shipment_of("local-to-the-test-of-shipping", {})


def test_a_heap_of_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late.py").write_text("#" * 10_000_001)
    with pytest.raises(ConfigError, match="install it there as a package"):
        shipment_of(f"{tmp_path}/env_of_mine.py:Mine", {})
