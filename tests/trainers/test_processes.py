"""Training with several processes: what one process comes to, whatever the method, and errors that all of them meet."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
import yaml
from learner_steps import (
    METHODS,
    Made,
    ahead_and_stopped,
    few_rows,
    meet,
    not_finite,
    on_this_rank,
    one_process,
    run_and_die,
)
from ranks import on_ranks

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.errors import ConfigError, EngineError, ProcessError, WorkerError
from agent_gym.store.run import RunFolder
from agent_gym.trainers import processes as processes_module
from agent_gym.trainers.micro_batches import runs, shares
from agent_gym.trainers.processes import alone, join
from agent_gym.trainers.trainer import train

CLOSE: dict[str, Any] = {"abs": 1e-5, "rel": 1e-5}

SMALL: dict[str, Any] = {
    "env": {"id": "alfworld", "options": {"size": "tiny", "max_turns": 5}},
    "model": {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 32, "vocabulary": 600},
    "warm_start": {"episodes": 12},
    "rollout": {"tasks": 3, "concurrency": 8, "max_tokens": 6},
    "algorithm": {"name": "aepo+epo", "options": {"group_size": 3}},
    "update": {"learning_rate": 1e-3, "updates_per_step": 2, "micro_batch_tokens": 300},
    "measure": {"tasks": 3},
    "steps": 3,
    "checkpoint_every": 1,
    "threads": 1,
}


def assert_alike(one: Made, other: Made, *, close: float = 1e-5) -> None:
    """What two numbers of processes came to differs by rounding alone."""
    for mine, theirs in zip(one.metrics, other.metrics, strict=True):
        assert mine == pytest.approx(theirs, abs=close, rel=close)
    assert one.gradients.keys() == other.gradients.keys()
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, other.gradients[name], atol=close, rtol=close)
    for name, weight in one.weights.items():
        # Adam divides by the gradient's size, and so amplifies rounding where a gradient is almost 0.
        assert float((weight - other.weights[name]).abs().float().quantile(0.99)) < close
    for episode, named in one.signals.items():
        for name, values in named.items():
            assert values == pytest.approx(other.signals[episode][name], abs=10 * close), name


def everywhere(made: list[Any]) -> list[dict[str, Any]]:
    """Return what each process has made; an error of one of them is this test's."""
    for each in made:
        if isinstance(each, Exception):
            raise each
    return made


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Made]]:
    """What two processes make that have a copy of the model each."""
    plans = {name: {"name": name} for name in METHODS}
    return everywhere(on_ranks(2, on_this_rank, plans, folder=tmp_path_factory.mktemp("copied")))


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_make_the_steps_of_one_whatever_the_method(copied: list[dict[str, Made]], name: str) -> None:
    expected = one_process(name=name)
    for made in copied:
        assert_alike(expected, made[name])
        assert made[name].state["algorithm"].keys() == expected.state["algorithm"].keys()
    one, other = copied
    assert all(torch.equal(value, other[name].weights[key]) for key, value in one[name].weights.items())


SHARDED: dict[str, dict[str, Any]] = {
    "reference": {"name": "kl reference"},
    "critic": {"name": "critic"},
    "replay": {"name": "spear summed"},
    "muon": {"name": "grpo", "optimizer": "muon", "weight_decay": 0.1},
    "prefixes": {"name": "all", "share_prefixes": True},
    "clipped": {"name": "bonus", "max_grad_norm": 0.01},
}
KINDS: dict[str, dict[str, Any]] = {
    kind: {"name": "bonus", "kind": kind} for kind in ("adapters, checkpointing", "bfloat16, checkpointing", "chunks")
}


@pytest.fixture(scope="module")
def beginnings() -> dict[str, Made]:
    """What one process makes in the first two steps."""
    return {key: one_process(**SHARDED[key], steps=(0, 1)) for key in ("critic", "replay", "muon")}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, beginnings: dict[str, Made]) -> list[dict[str, Made]]:
    """What two processes make that have half of the model each, from the beginning and from where one has stopped."""
    plans: dict[str, Any] = {key: {**plan, "shard": True} for key, plan in SHARDED.items()}
    for key, made in beginnings.items():
        plans[key + " goes on"] = {**SHARDED[key], "shard": True, "steps": (2,), "after": made}
        plans[key + " goes on copied"] = {**SHARDED[key], "steps": (2,), "after": made}
        plans[key + " begins"] = {**SHARDED[key], "shard": True, "steps": (0, 1)}
    for key, plan in KINDS.items():
        plans[key] = {**plan, "shard": True}
        plans[key + " copied"] = plan
    return everywhere(on_ranks(2, on_this_rank, plans, folder=tmp_path_factory.mktemp("sharded")))


