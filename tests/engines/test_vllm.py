"""vLLM in this process, checked in the Python that has it: one process runs all checks, and each is reported here."""

import json
import os
import re
import signal
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from vllm_python import ROOT, vllm_environment, vllm_python

CHECKS = [Path(__file__).with_name(f"vllm_{part}.py") for part in ("sampling_checks", "weights_checks", "checks")]
"""The last ends the engine that they share."""
NAMES = [name for file in CHECKS for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)]


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Run the checks; return for each that was run what went wrong."""
    python = vllm_python()
    report = tmp_path_factory.mktemp("vllm") / "report.xml"
    options = ["-q", "--noconftest", "-p", "no:cacheprovider", "-p", "vllm_shared"]
    options += [f"--junitxml={report}", f"--basetemp={report.parent / 'tmp'}"]
    done = subprocess.run(
        [python, "-m", "pytest", *options, *map(str, CHECKS)],
        cwd=ROOT,
        env=vllm_environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert report.is_file(), f"The checks broke off:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = (case.get("name") or "").partition("[")[0]
        problems = [each for each in case if each.tag in ("failure", "error", "skipped")]
        found.setdefault(name, []).extend(f"{case.get('name')}: {problem.text}" for problem in problems)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_vllm_in_this_process(name: str, failures: dict[str, list[str]]) -> None:
    assert name in failures, "the checks broke off before this one"
    assert not failures[name], "\n".join(failures[name])


@pytest.mark.slow
def test_two_processes_that_share_the_layers_answer_their_own_requests() -> None:
    script = Path(__file__).with_name("vllm_spread.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = subprocess.Popen(
        [vllm_python(), *launcher, str(script)],
        cwd=ROOT,
        env=vllm_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = launched.communicate(timeout=300)
    except BaseException:
        # torchrun's processes would outlive it.
        os.killpg(launched.pid, signal.SIGKILL)
        launched.communicate()
        raise
    found = [json.loads(line) for line in stdout.splitlines() if line.startswith("{")]
    assert len(found) == 2, f"{stdout[-2000:]}\n{stderr[-4000:]}"
    first, second = sorted(found, key=lambda each: each["rank"])
    assert (first["answered"], second["answered"]) == ([3, 3], [5, 5])
    assert max(first["worst"], second["worst"]) < 2e-3
    assert first["scored"] == second["scored"] == 29
    assert first["version"] == second["version"] == 2
    assert first["groups"], "closing vLLM ended the process group that it had not made"
