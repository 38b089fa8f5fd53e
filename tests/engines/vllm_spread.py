"""vLLM whose layers are spread over two processes, which torchrun starts: see test_vllm.py. Prints what it finds."""

import asyncio
import json
import sys

import torch

from agent_gym.engines.base import Sampling
from agent_gym.engines.tiny import TinySize, make_model, train_tokenizer
from agent_gym.engines.vllm import VllmEngine

SIZE = TinySize(hidden=64, feed_forward=128, layers=2, heads=2, context=512)


def main() -> None:
    """Ask for different things in each process, and compare with a plain forward pass."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    tokenizer = train_tokenizer(["go to the kitchen", "take the apple"] * 3, vocabulary=400)
    models = [make_model(tokenizer, SIZE, seed=seed).eval() for seed in (0, 1)]
    engine = VllmEngine.twin(models[0], tokenizer, max_batch=8, cache_gib=0.1, tensor_parallel=2)
    found = asyncio.run(_scene(engine, models, rank))
    found["groups"] = torch.distributed.is_initialized()
    sys.stdout.write(json.dumps({"rank": rank, **found}) + "\n")
    torch.distributed.destroy_process_group()


async def _scene(engine: VllmEngine, models: list, rank: int) -> dict:
    answered, worst = [], 0.0
    for model in models:
        await engine.sync(model.state_dict().items())
        prompts = [[10 + 7 * rank + 3 * number + place for place in range(30)] for number in range(3 + 2 * rank)]
        samplings = [Sampling(10 + 5 * rank, seed=number) for number in range(len(prompts))]
        done = await asyncio.gather(*map(engine.generate, prompts, samplings))
        answered.append(len(done))
        for prompt, each in zip(prompts, done, strict=True):
            ids = torch.tensor([prompt + each.token_ids])
            with torch.no_grad():
                logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            theirs = logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0]
            worst = max(worst, float((theirs - torch.tensor(each.logprobs)).abs().max()))
    if rank == 0:
        long = asyncio.ensure_future(engine.generate(prompts[0], Sampling(400)))
        await asyncio.sleep(0.2)
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
    scores = await engine.score(prompts[0])
    await engine.aclose()
    return {"answered": answered, "worst": worst, "scored": len(scores), "version": engine.version}


if __name__ == "__main__":
    main()