@pytest.mark.parametrize("key", SHARDED)
def test_a_model_that_is_spread_over_processes_makes_the_same_steps(sharded: list[dict[str, Made]], key: str) -> None:
    expected = one_process(**SHARDED[key])
    for made in sharded:
        assert_alike(expected, made[key])


@pytest.mark.parametrize("key", KINDS)
def test_adapters_bfloat16_checkpointing_and_scores_in_chunks_make_the_same_steps(
    sharded: list[dict[str, Made]], key: str
) -> None:
    expected = one_process(**KINDS[key])
    close = 0.05 if "bfloat16" in key else 1e-5
    for made in sharded:
        assert_alike(expected, made[key], close=close)
        assert_alike(expected, made[key + " copied"], close=close)


@pytest.mark.parametrize("key", ["critic", "replay", "muon"])
def test_training_goes_on_with_another_number_of_processes(
    sharded: list[dict[str, Made]], beginnings: dict[str, Made], key: str
) -> None:
    undisturbed = one_process(**SHARDED[key], steps=(2,), after=beginnings[key])
    for made in sharded:
        assert_alike(undisturbed, made[key + " goes on"])
        assert_alike(undisturbed, made[key + " goes on copied"])
        assert_alike(undisturbed, one_process(**SHARDED[key], steps=(2,), after=made[key + " begins"]))


def test_processes_without_a_row_wait_for_nobody(tmp_path: Path) -> None:
    plans = {
        str(shard): {"name": "critic", "made": few_rows(), "shard": shard, "micro_batch_tokens": 1}
        for shard in (False, True)
    }
    expected = one_process(**plans["False"])
    for made in everywhere(on_ranks(3, on_this_rank, plans, folder=tmp_path)):
        assert_alike(expected, made["False"])
        assert_alike(expected, made["True"])


def test_what_one_process_meets_all_of_them_raise(tmp_path: Path) -> None:
    for rank, (gathered, disk, engine, worker, nothing) in enumerate(on_ranks(2, meet, folder=tmp_path)):
        assert gathered == ["0.0", "0.1", "0.2", "1.3", "1.4"]
        assert isinstance(disk, OSError) and "disk is full" in str(disk)
        assert isinstance(engine, EngineError) and str(engine) == "nobody answers"
        assert isinstance(worker, WorkerError) and "has died" in str(worker)
        assert nothing is None
        # One of them tells the user.
        assert [hasattr(error, "told_by") for error in (disk, engine, worker)] == [rank == 1, rank == 0, rank == 0]


def test_what_is_not_finite_on_one_process_ends_the_update_on_all_of_them_with_its_reason(tmp_path: Path) -> None:
    for rank, heard in enumerate(everywhere(on_ranks(2, not_finite, folder=tmp_path))):
        for part, what in (("policy", "A log-probability is not finite"), ("critic", "A value is not finite")):
            for shard in (False, True):
                said, told, kept = heard[f"{part} {shard}"]
                assert said.startswith(what) and kept
                assert told == (rank == 0), "one of them tells the user"


