"""`agent-gym serve-model`: what it starts, and what it refuses."""

import os
from pathlib import Path

import forking
import pytest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_the_command_becomes_the_server_with_its_flags_and_its_environment(tmp_path: Path) -> None:
    python = tmp_path / "python"
    # The first time it is asked whether it has vLLM.
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$VLLM_SERVER_DEV_MODE $PYTHONPATH $@"; exit 7\n')
    python.chmod(0o755)
    arguments = ["serve-model", "a/model", "--python", str(python), "--port", "8123", "--", "--enforce-eager"]
    done = forking.agent_gym(arguments, tmp_path, ENVIRONMENT)
    assert done.returncode == 7
    said, ran = done.stdout.strip().rsplit("\n", 1)
    assert "agent-gym train --model a/model --engine http://127.0.0.1:8123" in said
    assert ran.startswith("1 ") and "inside_vllm" in ran and ran.endswith(" --enforce-eager")
    assert "--model a/model --host 127.0.0.1 --port 8123" in ran


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--host", "0.0.0.0"], "--trust-network"), (["--python", "/no/python"], "cannot be run")],
)
def test_what_cannot_be_served_is_said_in_a_sentence(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = forking.agent_gym(["serve-model", "a/model", *arguments], tmp_path, ENVIRONMENT)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_the_command_can_be_printed_for_a_script(tmp_path: Path) -> None:
    done = forking.agent_gym(["serve-model", "a/model", "--nccl", "--print"], tmp_path, ENVIRONMENT)
    assert done.stdout.startswith("VLLM_SERVER_DEV_MODE=1 ") and '\'{"backend": "nccl"}\'' in done.stdout
