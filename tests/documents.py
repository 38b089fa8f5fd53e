"""Documents are run as they are written: what the tests of the README and of the pages share.

Every page of the site belongs to one of the places in `PLACES`, and each place to a test that runs its blocks;
tests/test_docs.py sees to it that none is left out.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import forking

DOCS = Path(__file__).parents[1] / "docs"
PLACES = {
    ".": "tests/test_docs.py",
    "howto": "tests/test_examples.py",
    "methods": "tests/test_methods_pages.py",
    "reference": "tests/test_docs.py",
}
"""The folders of pages, and what runs their code blocks."""

SHORTER = [
    "warm_start.episodes=20",
    "rollout.tasks=1",
    "algorithm.options.group_size=2",
    "measure.tasks=2",
    "measure.every=0",
    "steps=1",
    "model.layers=1",
    # On a busy machine two threads wait for each other most of the time.
    "threads=1",
]
"""What makes a training command take seconds; everything else runs as written."""

NOT_RUN = {
    "accelerate": "it starts a process for each GPU; tests/trainers start processes with torchrun",
    "apt-get": "it installs something on this machine",
    "docker": "it needs a Docker daemon and a registry",
    "pip": "it installs something; installing the plugin has a test of its own",
    "ray": "it starts a cluster; tests/rollout/test_ray_workers.py do",
    "sbatch": "there is no Slurm",
    "sudo": "it changes this machine",
    "systemd-run": "it needs a session of systemd",
    "torchrun": "it starts a process for each GPU; tests/trainers start processes with it",
}
"""Programs that tests leave alone, with the reason."""
_FOREIGN = re.compile(r"--engine|serve-model|vllm:|--workers ray|--model (Qwen|meta-llama)/")
SERVES = "a server does not end by itself; tests/cli/test_serving.py and tests/viewer run them"


def pages(place: str) -> dict[str, str]:
    """Return the pages in a folder of the site, by name."""
    return {path.stem: path.read_text() for path in sorted((DOCS / place).glob("*.md"))}


def fenced(text: str) -> list[tuple[str, str]]:
    """Return the blocks of a document with their languages, "" where none is named."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    """Return the blocks of a language."""
    return [content for named, content in fenced(text) if named == language]


def lines(block: str) -> list[str]:
    """Return the commands of a block of bash, without the comments."""
    kept = [line.split("  #")[0].strip() for line in block.splitlines()]
    return [line for line in kept if line and not line.startswith("#")]


def commands(text: str) -> list[str]:
    """Return the commands of agent-gym in the blocks of bash."""
    found = [line for block in blocks(text, "bash") for line in lines(block)]
    return [line for line in found if line.startswith("agent-gym")]


def write_files(text: str, folder: Path) -> None:
    """Write the blocks that begin with the name of a file, as `# shop.py`, into a folder."""
    for _, content in fenced(text):
        if name := re.match(r"# ([\w./-]+\.\w+)\n", content):
            (folder / name[1]).write_text(content)


def why_not_run(line: str) -> str:
    """Return why a command is not run here, or nothing."""
    if "--http" in line or line.startswith("agent-gym view "):
        return SERVES
    if "benchmarks/" in line:
        return "a benchmark measures for minutes or hours"
    if "--dry-run" not in line and not line.startswith("agent-gym plan") and _FOREIGN.search(line):
        return "it needs vLLM, a cluster or a model of the hub; tests/engines and tests/rollout run what it is made of"
    program = next(part for part in shlex.split(line) if "=" not in part)
    return NOT_RUN.get(program, "")


def run(
    arguments: list[str], folder: Path, environment: dict[str, str], given: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a program in a folder."""
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, check=False, env=environment, input=given, timeout=600
    )


def run_blocks(code: list[str], folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run blocks of Python in order, in one namespace; one that needs what is not here is passed over, and says so."""
    return forking.python(code, folder, environment)


def command(line: str, folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command of a document: agent-gym, python or pytest, those of this environment."""
    program, *arguments = shlex.split(line)
    if program == "agent-gym":
        return gym(line, folder, environment)
    module = [] if program == "python" else ["-m", program]
    return run([sys.executable, *module, *arguments], folder, environment)


def gym(line: str, folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command of agent-gym."""
    arguments = shlex.split(line)[1:]
    if arguments[0] == "train":
        # Assignments that the document itself makes come last, so that they win.
        arguments[1:1] = [part for assignment in SHORTER for part in ("--set", assignment)]
    return forking.agent_gym(arguments, folder, environment)
