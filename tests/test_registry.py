"""Ids of environments: short names, gymnasium ids, plugins, references to modules and files."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import gymnasium
import pytest
from helpers import CountEnv, WordEnv

import agent_gym
from agent_gym import registry
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.tools import as_tool


@pytest.fixture(autouse=True)
def restored_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    known = set(gymnasium.registry)
    yield
    for id_ in set(gymnasium.registry) - known:
        del gymnasium.registry[id_]


def python(code: str) -> str:
    """Run code in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_agent_gym_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'gymnasium', 'numpy', 'accelerate', 'pydantic'}"
    code = f"import sys, agent_gym, agent_gym.registry; agent_gym.specs(); print(sorted({heavy} & set(sys.modules)))"
    assert python(code) == "[]\n"


def test_gymnasium_finds_alfworld_by_itself() -> None:
    made = "print(gymnasium.make('{}', size='tiny').reset(seed=0)[0][:3])"
    named = "import gymnasium; " + made.format("agent_gym:agent_gym/ALFWorld-v1")
    imported = "import gymnasium, agent_gym; " + made.format("agent_gym/ALFWorld-v1")
    used = "import agent_gym; agent_gym.make('alfworld', size='tiny'); import gymnasium; " + made.format(
        "agent_gym/ALFWorld-v1"
    )
    for code in (named, imported, used):
        assert python(code) == "You\n"


def test_public_names_are_importable_and_unknown_ones_are_not() -> None:
    from agent_gym.env import TextEnv

    assert agent_gym.TextEnv is TextEnv
    assert set(dir(agent_gym)) == set(agent_gym.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = agent_gym.nonsense


def test_register_and_make_with_defaults_and_overrides() -> None:
    registry.register("count", CountEnv, max_turns=7)
    assert registry.make("count").max_turns == 7
    assert registry.make("count", max_turns=9).max_turns == 9
    assert registry.make("agent_gym/count-v0").max_turns == 7
    made = gymnasium.make("agent_gym/count-v0", max_turns=5)
    assert made.unwrapped.max_turns == 5  # type: ignore[attr-defined]


def test_registering_the_same_twice_is_fine_and_another_under_the_same_id_is_not() -> None:
    registry.register("word", WordEnv)
    registry.register("word", WordEnv)
    with pytest.raises(ConfigError, match="'word' is taken"):
        registry.register("word", CountEnv)


def test_unknown_ids_and_arguments_are_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'alfworld'"):
        registry.make("alfwrld")
    registry.register("word", WordEnv)
    with pytest.raises(ConfigError, match=r"Unknown option 'splitt' of the environment 'word': did you mean 'split'"):
        registry.make("word", splitt="test")
    with pytest.raises(UnknownIdError, match=r"name the class in it too, as echo\.py:MyEnv"):
        registry.make("echo.py")


def test_an_argument_that_lacks_is_told_and_an_error_of_the_constructor_is_its_own() -> None:
    def needy(level: int) -> CountEnv:
        raise TypeError(f"level {level} is broken")

    registry.register("needy", needy)
    with pytest.raises(ConfigError, match=r"'needy' cannot be made with these arguments: .*'level'"):
        registry.make("needy")
    with pytest.raises(TypeError, match="level 1 is broken"):
        registry.make("needy", level=1)


def test_references_to_modules_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).with_name("helpers.py").read_text()
    (tmp_path / "my_module.py").write_text(source)
    (tmp_path / "my_file.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    paths = list(sys.path)
    for reference in ("my_module:CountEnv", "my_file.py:CountEnv", f"{tmp_path}/my_file.py:CountEnv"):
        assert registry.make(reference, max_turns=3).max_turns == 3
    assert sys.path == paths
    for reference in ("no_module:CountEnv", "my_module:NoEnv", "no_file.py:CountEnv"):
        with pytest.raises(UnknownIdError, match="cannot be imported"):
            registry.make(reference)


def test_plugins_are_loaded_once_and_may_register(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Entry:
        def load(self) -> object:
            return lambda: (calls.append(1), registry.register("plugged", WordEnv))

    monkeypatch.setattr(registry, "_loaded_plugins", False)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [Entry()])
    assert "plugged" in [spec.id for spec in registry.specs()]
    registry.specs()
    assert calls == [1]


def test_a_plugin_that_fails_is_named_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("broken", "no_such_plugin:register", registry.PLUGIN_GROUP)
    monkeypatch.setattr(registry, "_loaded_plugins", False)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [entry])
    for look_up in (registry.specs, lambda: registry.make("alfworld"), lambda: as_tool("calculator")):
        with pytest.raises(ConfigError, match=r"'broken' \(no_such_plugin:register\) failed: ModuleNotFoundError"):
            look_up()


def test_a_file_is_run_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    size = 1\n")
    first = registry.resolve(f"{file}:Mine")
    assert registry.resolve(f"{file}:Mine") is first
    file.write_text("class Mine:\n    size = 22\n")
    assert registry.resolve(f"{file}:Mine").size == 22


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import os\nKEY = os.environ['A_KEY_THAT_IS_NOT_SET']\n",
            r"KeyError: 'A_KEY_THAT_IS_NOT_SET' \(broken.py, line 2\)",
        ),
        ("class Own(\n", r"SyntaxError: .*\(broken.py, line 1\)"),
    ],
)
def test_a_file_that_fails_says_where_and_is_tried_again_when_it_is_mended(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"cannot be imported: {words}; mend that module"):
        agent_gym.make(f"{file}:Own")
    file.write_text("from small_envs import WordEnv as Own\n")
    assert agent_gym.make(f"{file}:Own").reset(seed=0)
