"""What a model draws while it is trained (dropout) follows from a seed, whatever was drawn before it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators, which dropout cannot do without, inside the block; afterwards they are as they were.

    Args:
        seed: Says what is drawn.
        device: Where the model is. Of its generators those of the processor and of CUDA are seeded.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
