"""The Python that has vLLM: tests of it run there, in a process of its own, since its versions are not ours."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_PLACE = ROOT / "build" / "vllm" / "bin" / "python"
"""Where `make vllm` puts it."""


def vllm_python() -> str:
    """Return a Python that has vLLM, or skip the test and say why; with REQUIRE_VLLM=1 it fails instead."""
    named = os.environ.get("AGENT_GYM_VLLM_PYTHON")
    for candidate in [named] if named else [str(_PLACE), sys.executable]:
        problem = _problem(candidate)
        if not problem:
            return candidate
    reason = f"no vLLM here (make vllm installs it, AGENT_GYM_VLLM_PYTHON names another Python that has it): {problem}"
    if os.environ.get("REQUIRE_VLLM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def vllm_environment() -> dict[str, str]:
    """Return the environment for that Python: this package, one thread, no network, and nothing compiled (12 s)."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }


@cache
def _problem(python: str) -> str:
    """Return what keeps a Python from running the checks; nothing where it can."""
    if not Path(python).is_file():
        return f"{python} is not there"
    found = "import importlib.util as u, sys; sys.exit(not (u.find_spec('vllm') and u.find_spec('gymnasium')))"
    done = subprocess.run([python, "-c", found], capture_output=True, timeout=60, check=False)
    return "" if done.returncode == 0 else f"{python} has no module vllm, or lacks what agent_gym needs"
