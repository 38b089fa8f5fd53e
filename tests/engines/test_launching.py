"""How a server of vLLM is started for training."""

import shlex
from pathlib import Path

import pytest

from agent_gym.engines.launching import WORKER, check_python, plan_launch, worker_path
from agent_gym.errors import EngineError, MissingExtraError


def test_a_server_listens_to_this_machine_alone_unless_the_network_is_trusted() -> None:
    with pytest.raises(EngineError, match="--trust-network"):
        plan_launch("m", host="0.0.0.0")
    assert plan_launch("m", host="0.0.0.0", trust_network=True).url == "http://0.0.0.0:8000"
    assert plan_launch("m", host="::1", port=9).url == "http://[::1]:9"


def test_its_workers_find_our_extension_and_nothing_else_of_ours() -> None:
    launch = plan_launch("m", environment={"PYTHONPATH": "/elsewhere"})
    path = launch.environment["PYTHONPATH"].split(":")
    assert path == [str(worker_path()), "/elsewhere"]
    module, _, name = WORKER.partition(".")
    found = sorted(each.name for each in worker_path().glob("*.py"))
    assert found == ["__init__.py", "agent_gym_fingerprint.py", f"{module}.py"]
    assert f"class {name}" in (worker_path() / f"{module}.py").read_text()


def test_adapters_and_nccl_are_asked_for_where_they_are_wanted() -> None:
    plain, full = plan_launch("m"), plan_launch("m", lora_rank=8, nccl=True, arguments=["--enforce-eager"])
    assert "--enable-lora" not in plain.command and "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in plain.environment
    assert full.command[full.command.index("--max-lora-rank") + 1] == "8"
    assert '{"backend": "nccl"}' in full.command and full.command[-1] == "--enforce-eager"


def test_the_room_for_caches_on_a_cpu_is_the_users_where_it_is_set() -> None:
    assert "VLLM_CPU_KVCACHE_SPACE" not in plan_launch("m", environment={"VLLM_CPU_KVCACHE_SPACE": "9"}).environment


def test_what_is_printed_is_what_a_shell_understands() -> None:
    launch = plan_launch("a model", nccl=True, environment={})
    words = shlex.split(launch.as_shell())
    assert words == [*(f"{key}={value}" for key, value in launch.environment.items()), *launch.command]


def test_a_python_without_vllm_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(EngineError, match="cannot be run"):
        check_python("/no/such/python")
    with pytest.raises(MissingExtraError, match="has no vLLM"):
        check_python(str(python))
