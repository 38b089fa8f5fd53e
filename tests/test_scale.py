"""What the page on scale says is what `plan` prints, and its examples are whole."""

import re
import subprocess
from pathlib import Path

import documents
import pytest

from agent_gym.config import TrainConfig
from agent_gym.trainers.planning import Machines, NoPlan, make_plan
from agent_gym.trainers.recipes import all_recipes
from agent_gym.trainers.shapes import KNOWN
from agent_gym.trainers.sizing import GIB, activations, full_states, kv_bytes

ROOT = Path(__file__).parents[1]
PAGE = documents.pages("howto")["scale"]
COLUMNS = {
    "1 GPU": (Machines(1, 80 * GIB), None),
    "1 GPU, `--lora 16`": (Machines(1, 80 * GIB), 16),
    "8 GPUs": (Machines(8, 80 * GIB), None),
    "8 GPUs of 40 GiB": (Machines(8, 40 * GIB), None),
    "4 x 8 GPUs": (Machines(8, 80 * GIB, nodes=4), None),
}
WAYS = {"none": "DDP", "fsdp2": "FSDP2", "fsdp2-offload": "offloaded"}


def table(heading: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the headings of the table that begins with one, and its rows by their first cell."""
    lines = (f"| {heading} |" + PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0][1:], {first.strip("`"): others for first, *others in cells[2:]}


@pytest.mark.parametrize("model", table("model")[1])
def test_the_table_of_parts_is_what_is_counted(model: str) -> None:
    shape = KNOWN[model]
    states = full_states(shape.parameters, weight_bytes=2)
    kept = [activations(shape, 8192, element=2, checkpointing=checkpointing) for checkpointing in (False, True)]
    sizes = [states.weights, states.gradients, states.optimizer, *kept, kv_bytes(shape, 8192, element=2)]
    assert table("model")[1][model] == [f"{size / GIB:.1f}" for size in sizes]


@pytest.mark.parametrize("model", table("model on")[1])
def test_the_table_of_plans_is_what_plan_finds(model: str) -> None:
    headings, rows = table("model on")
    assert headings == list(COLUMNS)
    found = []
    for machines, rank in COLUMNS.values():
        lora = {"lora": {"rank": rank}} if rank else {}
        rollout = {"max_tokens": 512, "max_episode_tokens": 8192}
        plan = make_plan(TrainConfig.model_validate({"model": {"path": model, **lora}, "rollout": rollout}), machines)
        if isinstance(plan, NoPlan):
            found.append("no")
            continue
        way = WAYS[plan.setup.sharding] if machines.total > 1 else "yes"
        found.append(f"{way}, {sum(plan.update.values()) / GIB:.0f}, {plan.cache.share:.0%}")
    assert rows[model] == found


def test_the_recipes_of_the_table_are_there_and_none_of_the_papers_is_left_out() -> None:
    named = set()
    for cell in table("recipe")[1]:
        pieces = re.findall(r"[\w-]+", cell)
        methods = [word for word in pieces if word in {piece for piece, _ in all_recipes()}]
        named |= {(method, word) for method in methods for word in pieces if word not in methods}
    assert named <= set(all_recipes())
    assert set(all_recipes()) - named == {("arpo", "reasoning"), ("aepo", "reasoning")}


def test_the_script_for_slurm_is_a_script() -> None:
    script = ROOT / "examples" / "scale" / "slurm.sh"
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for file in re.findall(r"examples/scale/\w+\.yaml", script.read_text()):
        assert (ROOT / file).is_file()
