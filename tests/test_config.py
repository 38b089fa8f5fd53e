"""The configuration."""

from pathlib import Path
from typing import Any

import pytest

from agent_gym.config import EvalConfig, TrainConfig
from agent_gym.config_files import as_dict, build, load, parse_overrides
from agent_gym.errors import ConfigError
from agent_gym.store.run import RunFolder

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("key", "near"), [("update.lerning_rate", "learning_rate"), ("stesp", "steps"), ("rollout.task", "tasks")]
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}.*did you mean '{near}'"):
        load(TrainConfig, None, {key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [("steps", 0), ("update.learning_rate", -1), ("rollout.temperature", 0), ("seed", "x"), ("warm_start.mistakes", 1)],
)
def test_a_number_out_of_range_is_one_sentence_that_names_the_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' is {value!r}"):
        load(TrainConfig, None, {key: value})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rollout": {"window": 3}}, r"window is heeded with layout: turn alone"),
        ({"update": {"importance_cap": 1.5}}, r"importance_cap needs importance: token or turn"),
    ],
)
def test_what_would_not_be_heeded_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(TrainConfig, values)


def test_k_attempts_are_one_at_least() -> None:
    with pytest.raises(ConfigError, match=r"'k.1' is '0': .*greater than or equal to 1"):
        load(EvalConfig, None, {"k": ["4", "0"]})


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps: 5\nupdate: {learning_rate: 0.1}\n")
    config = load(TrainConfig, tmp_path / "a.yaml", parse_overrides(["update.learning_rate=1e-5"]))
    assert (config.steps, config.update.learning_rate) == (5, 1e-5)


def test_overrides_are_read_as_yaml() -> None:
    assert parse_overrides(["a=1", "b=[x, y]", "c=2e-4", "d=text", "e=null"]) == {
        "a": 1,
        "b": ["x", "y"],
        "c": 2e-4,
        "d": "text",
        "e": None,
    }


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "just text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        load(TrainConfig, tmp_path / "a.yaml", {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load(TrainConfig, tmp_path / "none.yaml", {})


def test_a_configuration_survives_being_written_and_read() -> None:
    config = build(TrainConfig, {"steps": 3, "env": {"options": {"size": "tiny"}}})
    assert build(TrainConfig, as_dict(config)) == config


def test_a_run_can_be_started_from_the_configuration_of_another(tmp_path: Path) -> None:
    config = build(TrainConfig, {"steps": 3, "env": {"options": {"size": "tiny"}}})
    run = RunFolder.create(tmp_path / "run", as_dict(config))
    for path in (run.path, run.path / "config.yaml"):
        assert load(TrainConfig, path, {"seed": 1}) == config.model_copy(update={"seed": 1})


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_valid_configuration(path: Path) -> None:
    load(TrainConfig, path, {})


def test_sizes_that_say_nothing_of_a_model_are_told() -> None:
    assert build(TrainConfig, {"model": {"path": "Qwen/Qwen3-4B", "layers": 2}}).model.unheeded == ["layers"]
    assert build(TrainConfig, {"model": {"layers": 2}}).model.unheeded == []