def numbers(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the numbers of metrics, without times."""
    return [{key: value for key, value in record.items() if isinstance(value, int | float)} for record in records]


def test_a_run_whose_process_is_killed_goes_on_with_others_and_ends_with_the_numbers_of_one_process(
    tmp_path: Path,
) -> None:
    expected = train(build(TrainConfig, SMALL), tmp_path / "undisturbed")
    folder = str(tmp_path / "killed")
    for values in (SMALL, SMALL | {"distributed": {"shard": True}}):
        killed, left = on_ranks(2, run_and_die, values, folder, 1, folder=tmp_path)
        assert killed == -signal.SIGKILL
        assert isinstance(left, ProcessError) and "--resume" in str(left) and folder in str(left), left
    resumed = train(build(TrainConfig, SMALL), folder, resume=True)
    assert [record.keys() for record in resumed.metrics] == [record.keys() for record in expected.metrics]
    for mine, theirs in zip(numbers(resumed.metrics), numbers(expected.metrics), strict=True):
        assert mine == pytest.approx(theirs, **CLOSE)


def test_two_processes_sample_ahead_as_one_does_and_end_together_where_one_of_them_is_told_to(tmp_path: Path) -> None:
    short = SMALL | {"warm_start": {"episodes": 0}, "measure": {"tasks": 0}, "checkpoint_every": 10}
    ahead = build(TrainConfig, short | {"rollout": SMALL["rollout"] | {"max_lag": 1}, "steps": 1})
    expected = train(ahead, tmp_path / "one").metrics
    for metrics, stopped in on_ranks(2, ahead_and_stopped, short, str(tmp_path), folder=tmp_path):
        # When new weights arrive within later steps is a matter of time.
        assert numbers(metrics)[0] == pytest.approx(numbers(expected)[0], **CLOSE)
        assert [(record["step"], record["episodes"]) for record in metrics] == [(1, 9), (2, 9), (3, 9)]
        assert all(record["lag_max"] <= 1 for record in metrics)
        assert stopped.exit_code == 143 and "after 1 steps" in str(stopped)
    assert RunFolder.open(tmp_path / "stopped").checkpoints() == [0, 1], "no checkpoint was due there"


def test_torchrun_ends_a_run_of_the_command_line_when_a_process_is_killed(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(SMALL | {"steps": 10_000, "warm_start": {"episodes": 0}, "measure": {"tasks": 0}}))
    metrics = tmp_path / "run" / "metrics.jsonl"
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(ranks.free_port())]
    command += ["-m", "agent_gym", "train", "--config", str(config), "--name", "run", "--runs", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said").open("w") as said:
        agent = subprocess.Popen([sys.executable, *command], env=environment, stdout=said, stderr=said)
        try:
            end = time.monotonic() + 240
            while not (metrics.is_file() and metrics.read_text().count("\n") > 1):
                assert agent.poll() is None and time.monotonic() < end, (tmp_path / "said").read_text()
                time.sleep(0.05)
            os.kill(rank_of(agent.pid, 1), signal.SIGKILL)
            assert agent.wait(60) != 0
        finally:
            agent.kill()
            agent.wait()
    assert (tmp_path / "said").read_text().count("training: 10000") == 1
    first = json.loads(metrics.read_text().splitlines()[0])
    assert first["step"] == 1 and first["episodes"] == 9


def rank_of(agent: int, rank: int) -> int:
    """Return the process of torchrun that has a rank."""
    for task in Path(f"/proc/{agent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return int(child)
    raise AssertionError(f"torchrun has no process of rank {rank}.")


def test_one_process_gathers_agrees_and_sums_for_itself() -> None:
    this = alone()
    assert (this.count, this.rank, this.is_main, this.mine(3)) == (1, 0, True, [0, 1, 2])
    assert this.gather(["a", "b"]) == ["a", "b"] and this.all(1) == [1] and this.told(lambda: 7) == 7
    values = torch.ones(2)
    assert this.sum(values) is values
    with pytest.raises(EngineError, match="mine"), this.together():
        raise EngineError("mine")


@pytest.mark.parametrize("seen", ["environment", "accelerate"])
def test_a_launcher_that_starts_one_process_of_two_is_told_of(monkeypatch: pytest.MonkeyPatch, seen: str) -> None:
    if seen == "environment":
        monkeypatch.setattr(processes_module, "launched", lambda: 1)
        monkeypatch.setattr(processes_module, "_asked_of_accelerate", lambda: 2)
    else:
        words = ["python", "/bin/accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "agent_gym", ""]
        monkeypatch.setattr(Path, "read_text", lambda self: "\0".join(words))
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 2"):
        join()


def test_rows_are_shared_out_by_tokens_each_once() -> None:
    lengths = torch.tensor([9, 1, 1, 1, 5, 3, 8, 2])
    rows = torch.tensor([0, 1, 2, 4, 5, 6, 7])
    for divide in (shares, runs):
        shared = divide(lengths, rows, 3)
        assert sorted(torch.cat(shared).tolist()) == rows.tolist()
        assert max(int(lengths[own].sum()) for own in shared) <= 13
    assert [part.tolist() for part in runs(lengths, rows, 3)] == [[0, 1], [2, 4, 5], [6, 7]]
    assert [len(part) for part in shares(lengths, rows[:1], 3)] == [1, 0, 0]
