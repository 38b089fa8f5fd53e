"""Measures the memory and time of log-probabilities and entropies over a vocabulary of 151,936, with gradients.

    OMP_NUM_THREADS=1 python benchmarks/vocabulary.py

What stands after a model's backbone runs alone, on random hidden states: the output layer, the log-softmax, the
entropy, and the gradients of hidden states and output layer (of hidden states alone where it is frozen, as under LoRA).
Each way runs in a process of its own. "Extra" is the largest resident memory of that process above what it held before:
weight and hidden states are not in it, their gradients are. "naive" makes all logits at once and does not fit into
memory for many tokens, so it runs on fewer, and its line at the full number is a straight line through two smaller ones
and says so. "checkpointed" computes parts again through automatic differentiation. Seconds are processor seconds.
Target: at most 1.5 GB extra for 32,768 tokens.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from agent_gym.trainers.fused import token_scores
from agent_gym.trainers.scorer import CHUNK_ELEMENTS

TARGET = 1.5
Way = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--naive-tokens", type=int, default=2048, help="The most that the naive way is given.")
    parser.add_argument("--ways", nargs="*", default=["naive", "fused", "fused frozen", "checkpointed"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments)))
        return
    print(f"{arguments.tokens} tokens, vocabulary {arguments.vocabulary}, width {arguments.width}, {arguments.dtype}")
    print("way                            tokens   extra GB   seconds   us/token")
    worst = 0.0
    for way in arguments.ways:
        if way == "naive":
            naive(arguments)
            continue
        found = in_process(way, arguments.tokens, arguments)
        show(way, arguments.tokens, found)
        if way.startswith("fused"):
            worst = max(worst, found["extra"])
    if worst:
        print(f"target: fused at most {TARGET} GB extra: {'met' if worst <= TARGET else 'MISSED'} ({worst:.2f} GB)")


def naive(arguments: argparse.Namespace) -> None:
    """Print what was measured on few tokens, and the straight line through it at the full number."""
    few = arguments.naive_tokens // 2, arguments.naive_tokens
    less, more = (in_process("naive", tokens, arguments) for tokens in few)
    show("naive", few[1], more)
    factor = (arguments.tokens - few[0]) / (few[1] - few[0])
    extrapolated = {key: less[key] + factor * (more[key] - less[key]) for key in less}
    show("naive, EXTRAPOLATED", arguments.tokens, extrapolated)


def show(way: str, tokens: int, found: dict[str, float]) -> None:
    """Print a line of the table."""
    each = 1e6 * found["seconds"] / tokens
    print(f"{way:<28s} {tokens:8d} {found['extra']:10.2f} {found['seconds']:9.1f} {each:10.0f}", flush=True)


def in_process(way: str, tokens: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure a way in a fresh process."""
    options: dict[str, Any] = {"vocabulary": arguments.vocabulary, "width": arguments.width, "dtype": arguments.dtype}
    command = [sys.executable, __file__, "--one", way, "--tokens", str(tokens)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Score and differentiate once; return the extra memory in GB and the processor seconds."""
    torch.set_num_threads(1)
    dtype = getattr(torch, arguments.dtype)
    hidden = torch.randn(arguments.tokens, arguments.width, dtype=dtype).requires_grad_()
    weight = (torch.randn(arguments.vocabulary, arguments.width, dtype=dtype) * 0.1).requires_grad_("frozen" not in way)
    targets = torch.randint(0, arguments.vocabulary, (arguments.tokens,))
    score(way)(hidden[:8], weight, targets[:8], False)[0].sum().backward()  # Libraries take their own memory first.
    hidden.grad = weight.grad = None
    before, started = resident(), time.process_time()
    logprobs, _ = score(way)(hidden, weight, targets, False)
    (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"extra": (peak - before) / 1e9, "seconds": seconds}


def score(way: str) -> Way:
    """Return the function of a way's name."""
    return {"naive": directly, "checkpointed": in_parts}.get(way, without_logits)


def directly(hidden: Tensor, weight: Tensor, targets: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
    """Score through all logits at once."""
    distribution = linear(hidden, weight).float().log_softmax(-1)
    with torch.set_grad_enabled(entropy_gradient):
        entropies = -(distribution.exp() * distribution).sum(-1)
    return distribution.gather(1, targets.unsqueeze(1)).squeeze(1), entropies


def in_parts(hidden: Tensor, weight: Tensor, targets: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
    """Score parts that automatic differentiation computes again."""
    rows = max(1, CHUNK_ELEMENTS // len(weight))
    parts = [
        checkpoint(directly, part, weight, target, entropy_gradient, use_reentrant=False)
        for part, target in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def without_logits(hidden: Tensor, weight: Tensor, targets: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
    """Score as the trainer does."""
    rows = max(1, CHUNK_ELEMENTS // len(weight))
    return token_scores(hidden, weight, None, targets, rows=rows, entropy_gradient=entropy_gradient)


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
