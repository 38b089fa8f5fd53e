"""The examples and the how-tos do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import blocks, commands, gym, run

from agent_gym.errors import SandboxUnavailable
from agent_gym.sandbox import make

ROOT = Path(__file__).parents[1]
HOWTOS = sorted(path for path in (ROOT / "docs" / "howto").glob("*.md") if path.name != "mcp.md")
"""That on MCP talks about servers of the reader's own; tests/tools/mcp does what it says."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize(
    ("name", "said"), [("own_tool", "2 x mug: 6 dollars"), ("own_environment", "144\n</tool_response>\n1.0")]
)
def test_the_example_runs_as_it_stands(name: str, said: str, tmp_path: Path) -> None:
    done = run([sys.executable, str(ROOT / "examples" / f"{name}.py")], tmp_path, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.parametrize("path", HOWTOS, ids=lambda path: path.stem)
def test_the_code_of_the_howto_runs_in_order(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    if "sandbox.make()" in text:
        try:
            make().close()
        except SandboxUnavailable as error:
            pytest.skip(str(error))
    done = run([sys.executable, "-c", "\n".join(blocks(text, "python"))], tmp_path, ENVIRONMENT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", HOWTOS, ids=lambda path: path.stem)
def test_the_commands_of_the_howto_run(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    if "backwards.py" in text:
        (tmp_path / "backwards.py").write_text(blocks(text, "python")[0])
    for line in commands(text):
        done = gym(line, tmp_path, ENVIRONMENT)
        assert done.returncode == 0, (line, done.stderr)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    assert [link for link in links if not link.startswith("http") and not (path.parent / link).exists()] == []


def test_an_installed_plugin_brings_its_environment_and_its_tool(tmp_path: Path) -> None:
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", *install, str(ROOT / "examples" / "plugin")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    code = (
        "import agent_gym\n"
        "print(agent_gym.make('echo').reset(options={'task': 'mug'})[0], agent_gym.Toolbox(['backwards']).names)"
    )
    assert run([sys.executable, "-c", code], tmp_path, environment).stdout == "Say mug. ('backwards',)\n"
    assert "echo" in gym("agent-gym envs", tmp_path, environment).stdout
