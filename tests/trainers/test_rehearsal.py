"""A dry run builds everything but the model: every recipe passes, and what would break a real run is found."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent_gym.cli.app import app
from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.errors import AgentGymError
from agent_gym.trainers.recipes import all_recipes, recipe
from agent_gym.trainers.rehearsal import rehearse
from agent_gym.trainers.shapes import KNOWN

QUICK: dict[str, Any] = {
    "env": {"id": "alfworld", "options": {"size": "tiny", "max_turns": 3}},
    "model": {"path": "Qwen/Qwen2.5-7B-Instruct"},
    "rollout": {"tasks": 2, "max_tokens": 64, "max_episode_tokens": 4096},
}


def config_of(**sections: Any) -> TrainConfig:
    return build(TrainConfig, {**QUICK, **sections})


@pytest.mark.parametrize(("piece", "name"), all_recipes())
def test_every_recipe_can_be_rehearsed(piece: str, name: str) -> None:
    values = recipe(piece, name)
    # With all of their turns they take minutes together.
    values["env"]["options"]["max_turns"] = min(8, values["env"]["options"]["max_turns"])
    config = build(TrainConfig, values)
    found = rehearse(config)
    assert found.result.failed == 0 and found.metrics["updates"] >= 1
    assert found.setup is not None
    assert found.work.episodes == config.rollout.tasks * config.algorithm.options["group_size"]


def test_algorithm_layout_and_turn_limit_are_those_of_the_run() -> None:
    config = build(TrainConfig, recipe("epo", "webshop"))
    found = rehearse(config)
    assert found.result.turns == config.env.options["max_turns"] == 15
    assert found.played.algorithm.name == config.algorithm.name and found.played.rollout.layout == "turn"
    assert found.played.algorithm.options == config.algorithm.options | {"group_size": 2}


def test_tasks_that_are_not_here_are_stood_in_for_and_it_is_told(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = rehearse(config_of(env={"id": "alfworld", "options": {"games": "official", "max_turns": 2}}))
    assert "agent-gym data get alfworld" in found.stand_in and found.stand_in in found.missing
    assert found.config.env.options["games"] == "official" and found.played.env.options["size"] == "tiny"
    assert rehearse(config_of()).stand_in == ""


def test_what_is_not_installed_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr("agent_gym.trainers.rehearsal.find_spec", lambda name: None)
    model = QUICK["model"] | {"attention": "flash_attention_2"}
    rollout = QUICK["rollout"] | {"workers": "ray", "ray_actors": 2}
    found = rehearse(config_of(engine={"kind": "vllm", "eager": True}, model=model, rollout=rollout))
    assert [lack.split()[0].strip(":") for lack in found.missing] == ["vllm", "ray", "flash-attn"]
    assert "agent-gym[vllm]" in found.missing[0]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"rollout": {"max_episode_tokens": 40_000}}, "reads 32,768 tokens"),
        ({"rollout": {"max_tokens": 2048, "max_episode_tokens": 2048}}, "no turn has room"),
        ({"algorithm": {"name": "grpo", "options": {"grup_size": 4}}}, "did you mean 'group_size'"),
        ({"env": {"id": "alfworld", "options": {"sise": "tiny"}}}, "sise"),
        ({"env": {"id": "alfwurld"}}, "did you mean 'alfworld'"),
        ({"rollout": {"syntax": "tagd"}}, "tagged"),
        ({"model": {"path": "Qwen/Qwen3-8B", "lora": {"target_modules": ["c_attn"]}}}, "no such layer"),
        ({"measure": {"split": "unseen"}}, "unseen"),
        ({"engine": {"kind": "server", "urls": ["http://node-2:8000"]}}, "trust_network"),
        ({"engine": {"kind": "server", "urls": ["node-2:8000"]}}, "http"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_what_would_break_the_run_is_found_before_anything_is_played(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(AgentGymError, match=said):
        rehearse(config_of(**sections))


def test_an_algorithm_that_branches_is_refused_where_the_environment_cannot(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from agent_gym import State, Task, TextEnv\nfrom agent_gym.errors import ForkDiverged\n\n\n"
        "class Own(TextEnv):\n"
        "    def fork(self):\n        raise ForkDiverged('it was not made for it')\n\n"
        "    def tasks(self, split):\n        return [Task('a', split)]\n\n"
        "    def _start(self, task, rng):\n        return 'say a', State(goal='a')\n\n"
        "    def _act(self, action):\n        return 'no', State(goal='a')\n"
    )
    own = {"id": f"{tmp_path / 'own.py'}:Own", "options": {"max_turns": 2}}
    with pytest.raises(AgentGymError, match="fork"):
        rehearse(config_of(env=own, algorithm={"name": "arpo"}, measure={"tasks": 0}))


def test_adapters_are_trained_and_compared_with_their_own_beginning() -> None:
    pytest.importorskip("peft", reason="needs the extra lora")
    options = {"group_size": 2, "kl_coefficient": 0.1}
    model = QUICK["model"] | {"lora": {"rank": 4}, "gradient_checkpointing": True}
    found = rehearse(config_of(model=model, algorithm={"name": "grpo", "options": options}))
    assert found.metrics["updates"] >= 1 and found.metrics["grad_norm"] > 0
    assert found.metrics["kl"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(AgentGymError, match=r"distributed\.shard"):
        rehearse(config_of(model=model, algorithm={"name": "grpo", "options": options}, distributed={"shard": True}))


def test_the_shape_of_a_model_comes_from_its_folder(tmp_path: Path) -> None:
    KNOWN["Qwen/Qwen3-0.6B"].model_config(max_position_embeddings=512).save_pretrained(tmp_path)
    with pytest.raises(AgentGymError, match="reads 512 tokens"):
        rehearse(config_of(model={"path": str(tmp_path)}))
    unknown = rehearse(config_of(model={"path": "someone/some-model"}))
    assert unknown.setup is None and "not checked" in unknown.missing[0]


def test_the_command_prints_the_whole_configuration_and_writes_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--dry-run", "--env", "alfworld", "--model", "Qwen/Qwen2.5-1.5B", "--steps", "7"]
    assignments = ["env.options.max_turns=2", "env.options.size=tiny", "rollout.max_tokens=32"]
    done = CliRunner().invoke(app, [*arguments, *(part for each in assignments for part in ("--set", each))])
    assert done.exit_code == 0, done.exception
    for said in ("learning_rate: 1.0e-06", "7 steps of 128 episodes", "GiB on one GPU", "nothing was written"):
        assert said in done.stdout
    assert list(tmp_path.iterdir()) == []
