"""Measures a training step against TRL's: sampling, the whole step and memory, side by side in one run.

Both sides play several turns of ALFWorld, our own environment in both, with the same small model (4M parameters,
cloned from demonstrations so that it calls its tool), the same prompts token for token, the same tasks, groups, turns
and limits, and make one optimiser step of GRPO a batch, in float32. TRL does so with GRPOTrainer and its
environment_factory, in a Python of its own; ours with `train`, what it keeps on disk included. They take turns step
by step; printed are medians over the steps, on the clock and of the processor (which other work on the machine
disturbs less), and the largest resident memory of each process during a step. On our side update.share_prefixes is on,
which TRL does not have (--no-share-prefixes turns it off; it is off by default in training), and episodes without an
advantage are left out; rewards are such that there are few. An episode of TRL also ends where the model calls no tool,
which is a bad turn in ours, and goes on after its last turn until the model does so: the lines a generated token tell
the two apart. Targets: sampling at least 3 times and the step at least 2 times faster on the clock, memory not higher;
a line for each says whether it was met, and the exit status is 1 where one was not.

    python3 -m venv build/trl                       (some 2 GB; minutes)
    build/trl/bin/pip install --constraint constraints.txt torch
    build/trl/bin/pip install trl==1.16.0 gymnasium httpx
    build/trl/bin/pip install --no-deps --editable .
    python benchmarks/trl.py                        (some 15 minutes on 2 cores that do nothing else)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEER = HERE.parent / "build" / "trl" / "bin" / "python"
Steps = dict[str, list[dict[str, Any]]]
"""What each side did in each step."""


def main() -> None:
    """Print a table for each number of threads.

    Raises:
        SystemExit: A target was missed, or a side failed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", default=str(PEER), help="A Python that has TRL and agent_gym.")
    parser.add_argument("--model", help="A folder to keep the cloned model in, and to take it from the next time.")
    parser.add_argument("--demonstrations", type=int, default=600)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=48, help="Of a turn.")
    parser.add_argument("--steps", type=int, default=6, help="Besides the first one, which warms up.")
    parser.add_argument("--trl-parts", type=int, default=4, help="Parts that TRL cuts a batch into for its gradient.")
    parser.add_argument("--micro-batch-tokens", type=int, default=8192, help="Of our gradient.")
    parser.add_argument("--no-share-prefixes", dest="share_prefixes", action="store_false")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=900.0, help="Seconds that a step may take.")
    arguments = parser.parse_args()
    if not Path(arguments.trl_python).is_file():
        parser.error("TRL is not here: see --help, or give --trl-python PYTHON")
    met = True
    with tempfile.TemporaryDirectory(prefix="agent-gym-trl-") as folder:
        model = Path(arguments.model or Path(folder) / "model")
        if not (model / "config.json").is_file():
            clone(model, arguments)
        for threads in arguments.threads:
            steps = alternate(arguments, model, threads, Path(folder) / f"threads-{threads}")
            report(steps, threads, shared=arguments.share_prefixes)
            met = verdict(steps) and met
    if not met:
        raise SystemExit(1)


def clone(model: Path, arguments: argparse.Namespace) -> None:
    """Make the model that both begin with."""
    import torch
    from trl_model import make

    torch.set_num_threads(max(arguments.threads))
    make(model, demonstrations=arguments.demonstrations, turns=arguments.turns, seed=arguments.seed)


def alternate(arguments: argparse.Namespace, model: Path, threads: int, folder: Path) -> Steps:
    """Let both sides take steps in turn; return what they did, the first step left out."""
    from trl_model import system_prompt

    told = {**vars(arguments), "model": str(model), "threads": threads, "steps": arguments.steps + 1}
    settings = json.dumps(told | {"system_prompt": system_prompt()})
    commands = {
        "agent_gym": [sys.executable, str(HERE / "trl_ours.py")],
        # -P: else this folder's trl.py would be what it imports.
        "TRL": [arguments.trl_python, "-P", str(HERE / "trl_peer.py")],
    }
    folder.mkdir()
    pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    sides = {}
    done: Steps = {name: [] for name in commands}
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("w") as log:
                sides[name] = subprocess.Popen(
                    [*command, settings, str(folder / name)], stderr=log, env=environment, **pipe
                )
        for _ in range(arguments.steps + 1):
            tasks: list[str] = []
            for name, side in sides.items():
                done[name].append(step(side, tasks, folder / f"{name}.log", arguments.limit))
                tasks = done[name][-1].get("tasks", tasks)
            check(model, *(done[name][-1] for name in commands))
        return {name: steps[1:] for name, steps in done.items()}
    finally:
        for side in sides.values():
            side.kill()
            side.wait()


