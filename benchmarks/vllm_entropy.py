"""How far entropies from the k most probable tokens are from the exact ones, and what vLLM samples a second.

Errors are in nats: of the estimate that engines report (the tail counted as tokens no more probable than the last that
is named), and of the tail as one bucket, as it is counted where nothing is known of it. Distributions: those of a tiny
model that was trained on household games, and synthetic ones over 151,936 tokens.

    python benchmarks/vllm_entropy.py            where vLLM is not installed its rate is left out
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.base import Engine, Sampling
from agent_gym.engines.loading import load_model
from agent_gym.engines.topk import estimated_entropy
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import MissingExtraError
from agent_gym.store.run import RunFolder
from agent_gym.trainers.trainer import train

KS = (5, 20, 50, 100)
VOCABULARY = 151_936
PROMPT, GENERATED = 64, 32


def main() -> None:
    """Print a table of errors and a line of rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demonstrations", type=int, default=300, help="that the tiny model is trained on")
    demonstrations = parser.parse_args().demonstrations
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer, logits = trained(Path(folder) / "run", demonstrations)
        print(f"{'distributions':34} {'entropy':>8} {'k':>4} {'mean':>8} {'max':>8} {'bucket: mean':>13} {'max':>8}")
        print_errors(f"tiny model, {logits.shape[-1]} tokens", logits)
        for name, synthetic in distributions():
            print_errors(name, synthetic)
        print_rates(model, tokenizer)


def trained(folder: Path, demonstrations: int) -> tuple[Any, Any, torch.Tensor]:
    """Train a tiny model by cloning; return it, its tokenizer, and its logits (N, V) where it acts."""
    config = build(
        TrainConfig,
        {
            "env": {"id": "alfworld", "options": {"max_turns": 10}},
            "warm_start": {"episodes": demonstrations},
            "rollout": {"tasks": 1},
            "algorithm": {"options": {"group_size": 2}},
            "measure": {"tasks": 12},
            "steps": 1,
        },
    )
    train(config, folder)
    run = RunFolder.open(folder)
    model, tokenizer = load_model(str(run.checkpoint_path(run.checkpoints()[-1])))
    rows = []
    with run.trajectories() as store, torch.no_grad():
        for trajectory in store.select():
            logits = model(torch.tensor([trajectory.token_ids])).logits[0]
            places = [at - 1 for turn in trajectory.turns for at in range(turn.start, turn.end)]
            rows.append(logits[places])
    return model, tokenizer, torch.cat(rows)


def distributions() -> Iterator[tuple[str, torch.Tensor]]:
    """Yield synthetic logits (N, V), from peaked to flat."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
    noise = torch.randn((8, VOCABULARY), generator=generator, dtype=torch.float64)
    yield "one token at 99 %, the rest flat", torch.cat([torch.tensor([16.53]), torch.zeros(VOCABULARY - 1)])[None]
    for exponent in (3.0, 2.0, 1.5, 1.0):
        yield f"power law, exponent {exponent:g}", (-exponent * ranks.log())[None]
    for sharpness in (4.0, 2.0, 1.0):
        yield f"normal logits, deviation {sharpness:g}", noise * sharpness
    yield "flat", torch.zeros((1, VOCABULARY))


def print_errors(name: str, logits: torch.Tensor) -> None:
    """Print for each k mean and largest error of both estimates."""
    logprobs = logits.double().log_softmax(-1)
    exact = -(logprobs.exp() * logprobs).sum(-1)
    for k in KS:
        named = logprobs.topk(min(k, logprobs.shape[-1])).values.tolist()
        pairs = list(zip(exact.tolist(), named, strict=True))
        # Both are lower bounds: what is below them is rounding.
        bounded = [max(0.0, entropy - estimated_entropy(row, row[-1])) for entropy, row in pairs]
        bucket = [max(0.0, entropy - estimated_entropy(row)) for entropy, row in pairs]
        label, entropy = (name, f"{exact.mean():.3f}") if k == KS[0] else ("", "")
        print(
            f"{label:34} {entropy:>8} {k:4} {statistics.fmean(bounded):8.3f} {max(bounded):8.3f}"
            f" {statistics.fmean(bucket):13.3f} {max(bucket):8.3f}"
        )


def print_rates(model: Any, tokenizer: Any) -> None:
    """Print tokens a second of both engines on the same requests, in turns."""
    ours = TransformersEngine(model, tokenizer)
    try:
        from agent_gym.engines.vllm import VllmEngine

        vllm = VllmEngine.twin(model, tokenizer, max_batch=64)
    except MissingExtraError as error:
        print(f"vLLM is not measured: {error}", file=sys.stderr)
        return
    engines: dict[str, Engine] = {"transformers": ours, "vllm": vllm}
    asyncio.run(vllm.sync(model.state_dict().items()))
    for batch in (1, 16, 64):
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for attempt in range(4):
            for name, engine in engines.items():
                rate = asyncio.run(tokens_per_second(engine, batch, attempt))
                # The first one warms up.
                if attempt:
                    rates[name].append(rate)
        said = "  ".join(f"{name} {max(values):6.0f} tok/s" for name, values in rates.items())
        print(f"{batch:3} prompts of {PROMPT} tokens, {GENERATED} new each, best of 3, one thread:  {said}")
    asyncio.run(vllm.aclose())


async def tokens_per_second(engine: Engine, batch: int, attempt: int) -> float:
    """Return the rate of new tokens; prompts are new in each attempt, so that none is in a cache."""
    generator = torch.Generator().manual_seed(attempt)
    prompts = torch.randint(10, 300, (batch, PROMPT), generator=generator).tolist()
    started = time.perf_counter()
    done = await asyncio.gather(
        *(engine.generate(prompt, Sampling(GENERATED, seed=seed)) for seed, prompt in enumerate(prompts))
    )
    return sum(len(each.token_ids) for each in done) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
