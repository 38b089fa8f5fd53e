"""Tokens a second on a GPU, of sampling and of an update, and how busy the GPU is with them.

Two models with random weights are made on the spot and run in bfloat16: the tiny one, and one of the shape of
Qwen2.5-0.5B. Episodes of several turns are sampled by the engine, which keeps what it has read, and then make one
optimiser step of GRPO. "Busy" is the mean of what nvidia-smi reports while the part runs; "TFLOP/s" counts two
operations a parameter and token for reading, and six for the update (a token that is only read counts, too).

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu      the same code, reduced, where there is no GPU
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from agent_gym.engines.transformers import TransformersEngine
    from agent_gym.trajectory import Trajectory

OBSERVATION = 40
"""Tokens that an environment says a turn."""
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Work:
    """What is sampled and trained on."""

    groups: int
    members: int
    prompt: int
    """Tokens; the members of a group share them."""
    turns: int
    generated: int
    """Tokens a turn."""
    micro_batch_tokens: int


FULL = Work(groups=16, members=8, prompt=512, turns=8, generated=32, micro_batch_tokens=32768)
REDUCED = Work(groups=2, members=2, prompt=24, turns=2, generated=4, micro_batch_tokens=512)


def main() -> None:
    """Print a line for each model and part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    device = parser.parse_args().device
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        print("There is no GPU here, so that nothing was measured: --device cpu runs the same code, reduced.")
        return
    reduced = device == "cpu"
    work = REDUCED if reduced else FULL
    print("on", "the CPU, reduced" if reduced else torch.cuda.get_device_name(), "with torch", torch.__version__)
    print(f"{work.groups} groups of {work.members}, {work.turns} turns, {work.prompt} tokens before the first")
    print("model                 part        tokens/s  generated/s   TFLOP/s    busy   peak GB")
    for name, make in (("tiny", tiny), ("Qwen2.5-0.5B's shape", half_billion)):
        model = make(reduced).to("cpu" if reduced else "cuda", torch.bfloat16)
        measure(name, model, work)


def measure(name: str, model: "PreTrainedModel", work: Work) -> None:
    """Sample and update, the first time unseen; print the median of some repeats."""
    import torch

    from agent_gym.engines.transformers import TransformersEngine
    from agent_gym.trainers.algorithm import Progress
    from agent_gym.trainers.batch import make_batch
    from agent_gym.trainers.presets import make_algorithm
    from agent_gym.trainers.update import Updater, UpdateSettings

    torch.manual_seed(0)
    engine = TransformersEngine(model, stop_token_ids=[], max_batch=work.groups * work.members)
    algorithm = make_algorithm("grpo")
    settings = UpdateSettings(micro_batch_tokens=work.micro_batch_tokens, share_prefixes=True)
    updater = Updater(model, settings)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    played: list[Trajectory] = []

    def sample() -> None:
        model.eval()
        played[:] = asyncio.run(episodes(engine, work))

    def update() -> None:
        numbers = [number // work.members for number in range(len(played))]
        batch = make_batch(played, [float(number % 2) for number in range(len(played))], numbers)
        algorithm.fill(batch)
        updater.step(batch, algorithm, Progress(0, 1), seed=0)
        asyncio.run(engine.sync(None))

    for part, run, operations in (("sampling", sample, 2), ("update", update, 6)):
        seconds, busy, peak = timed(run)
        tokens = sum(len(trajectory.token_ids) for trajectory in played) / seconds
        generated = sum(sum(trajectory.action_mask) for trajectory in played) / seconds
        flops = operations * parameters * tokens / 1e12
        print(f"{name:21} {part:9} {tokens:10.0f}  {generated:11.0f}  {flops:8.3f}  {busy:>6}  {peak:8.2f}", flush=True)


def timed(run: Callable[[], None]) -> tuple[float, str, float]:
    """Return the median of seconds, how busy the GPU was, and the peak of its memory in GB."""
    import torch

    cuda = torch.cuda.is_available()
    run()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds, said = [], []
    with watching(said):
        for _ in range(REPEATS):
            if cuda:
                torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    busy = f"{statistics.fmean(said):.0f} %" if said else "-"
    return statistics.median(seconds), busy, torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0


@contextmanager
def watching(said: list[float]) -> Iterator[None]:
    """Fill in what nvidia-smi says every tenth of a second inside the block; nothing where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield
        return
    query = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100", "--id=0"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as watcher:
        try:
            yield
        finally:
            watcher.terminate()
            lines = watcher.communicate()[0].split()
            said += [float(line) for line in lines if line.isdigit()]


async def episodes(engine: "TransformersEngine", work: Work) -> "list[Trajectory]":
    """Play episodes with an environment that says the same number of tokens each turn."""
    from agent_gym.engines.base import Sampling
    from agent_gym.trajectory import Trajectory, Turn

    async def one(number: int) -> Trajectory:
        group, session = number // work.members, engine.session()
        trajectory = Trajectory(task_id=str(group))
        trajectory.append_context([(7 * place + group) % engine.vocabulary for place in range(work.prompt)])
        for turn in range(work.turns):
            sampling = Sampling(max_tokens=work.generated, seed=1000 * number + turn)
            done = await engine.generate(trajectory.token_ids, sampling, session)
            start = len(trajectory.token_ids)
            trajectory.append_action(done.token_ids, done.logprobs, done.entropies)
            trajectory.turns.append(Turn("", "", "", start, len(trajectory.token_ids)))
            trajectory.append_context([(3 * place + turn) % engine.vocabulary for place in range(OBSERVATION)])
        session.close()
        return trajectory

    return list(await asyncio.gather(*map(one, range(work.groups * work.members))))


def tiny(reduced: bool) -> "nn.Module":
    """Return a model of the size that the examples train."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=32 if reduced else 128,
        intermediate_size=64 if reduced else 640,
        num_hidden_layers=2 if reduced else 3,
        num_attention_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def half_billion(reduced: bool) -> "nn.Module":
    """Return a model of the shape of Qwen2.5-0.5B; reduced, a small one with the same parts."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=2048 if reduced else 151936,
        hidden_size=56 if reduced else 896,
        intermediate_size=128 if reduced else 4864,
        num_hidden_layers=2 if reduced else 24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config)


if __name__ == "__main__":
    main()
