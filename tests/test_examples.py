"""The examples and the how-tos do what they say."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import documents
import openai_server
import pytest
from sandboxes import require

from agent_gym import Toolbox, ToolCall, tool
from agent_gym.errors import SandboxUnavailable
from agent_gym.sandbox import GUARANTEES, Limits, Sandbox, make
from agent_gym.sandbox.base import MIB

ROOT = Path(__file__).parents[1]
HOWTOS = documents.pages("howto")
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
}
COMMANDS = {
    name: found
    for name, text in HOWTOS.items()
    if (found := [content for kind, content in documents.fenced(text) if kind in ("bash", "")])
}
"""The blocks of commands by the page that they stand on."""
LOOKUP = '''
def lookup(word: str) -> str:
    """Look a word up."""
    return word.upper()
'''
"""The tool of the reader that the document on MCP speaks of."""
MODEL_SERVER = "http://localhost:8000/v1"
SERVER = "from agent_gym.cli import main; main()"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the examples, and what readers of the document on MCP have of their own: a tool, and servers."""
    (tmp_path / "my_tools.py").write_text(LOOKUP)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name in ("server.py", "notebook_server.py"):
        call = "import sys; sys.argv[1:] = ['serve-tools', 'my_tools.py:lookup']"
        (tmp_path / name).write_text(f"{call}\n{SERVER}\n")
    return tmp_path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """A server that runs already."""
    arguments = ["serve-tools", "my_tools.py:lookup", "--http", "127.0.0.1:0"]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()[-1]
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture
def model_server() -> Iterator[str]:
    """A server with one model, which always says the same."""
    with openai_server.serving(lambda asked, number: openai_server.chat("look")) as server:
        yield server.url


def sandbox_or_skip() -> Sandbox:
    """Return a sandbox that isolates; skip where there is none."""
    try:
        return make()
    except SandboxUnavailable as error:
        require("bubblewrap", str(error))
        raise


def rows(name: str, heading: str) -> dict[str, list[str]]:
    """Return the table of a how-to that begins with a heading: the other cells of each row by the first one."""
    table = HOWTOS[name].partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]
    return {first: others for first, *others in cells}