def step(side: "subprocess.Popen[str]", tasks: list[str], log: Path, limit: float) -> dict[str, Any]:
    """Let a side take a step; one that takes more than `limit` seconds is ended."""
    assert side.stdin is not None and side.stdout is not None
    watch = threading.Timer(limit, side.kill)
    watch.start()
    try:
        print(json.dumps({"tasks": tasks}), file=side.stdin, flush=True)
        said = side.stdout.readline()
    except BrokenPipeError:
        said = ""
    finally:
        watch.cancel()
    if not said:
        raise SystemExit(f"A side has broken off, or took more than {limit:g} s (--limit):\n{log.read_text()[-3000:]}")
    record: dict[str, Any] = json.loads(said)
    return record


def check(model: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Make sure that both were shown the same, token for token, and were asked for as many episodes."""
    from trl_model import system_prompt

    from agent_gym.engines.loading import load_tokenizer
    from agent_gym.rollout.chat import TemplateChat

    if ours["prompt"] != theirs["prompt"]:
        raise SystemExit(f"The prompts differ: {ours['prompt']} and {theirs['prompt']}.")
    tokenizer = load_tokenizer(str(model))
    said = tokenizer.decode(theirs["answer"]).partition("<tool_response>\n")[2].partition("\n</tool_response>")[0]
    chat = TemplateChat(tokenizer, system_prompt=system_prompt())
    if theirs["answer"] and list(chat.extend(said, ended=True)) != theirs["answer"]:
        raise SystemExit(f"TRL shows {said!r} in another way than we do: {theirs['answer']}.")
    if ours["episodes"] != theirs["episodes"] or ours["failed"]:
        raise SystemExit(f"The batches differ: {ours['episodes']}, {ours['failed']} failed; {theirs['episodes']}.")


def report(steps: Steps, threads: int, *, shared: bool) -> None:
    """Print what was done and how long it took."""
    ours, theirs = steps["agent_gym"], steps["TRL"]
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n{threads} thread(s), {len(ours)} steps, load {load}")
    print(f"update.share_prefixes, which ours alone has, is {'on' if shared else 'off'}")
    print(f"{'':44} {'agent_gym':>10} {'TRL':>10} {'ratio':>7}")
    for label, key in (
        ("episodes", "episodes"),
        ("episodes trained on", "trained"),
        ("turns of the environment", "turns"),
        ("generations", "generations"),
        ("tokens generated", "generated"),
        ("tokens of all episodes", "tokens"),
        ("success", "success"),
    ):
        row(f"{label} a step", *(statistics.fmean(step[key] for step in side) for side in (ours, theirs)))
    for place, kind in enumerate(("on the clock", "of the processor")):
        for label, part in (("sampling", "sampling"), ("the whole step", "step")):
            pair = [statistics.median(step["spent"][part][place] for step in side) for side in (ours, theirs)]
            row(f"{label}, seconds {kind}", *pair, slower=True)
            each = [
                statistics.median(1e6 * step["spent"][part][place] / step["generated"] for step in side)
                for side in (ours, theirs)
            ]
            row(f"{label}, us {kind} a generated token", *each, slower=True)
    row("peak of memory, MB", *(max(step["peak"] for step in side) for side in (ours, theirs)), slower=True)
    for name, side in steps.items():
        parts = sorted({part for step in side for part in step["spent"]})
        seconds = {part: statistics.median(step["spent"].get(part, [0.0, 0.0])[0] for step in side) for part in parts}
        print(f"{name}: " + ", ".join(f"{part} {value:.2f} s" for part, value in seconds.items()))


def verdict(steps: Steps) -> bool:
    """Print for each target whether it was met; return whether all were."""
    ours, theirs = steps["agent_gym"], steps["TRL"]

    def seconds(part: str) -> float:
        return statistics.median(step["spent"][part][0] for step in theirs) / statistics.median(
            step["spent"][part][0] for step in ours
        )

    memory = max(step["peak"] for step in theirs) / max(step["peak"] for step in ours)
    ratios = {
        "sampling at least 3 times as fast": (seconds("sampling"), 3.0),
        "the step at least 2 times as fast": (seconds("step"), 2.0),
        "memory not higher": (memory, 1.0),
    }
    for label, (ratio, least) in ratios.items():
        print(f"target: {label}: {'met' if ratio >= least else 'MISSED'} ({ratio:.2f}x)")
    return all(ratio >= least for ratio, least in ratios.values())


def row(label: str, own: float, other: float, *, slower: bool = False) -> None:
    """Print a line; the ratio says how many times as much TRL takes."""
    digits = 3 if max(own, other) < 10 else 1
    ratio = f"{other / own:6.2f}x" if slower and own else ""
    print(f"{label:44} {own:10.{digits}f} {other:10.{digits}f} {ratio:>7}", flush=True)


if __name__ == "__main__":
    main()
