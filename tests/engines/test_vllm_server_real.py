"""Training against a real server of vLLM on a tiny model: started, pushed to, compared with the trainer, and killed."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forking
import httpx
import pytest
import torch
from vllm_python import vllm_python

from agent_gym.engines.fingerprint import same
from agent_gym.engines.loading import load_model
from agent_gym.engines.tiny import TinySize, make_model, train_tokenizer
from agent_gym.engines.weight_folders import write_weights
from agent_gym.store.run import RunFolder
from agent_gym.trainers.weights import named_weights

pytestmark = pytest.mark.slow

START_SECONDS = 400
NOTICED_SECONDS = 30
"""Within this time after its server was killed a run has ended, the start of its process not counted."""
STEPS = "12"
"""Of the run whose server is killed after the first."""
PROBE = [5, 6, 7, 8, 9, 100, 120, 140]
COMMAND = str(Path(sys.executable).with_name("agent-gym"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SERVER_ENVIRONMENT = ENVIRONMENT | {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # It would bind itself to one core, whatever else runs there.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
LUCK = '''
"""Answers of an even number of characters are worth 1: any policy gets some of both."""

from agent_gym.env import State, Task, TextEnv


class Luck(TextEnv):
    splits = ("train", "test")

    def tasks(self, split):
        return [Task(f"{split} {number}", split) for number in range(4)]

    def _start(self, task, rng):
        return f"try your luck with {task.id}", State(goal="luck")

    def _act(self, action):
        lucky = len(action) % 2 == 0
        return "again", State(goal="luck", reward=float(lucky), success=lucky, terminated=self.turn >= 1)
'''


@dataclass
class Served:
    """A server that runs, and the folder of its model."""

    process: "subprocess.Popen[bytes]"
    url: str
    model: Path
    folder: Path

    def scores(self) -> list[float]:
        """Return the log-probabilities of the probe's tokens."""
        body = {"model": str(self.model), "prompt": PROBE, "max_tokens": 1, "prompt_logprobs": 0}
        places = httpx.post(f"{self.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["prompt_logprobs"]
        return [place[str(token)]["logprob"] for token, place in zip(PROBE[1:], places[1:], strict=True)]

    def train(self, name: str, *more: str) -> list[str]:
        """Return the arguments of a training run, which begins anew unless it is resumed."""
        if "--resume" not in more:
            self.forget(name)
        settings = {
            "rollout.tasks": 2, "rollout.max_tokens": 6, "algorithm.options.group_size": 4, "measure.tasks": 0,
            "update.learning_rate": 0.01, "checkpoint_every": 1, "keep_checkpoints": 9, "threads": 1,
        }  # fmt: skip
        return [
            "train", "--env", "luck.py:Luck", "--algorithm", "grpo", "--model", str(self.model), "--name", name,
            *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")), *more,
        ]  # fmt: skip

    def forget(self, name: str) -> None:
        """Remove what a first try of a test has left."""
        shutil.rmtree(self.folder / "runs" / name, ignore_errors=True)

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return the records of a run's steps."""
        lines = (self.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["phase"] == "train"]

    def stop(self) -> None:
        """End the server with all its processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    python = vllm_python()
    folder = tmp_path_factory.mktemp("served")
    (folder / "luck.py").write_text(LUCK)
    tokenizer = train_tokenizer(["try your luck with train 3. again, and again."], vocabulary=300)
    model = folder / "model"
    make_model(tokenizer, TinySize(hidden=128, layers=2, feed_forward=128, context=512), seed=3).save_pretrained(model)
    tokenizer.save_pretrained(model)
    port = _free_port()
    log = (folder / "vllm.log").open("wb")
    process = subprocess.Popen(
        [
            COMMAND, "serve-model", str(model), "--python", python, "--port", str(port), "--dtype", "float32",
            "--lora-rank", "8", "--", "--enforce-eager", "--max-num-seqs", "16", "--disable-uvicorn-access-log",
        ],
env=SERVER_ENVIRONMENT,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    served = Served(process, f"http://127.0.0.1:{port}", model, folder)
    try:
        _wait_until_it_answers(served, folder / "vllm.log")
        yield served
    finally:
        served.stop()
        log.close()


def _free_port() -> int:
    """Return a port below those that the system hands out itself: vLLM takes it half a minute later."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("no port is free")


def _wait_until_it_answers(served: Served, log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and served.process.poll() is None:
        try:
            if httpx.get(f"{served.url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.25)
    pytest.fail(f"vLLM does not answer within {START_SECONDS} s:\n{log.read_text()[-3000:]}")


def _expected(folder: Path) -> list[float]:
    """Return what a model in a folder says of the probe."""
    model, _ = load_model(str(folder))
    with torch.no_grad():
        logprobs = model(torch.tensor([PROBE])).logits[0].log_softmax(-1)
    return [float(logprobs[place, token]) for place, token in enumerate(PROBE[1:])]


def _apart(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_an_adapter_is_swapped_while_the_base_stays(served: Served) -> None:
    """First, while the server has the base that adapters belong to; a run that pushes whole weights replaces it."""
    base = served.scores()
    arguments = served.train("lora", "--steps", "2", "--engine", served.url, "--set", "model.lora={rank: 4}")
    done = forking.agent_gym(arguments, served.folder, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert all(record["updates"] > 0 and record["mismatch_max"] < 5e-3 for record in served.records("lora"))
    assert _apart(base, served.scores()) < 1e-6
    listed = httpx.get(f"{served.url}/v1/models", timeout=10).json()["data"]
    assert [model["id"] for model in listed] == [str(served.model), "agent-gym-policy"]


def test_three_steps_are_trained_and_the_server_says_what_the_trainer_says_after_each(served: Served) -> None:
    before = served.scores()
    assert _apart(before, _expected(served.model)) < 5e-3
    arguments = served.train("three", "--steps", "3", "--engine", served.url)
    done = forking.agent_gym(arguments, served.folder, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    records = served.records("three")
    assert len(records) == 3 and all(record["updates"] > 0 for record in records)
    # What was sampled with the weights that were pushed is what the trainer says of it, step by step.
    assert all(record["mismatch_max"] < 5e-3 for record in records)
    run = RunFolder.open(served.folder / "runs" / "three")
    expected = [_expected(run.checkpoint_path(step)) for step in range(4)]
    moved = [_apart(*pair) for pair in itertools.pairwise(expected)]
    assert min(moved) > 0.02, "the steps change too little for the comparison to say anything"
    after = served.scores()
    assert _apart(after, expected[-1]) < 5e-3 and _apart(after, before) > 0.02
    assert httpx.get(f"{served.url}/weight_info", timeout=10).json() == {"weight_version": "4"}


def test_workers_say_what_they_hold_and_that_weights_lack_tensors(served: Served, tmp_path: Path) -> None:
    model, _ = load_model(str(served.model))
    pushed = list(named_weights(model))

    def load(name: str, weights: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Any]:
        folder = tmp_path / name
        folder.mkdir()
        write_weights(folder, weights)
        request = {"method": "agent_gym_load", "args": [str(folder)]}
        result = httpx.post(f"{served.url}/collective_rpc", json=request, timeout=60).json()["results"][0]
        assert isinstance(result, dict)
        return result

    whole = load("whole", pushed)
    assert whole["tensors"] == len(pushed) and same(whole["held"], whole["given"]) and whole["given"] == whole["read"]
    # An update that log-probabilities would not show.
    nudged = load("nudged", ((name, tensor * (1 + 1e-6)) for name, tensor in pushed))
    assert same(nudged["held"], nudged["given"]) and not same(nudged["held"], whole["held"])
    part = load("part", ((name, tensor) for name, tensor in pushed if ".layers.1." not in name))
    assert "the new weights lack" in part["error"] and "layers.1" in part["error"]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_what_the_server_holds_can_be_evaluated(served: Served, api: str) -> None:
    served.forget(api)
    arguments = [
        "eval", "--env", "luck.py:Luck", "--model", f"{served.url}/v1", "--model-name", str(served.model), "--api", api,
        "--tasks", "4", "--name", api, *(["--tokenizer", str(served.model)] if api == "completions" else []),
        "--set", "rollout.max_tokens=6",
    ]  # fmt: skip
    done = forking.agent_gym(arguments, served.folder, ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"failed episodes\W+0\b", done.stdout) and re.search(r"tasks, episodes\W+4, 4\b", done.stdout)


def test_a_server_killed_in_the_middle_of_a_step_ends_the_run_which_goes_on_with_what_it_had(served: Served) -> None:
    """The last test here: it leaves no server."""
    arguments = served.train("killed", "--steps", STEPS, "--engine", served.url)
    training = subprocess.Popen(
        [COMMAND, *arguments], cwd=served.folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        metrics = served.folder / "runs" / "killed" / "metrics.jsonl"
        ends = time.monotonic() + 120
        while time.monotonic() < ends and training.poll() is None:
            if metrics.is_file() and len(metrics.read_text().splitlines()) >= 1:
                break
            time.sleep(0.01)
        served.stop()
        killed = time.monotonic()
        said = training.communicate(timeout=NOTICED_SECONDS)[0].decode()
    finally:
        training.kill()
        training.wait(30)
    assert time.monotonic() - killed < NOTICED_SECONDS
    assert training.returncode == 2, said
    sentence = " ".join(said.split())
    assert f"The vLLM server {served.url} has died or cannot be reached" in sentence and "--resume" in sentence
    steps = len(served.records("killed"))
    run = RunFolder.open(served.folder / "runs" / "killed")
    assert 1 <= run.checkpoints()[-1] == steps < int(STEPS)
    # Another engine may go on: no server is needed for the steps that are left.
    again = served.train("killed", "--steps", STEPS, "--engine", "transformers", "--resume")
    done = forking.agent_gym(again, served.folder, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert [record["step"] for record in served.records("killed")] == list(range(1, int(STEPS) + 1))
