"""The processes of a run: which of them this one is, what each of them does, and how what they find out comes together.

Every process plays its share of a step's episodes and then has all of them, so that whatever is computed from a step
(advantages, quantiles, histories, replay) is computed on every process from the same numbers. Only rows of an update
are shared out again. Process 0 alone writes and speaks.
"""

import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from agent_gym.errors import AgentGymError, ConfigError, ProcessError
from agent_gym.trainers import deepspeed
from agent_gym.trainers.parcels import pack, unpack

T = TypeVar("T")

TIMEOUT = 1800.0
"""Seconds that a process waits for the others by default."""
_LOST = re.compile(r"gloo|nccl|closed by peer|connection reset|process group|timed out", re.IGNORECASE)


class Processes:
    """The processes that accelerate or torchrun has started, or this one alone.

    What is gathered goes through a group of its own over the processors (gloo): it is Python's data, and a thread that
    samples ahead must not get into the order of what the gradients do.

    Args:
        accelerator: From accelerate; knows the processes.
        timeout: Seconds that a process waits for the others.
    """

    def __init__(self, accelerator: Accelerator, *, timeout: float = TIMEOUT) -> None:
        self.accelerator = accelerator
        self.timeout = timeout
        self.rank: int = accelerator.process_index
        """The number of this process, from 0."""
        self.count: int = accelerator.num_processes
        """How many there are."""
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout)) if self.count > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this process writes, shows progress and hands weights to servers."""
        return self.rank == 0

    def shards(self, *, asked: bool) -> bool:
        """Return whether models are spread over the processes: where asked, or where accelerate was told so."""
        if deepspeed.is_used(self.accelerator):
            return True
        return self.count > 1 and (asked or getattr(self.accelerator.state, "fsdp_plugin", None) is not None)

    def another(self) -> "Processes":
        """Return the same processes with a line of their own, for a thread beside this one; every process must ask."""
        return Processes(self.accelerator, timeout=self.timeout)

    def mine(self, count: int) -> list[int]:
        """Return the places, of so many, that this process does: neighbours, so that groups stay whole.

        Episodes of a group begin with the same prompt, which is read once where they are played together.
        """
        begin, end = (-(-rank * count // self.count) for rank in (self.rank, self.rank + 1))
        return list(range(begin, end))

    def gather(self, items: Sequence[T]) -> list[T]:
        """Return what all processes have done, by place, on every process.

        Args:
            items: What this process has done: one for each place of `mine`.
        """
        return [item for part in self.all(list(items)) for item in part]

    def all(self, value: T) -> list[T]:
        """Return what each process has handed in, in their order, on every process."""
        if self._group is None:
            return [value]
        data = torch.frombuffer(bytearray(pack(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self._group)
        longest = max(int(size) for size in sizes)
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
        dist.all_gather(parts, torch.nn.functional.pad(data, (0, longest - len(data))), group=self._group)
        return [unpack(part[: int(size)].numpy()) for part, size in zip(parts, sizes, strict=True)]

    def told(self, find_out: Callable[[], T]) -> T:
        """Let process 0 find something out, and return it on every process; what it raises is raised on all."""
        found: T | None = None
        with self.together():
            if self.is_main:
                found = find_out()
        value: T = self.all(found)[0]  # type: ignore[assignment]
        return value

    @contextmanager
    def together(self, kind: type[Exception] = Exception) -> Iterator[None]:
        """A block that all processes leave in the same way: what one of them raises in it is raised on all.

        Where only errors of a kind are meant, all processes raise these at the same place; what one of them meets
        alone, between two things that all of them do, ends it at once, and the others when they miss it.
        """
        try:
            yield
        except kind as error:
            self.agree(error)
            raise
        self.agree(None)

    def agree(self, error: Exception | None) -> None:
        """Go on if no process has met an error; otherwise raise on each one what the first of them met."""
        if self._group is None:
            if error is not None:
                raise error
            return
        met = dict(enumerate(self.all(None if error is None else _portable(error))))
        problems = {rank: problem for rank, problem in met.items() if problem is not None}
        if not problems:
            return
        # What was agreed on before is raised again by the one that met it: one process tells the user.
        own = [rank for rank, problem in problems.items() if not hasattr(problem, "told_by")]
        rank = min(own or problems)
        if rank == self.rank and error is not None:
            raise error
        problem = problems[rank]
        problem.__dict__["told_by"] = rank
        raise problem

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of every process's tensor, on its device; shapes must be equal."""
        if self._group is None:
            return values
        total = values.detach().to("cpu", copy=True)
        dist.all_reduce(total, group=self._group)
        return total.to(values.device)

    def part(self) -> None:
        """Leave the other processes; nothing can be gathered after that."""
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group()

    @contextmanager
    def watched(self, where: Path) -> Iterator[None]:
        """Turn what torch says when another process has ended or hangs into one sentence.

        Args:
            where: The run's folder.

        Raises:
            ProcessError: Another process of the run has ended, or has not answered in time.
        """
        try:
            yield
        except RuntimeError as error:
            if self._group is None or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
                raise
            raise ProcessError(
                f"Another of the run's {self.count} processes has ended, or has not answered for {self.timeout:g} s "
                f"(seen by process {self.rank}): look at what it said, then go on with --resume (run folder {where})."
            ) from error


