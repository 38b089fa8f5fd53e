"""`agent-gym serve-tools`, as a user meets it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp_types", reason="needs the extra mcp")

from agent_gym.cli.serving import run_serve
from agent_gym.errors import ConfigError, ToolError
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.mcp import mcp_tools
from agent_gym.tools.toolbox import Toolbox

WORDS = '''
def lookup(word: str) -> str:
    """Look a word up."""
    return word.upper()
'''
SERVE = "from agent_gym.cli.serving import run_serve; run_serve(['calculator', 'words.py:lookup'], name='mine'{more})"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.py").write_text(WORDS)
    return tmp_path


def test_tools_are_served_over_standard_streams(folder: Path) -> None:
    with Toolbox(mcp_tools([sys.executable, "-c", SERVE.format(more="")], cwd=folder)) as box:
        assert box.names == ("calculator", "lookup")
        assert box.call(ToolCall("calculator", {"expression": "6*7"})).text == "42"
        assert box.call(ToolCall("lookup", {"word": "grün"})).text == "GRÜN"


def test_tools_are_served_over_http_and_the_address_is_told(folder: Path) -> None:
    program = SERVE.format(more=", http='127.0.0.1:0', token='geheim'")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.readline()
    assert told.startswith("serving calculator, lookup at http://127.0.0.1:") and told.endswith("/mcp\n")
    with Toolbox(mcp_tools(told.split()[-1], headers={"Authorization": "Bearer geheim"})) as box:
        assert box.call(ToolCall("lookup", {"word": "a"})).text == "A"
    process.terminate()
    assert process.communicate(timeout=60)[0] == ""


@pytest.mark.parametrize("address", ["8000", "127.0.0.1:", "127.0.0.1:99999", "::1:80", "http://127.0.0.1:80"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="--http is HOST:PORT"):
        run_serve(["calculator"], http=address, name="mine")


def test_an_address_that_others_reach_needs_a_token() -> None:
    with pytest.raises(ConfigError, match="give a --token, or serve at"):
        run_serve(["calculator"], http="0.0.0.0:0", name="mine")


def test_a_token_has_no_meaning_on_standard_streams() -> None:
    with pytest.raises(ConfigError, match="--token is for --http"):
        run_serve(["calculator"], token="geheim", name="mine")


def test_what_is_no_tool_is_refused() -> None:
    with pytest.raises(ToolError, match="Unknown tool 'calculater'"):
        run_serve(["calculater"], http="127.0.0.1:0", name="mine")
