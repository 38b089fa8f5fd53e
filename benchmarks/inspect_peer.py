"""The side of inspect_ai in `inspect_overhead.py`: run by a Python that has it; answers on standard output.

For each line "SAMPLES TURNS WIDTH" it evaluates so many samples of so many turns with a mock model, so many at a time,
logs as it does by default, and prints the seconds on the clock and those of processor time.
"""

import os
import shutil
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("INSPECT_DISPLAY", "none")
os.environ.setdefault("INSPECT_LOG_LEVEL", "error")

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, accuracy, scorer
from inspect_ai.solver import solver

OBSERVATION = "You arrive at cabinet {}. On the cabinet {}, you see a mug 2."


@solver
def counting(turns: int) -> Any:
    """Ask the model so many times, with an observation between."""

    async def solve(state: Any, generate: Any) -> Any:
        for turn in range(1, turns + 1):
            state = await generate(state)
            if turn < turns:
                state.messages.append(ChatMessageUser(content=OBSERVATION.format(turn % 20, turn % 20)))
        return state

    return solve


@scorer(metrics=[accuracy()])
def right() -> Any:
    """Everything is right."""

    async def score(state: Any, target: Any) -> Score:
        return Score(value=1)

    return score


def answer(*_: Any) -> ModelOutput:
    """Answer at once, with a usage: without one the mock asks for a tokenizer on the network."""
    output = ModelOutput.from_content("mockllm/model", "go to cabinet 1")
    output.usage = ModelUsage(input_tokens=100, output_tokens=5, total_tokens=105)
    return output


def run(samples: int, turns: int, width: int) -> tuple[float, float]:
    """Return the seconds of one evaluation, on the clock and of the processor."""
    folder = tempfile.mkdtemp(prefix="inspect-logs-")
    task = Task(
        dataset=[Sample(id=f"t{number}", input=OBSERVATION.format(0, 0), target="x") for number in range(samples)],
        solver=counting(turns),
        scorer=right(),
    )
    model = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    began, worked = time.perf_counter(), time.process_time()
    (log,) = eval(task, model=model, log_dir=folder, display="none", max_samples=width, max_connections=width)
    seconds = time.perf_counter() - began, time.process_time() - worked
    shutil.rmtree(folder)
    if log.status != "success":
        raise SystemExit(f"inspect_ai has not evaluated: {log.error}")
    return seconds


if __name__ == "__main__":
    for line in sys.stdin:
        print(*run(*map(int, line.split())), flush=True)