def join(*, timeout: float = TIMEOUT, mixed_precision: str | None = None) -> Processes:
    """Join the processes that a launcher has started; without one this process is alone.

    Args:
        timeout: Seconds that a process waits for the others.
        mixed_precision: "no" or "bf16"; None leaves it to accelerate's configuration.

    Raises:
        ConfigError: The launcher was asked for several processes, and has started one; or for DeepSpeed in a way that
            is not supported.
        MissingExtraError: DeepSpeed was asked for and is not installed.
    """
    arguments: dict[str, Any] = {} if mixed_precision is None else {"mixed_precision": mixed_precision}
    through_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    if through_deepspeed:
        arguments["deepspeed_plugin"] = deepspeed.plugin()
    if launched() > 1:
        # torchrun alone says nothing of processors, and accelerate looks for them only where it is told to.
        group = InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))
        if through_deepspeed and not torch.accelerator.is_available():
            # Told of processors, accelerate forgets DeepSpeed.
            group.backend = "gloo"
        elif not torch.accelerator.is_available():
            arguments["cpu"] = True
        arguments["kwargs_handlers"] = [group]
    accelerator = Accelerator(**arguments)
    if through_deepspeed:
        deepspeed.load_whole()
    wanted = max(launched(), _asked_of_accelerate())
    if accelerator.num_processes < wanted:
        raise ConfigError(
            f"{wanted} processes were asked for, and this one is alone: on processors start them with "
            f"ACCELERATE_USE_CPU=true torchrun --nproc-per-node {wanted} -m agent_gym train ..., as accelerate launch "
            "--cpu starts a single one."
        )
    return Processes(accelerator, timeout=timeout)


def alone() -> Processes:
    """Return this process as what trains, or what accelerate knows of already."""
    return Processes(Accelerator())


def added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of each name's numbers; one that a part lacks counts 0 there."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def launched() -> int:
    """Return how many processes the launcher's environment speaks of; 1 without a launcher."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdigit() else 1


def _asked_of_accelerate() -> int:
    """Return the --num_processes of the `accelerate launch` that has started this process; 1 without one.

    `accelerate launch --cpu` starts one process whatever it was asked for, and leaves no trace in the environment.
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")
    except (OSError, UnicodeDecodeError):
        return 1
    if "launch" not in words or not any("accelerate" in word for word in words[: words.index("launch")]):
        return 1
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in ("--num_processes", "--num-processes"):
            value = value or following
            return int(value) if value.isdigit() else 1
    return 1


def _portable(error: Exception) -> Exception:
    """Return an error that can be handed to another process: itself, or its words where it cannot be pickled."""
    try:
        again = unpack(pack(error))
    except (pickle.PicklingError, TypeError, AttributeError, ImportError):
        again = None
    if type(again) is type(error) and str(again) == str(error):
        return error
    kind = type(error) if isinstance(error, AgentGymError) else RuntimeError
    try:
        return kind(f"{type(error).__name__}: {error}" if kind is RuntimeError else str(error))
    except TypeError:
        return RuntimeError(f"{type(error).__name__}: {error}")
