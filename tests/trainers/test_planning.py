"""Plans: the first way that fits is taken, nothing overflows, and where nothing fits the remedies were tried."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.errors import ConfigError
from agent_gym.trainers.launching import accelerate_config, planned_config, server_commands
from agent_gym.trainers.planning import HEADROOM, Machines, NoPlan, Plan, make_plan
from agent_gym.trainers.recipes import all_recipes, recipe
from agent_gym.trainers.sizing import GIB
from agent_gym.trainers.workload import Assumptions, workload

EIGHT = Machines(8, 80 * GIB)
EXAMPLES = Path(__file__).parents[2] / "examples" / "scale"


def config_of(model: str, **sections: Any) -> TrainConfig:
    rollout = {"max_tokens": 512, "max_episode_tokens": 8192} | sections.pop("rollout", {})
    return TrainConfig.model_validate({"model": {"path": model}, "rollout": rollout} | sections)


def planned(config: TrainConfig, machines: Machines = EIGHT) -> Plan:
    plan = make_plan(config, machines)
    assert isinstance(plan, Plan), plan.reasons
    return plan


@pytest.mark.parametrize(
    ("model", "machines", "sharding"),
    [
        ("Qwen/Qwen2.5-0.5B", Machines(1, 24 * GIB), "none"),
        ("Qwen/Qwen2.5-1.5B", EIGHT, "none"),
        ("Qwen/Qwen2.5-7B", EIGHT, "fsdp2"),
        ("Qwen/Qwen2.5-32B", Machines(8, 80 * GIB, nodes=4), "fsdp2"),
        ("Qwen/Qwen2.5-32B", EIGHT, "fsdp2-offload"),
    ],
)
def test_the_fastest_way_that_fits_is_taken(model: str, machines: Machines, sharding: str) -> None:
    plan = planned(config_of(model), machines)
    assert (plan.setup.sharding, plan.server_gpus) == (sharding, 0)


@pytest.mark.parametrize(("piece", "name"), all_recipes())
def test_every_recipe_has_a_plan_for_eight_gpus_and_none_overflows(piece: str, name: str) -> None:
    plan = planned(build(TrainConfig, recipe(piece, name)))
    assert sum(plan.update.values()) <= HEADROOM * EIGHT.memory
    engine = plan.cache.share * EIGHT.memory
    assert sum(plan.sampling.values()) + engine <= HEADROOM * EIGHT.memory
    assert plan.setup.micro_batch_tokens >= plan.work.longest_row and plan.full_episodes >= 1


def test_where_nothing_fits_the_reason_is_told_and_every_remedy_does_it() -> None:
    config = config_of("Qwen/Qwen2.5-7B-Instruct")
    plan = make_plan(config, Machines(1, 80 * GIB))
    assert isinstance(plan, NoPlan) and "optimizer 85.1" in plan.reasons[0]
    assert [remedy.split()[0] for remedy in plan.remedies] == ["--lora", "--gpus", "--nodes", "--gpu-memory"]
    assert isinstance(make_plan(config_of("Qwen/Qwen2.5-7B", rollout={"max_tokens": 64}), Machines(2, 80 * GIB)), Plan)
    assert isinstance(make_plan(config, Machines(1, 141 * GIB)), Plan)
    lora = config.model_copy(
        update={"model": build(TrainConfig, {"model": {"path": config.model.path, "lora": {}}}).model}
    )
    assert isinstance(make_plan(lora, Machines(1, 80 * GIB)), Plan)


def test_an_unreasonable_wish_has_no_remedy() -> None:
    plan = make_plan(config_of("Qwen/Qwen2.5-32B"), Machines(1, 8 * GIB))
    assert isinstance(plan, NoPlan) and not any(remedy.startswith("--lora") for remedy in plan.remedies)


def test_servers_take_gpus_from_those_that_train() -> None:
    config = config_of("Qwen/Qwen2.5-7B")
    plan = make_plan(config, EIGHT, servers=True)
    assert isinstance(plan, Plan) and not plan.sampling
    assert plan.server_gpus and plan.setup.gpus + plan.server_gpus == 8
    commands, values = server_commands(config, plan), planned_config(config, plan)
    assert len(commands) == len(values["engine"]["urls"]) == plan.engines
    assert values["engine"]["kind"] == "server" and values["distributed"] == {"shard": True}
    used = {gpu for each in commands for gpu in each.split("=")[1].split()[0].split(",")}
    assert used == {str(gpu) for gpu in range(plan.setup.gpus, 8)}
    assert make_plan(build(TrainConfig, values), EIGHT) == plan


def test_servers_can_be_asked_for_and_are_whole_nodes_where_there_are_several() -> None:
    config, machines = config_of("Qwen/Qwen2.5-7B"), Machines(8, 80 * GIB, nodes=4)
    plan = make_plan(config, machines, servers=True)
    assert isinstance(plan, Plan) and plan.server_gpus == 8 and plan.setup.gpus == 24
    engine = planned_config(config, plan)["engine"]
    assert engine["urls"][0] == "http://node-3:8000" and len(engine["urls"]) == 8 and engine["trust_network"]


def test_a_planned_configuration_keeps_what_was_set_and_is_valid() -> None:
    values = recipe("epo", "alfworld")
    plan = planned(build(TrainConfig, values))
    result = planned_config(build(TrainConfig, values), plan)
    again = build(TrainConfig, yaml.safe_load(yaml.safe_dump(result)))
    assert again.algorithm.options == values["algorithm"]["options"] and again.rollout.layout == "turn"
    assert again.update.micro_batch_tokens == plan.setup.micro_batch_tokens and again.model.dtype == "bfloat16"
    assert planned(again).setup == plan.setup


def test_the_tokens_of_a_step_follow_from_episodes_turns_and_limits() -> None:
    config = config_of(
        "m", env={"id": "alfworld", "options": {"max_turns": 10}}, rollout={"tasks": 4, "max_tokens": 100}
    )
    work = workload(config, 2048, Assumptions(observation_tokens=60, turn_share=0.4))
    assert (work.episodes, work.turns, work.rows, work.longest_row) == (32, 10, 32, 1600)
    assert (work.most_generated, work.expected_generated, work.expected_trained) == (32 * 1000, 32 * 400, 32 * 1000)
    turns = config.model_copy(update={"rollout": config.rollout.model_copy(update={"layout": "turn", "window": 1})})
    work = workload(turns, 2048, Assumptions(observation_tokens=60, turn_share=0.4))
    assert (work.rows, work.longest_row, work.expected_trained) == (320, 320, 320 * 200)
    assert workload(config, 512).longest_row == 512


def test_the_episodes_of_a_task_are_counted_whatever_goes_on_around_them() -> None:
    for name in ("grpo", "dapo+empg", "arpo"):
        config = config_of(
            "m", algorithm={"name": name, "options": {"group_size": 6, **({"initial": 3} if name == "arpo" else {})}}
        )
        assert workload(config, 2048).episodes == 16 * 6


def test_a_regular_expression_of_adapters_is_refused() -> None:
    config = config_of("Qwen/Qwen2.5-7B").model_dump()
    config["model"]["lora"] = {"target_modules": ".*proj"}
    with pytest.raises(ConfigError, match="cannot be counted"):
        make_plan(build(TrainConfig, config), EIGHT)


@pytest.mark.parametrize(
    ("file", "sharding", "gpus", "nodes"),
    [("ddp", "none", 8, 1), ("fsdp2", "fsdp2", 8, 1), ("four_nodes", "fsdp2", 8, 4)],
)
def test_the_examples_for_accelerate_are_those_that_plan_writes(
    file: str, sharding: Any, gpus: int, nodes: int
) -> None:
    assert yaml.safe_load((EXAMPLES / f"{file}.yaml").read_text()) == accelerate_config(
        sharding, gpus=gpus, nodes=nodes
    )


def test_more_memory_never_takes_a_plan_away() -> None:
    config = config_of("Qwen/Qwen3-14B")
    fits = [isinstance(make_plan(config, replace(EIGHT, memory=gib * GIB)), Plan) for gib in (24, 40, 48, 80, 141)]
    assert fits == sorted(fits) and fits[-1]
