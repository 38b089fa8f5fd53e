"""vLLM in this process, checked in the Python that has it: one process runs all checks, and each is reported here."""

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from vllm_python import ROOT, vllm_environment, vllm_python

CHECKS = Path(__file__).with_name("vllm_checks.py")
NAMES = re.findall(r"^def (test_\w+)", CHECKS.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Run the checks; return for each that was run what went wrong."""
    python = vllm_python()
    report = tmp_path_factory.mktemp("vllm") / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"--basetemp={report.parent / 'tmp'}"]
    done = subprocess.run(
        [python, "-m", "pytest", *options, str(CHECKS)],
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