@pytest.mark.parametrize(
    ("name", "said"), [("own_tool", "2 x mug: 6 dollars"), ("own_environment", "144\n</tool_response>\n1.0")]
)
def test_the_example_runs_as_it_stands(name: str, said: str, tmp_path: Path) -> None:
    done = documents.run([sys.executable, str(ROOT / "examples" / f"{name}.py")], tmp_path, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.parametrize("name", HOWTOS)
def test_the_python_of_the_howto_runs_in_order(name: str, folder: Path, request: pytest.FixtureRequest) -> None:
    text = HOWTOS[name]
    if "http://127.0.0.1:8000/mcp" in text:
        pytest.importorskip("mcp_types", reason="needs the extra mcp")
        text = text.replace("http://127.0.0.1:8000/mcp", request.getfixturevalue("address"))
    documents.write_files(text, folder)
    done = documents.run_blocks(documents.blocks(text, "python"), folder, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    passed_over = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    if passed_over:
        require("bubblewrap", "; ".join(passed_over))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_of_the_howto_run_in_order(name: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """In one folder: what an earlier command made is there, and in the way of a later one of the same name."""
    documents.write_files(HOWTOS[name], folder)
    passed_over, ran = [], 0
    for commands in map(documents.lines, COMMANDS[name]):
        if reasons := [f"{line}: {reason}" for line in commands if (reason := documents.why_not_run(line))]:
            passed_over += reasons
            continue
        if any("doctor" in line for line in commands):
            sandbox_or_skip().close()
        for line in commands:
            if MODEL_SERVER in line:
                line = line.replace(MODEL_SERVER, request.getfixturevalue("model_server"))
            done = documents.command(line, folder, ENVIRONMENT)
            assert done.returncode == 0, (line, done.stderr)
            ran += 1
    if not ran:
        pytest.skip("; ".join(passed_over))


def test_no_two_commands_of_documents_make_the_same_run() -> None:
    texts = [*HOWTOS.values(), (ROOT / "README.md").read_text()]
    making = [line for text in texts for line in documents.commands(text) if "--re" not in line]
    names = [found[1] for line in making if (found := re.search(r"--name (\S+)", line))]
    assert len(names) > 10 and sorted(names) == sorted(set(names))


def test_the_blocks_of_a_document_say_what_they_are() -> None:
    known = {"bash", "python", "text", "toml", "yaml"}
    unknown = {
        (name, kind or content)
        for name, text in HOWTOS.items()
        for kind, content in documents.fenced(text)
        if kind not in known and not (name == "mcp" and kind == "")
    }
    assert unknown == set()


def test_the_limits_in_the_document_are_those_of_the_code() -> None:
    def told(name: str, value: float) -> str:
        if name.endswith("bytes"):
            return f"{value / MIB:g} MiB"
        return f"{value / 3600:g} h" if name.endswith("_seconds") else f"{value:,g}"

    limits = {each.name: told(each.name, each.default) for each in fields(Limits)}
    assert {name: cells[0] for name, cells in rows("sandbox", "limit").items()} == limits


def test_the_promises_in_the_document_are_those_of_the_code() -> None:
    promises = rows("sandbox", "promise")
    assert tuple(promises) == GUARANTEES
    with make("local", allow_unsafe=True) as local, sandbox_or_skip() as isolating:
        for column, sandbox in ((0, isolating), (2, local)):
            if sandbox.name == ("bubblewrap", "docker", "local")[column]:
                kept = {name for name, holds in sandbox.guarantees().items() if holds}
                assert kept <= {name for name, cells in promises.items() if cells[column].startswith("yes")}


def test_what_a_model_reads_is_what_the_document_says() -> None:
    said = {status: cells[1].split("`")[0] for status, cells in rows("own-tool", "status").items()}

    @tool(max_calls=3)
    async def price(item: str, count: int = 1) -> str:
        await asyncio.sleep(60 if item == "slow" else 0)
        raise KeyError(item)

    with Toolbox([price]) as toolbox:
        calls = {
            "invalid": ToolCall("price", {"itm": "mug"}),
            "unknown": ToolCall("prise", {}),
            "error": ToolCall("price", {"item": "moon"}),
        }
        for status, call in calls.items():
            assert (toolbox.call(call).status, toolbox.call(call).text) == (status, said[status])
        toolbox.call(calls["error"])
        assert toolbox.call(calls["error"]).text == said["budget"]
    with Toolbox([price], timeout=0.01) as toolbox:
        assert toolbox.call(ToolCall("price", {"item": "slow"})).text == said["timeout"].replace("30", "0.01")


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    assert [link for link in links if not link.startswith("http") and not (path.parent / link).exists()] == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of a process that has the example of a plugin installed."""
    place = tmp_path_factory.mktemp("plugin")
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(place)]
    done = documents.run([sys.executable, "-m", *install, str(ROOT / "examples" / "plugin")], place, ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return {**ENVIRONMENT, "PYTHONPATH": str(place)}


def test_an_installed_plugin_brings_its_environment_by_name(installed: dict[str, str], tmp_path: Path) -> None:
    code = "import agent_gym; print(agent_gym.make('echo').reset(options={'task': 'mug'})[0])"
    assert documents.run([sys.executable, "-c", code], tmp_path, installed).stdout == "Say mug.\n"
    assert "echo" in documents.gym("agent-gym envs", tmp_path, installed).stdout
    assert documents.gym("agent-gym check echo", tmp_path, installed).returncode == 0


def test_an_installed_plugin_brings_its_tool_by_name(installed: dict[str, str], tmp_path: Path) -> None:
    code = (
        "from agent_gym import ToolCall, Toolbox\n"
        "with Toolbox(['backwards']) as box: print(box.call(ToolCall('backwards', {'text': 'mug'})).text)"
    )
    assert documents.run([sys.executable, "-c", code], tmp_path, installed).stdout == "gum\n"


def test_without_the_plugin_its_names_are_unknown(tmp_path: Path) -> None:
    done = documents.gym("agent-gym check echo", tmp_path, ENVIRONMENT)
    assert done.returncode != 0 and "Unknown environment 'echo'" in done.stderr


def test_the_entry_point_in_the_document_is_that_of_the_example() -> None:
    [snippet] = documents.blocks(HOWTOS["own-environment"], "toml")
    assert snippet in (ROOT / "examples" / "plugin" / "pyproject.toml").read_text()
