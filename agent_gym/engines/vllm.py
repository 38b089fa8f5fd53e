"""vLLM in this process: many requests in one batch, prefixes cached over turns and branches, weights handed over.

The trainer and vLLM share the device: weights go from one to the other without touching the disk, and vLLM's memory is
the trainer's while it updates.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import Tensor

from agent_gym.engines import vllm_building as building
from agent_gym.engines.base import Completion, Engine, Sampling, Session
from agent_gym.engines.fingerprint import Arrival, WeightSums
from agent_gym.engines.topk import estimated_entropy
from agent_gym.engines.vllm_lockstep import LockstepThread
from agent_gym.engines.vllm_thread import Request, VllmThread, await_room
from agent_gym.engines.vllm_watch import Limits
from agent_gym.engines.weights import weight_names
from agent_gym.errors import EngineError

_LARGEST_SEED = 2**63 - 1
_CPU_CACHE_GIB = 1.0


class VllmEngine(Engine):
    """Samples with vLLM; see https://docs.vllm.ai.

    Sessions hold nothing: vLLM finds by itself, in blocks of `block_size` tokens, what it has read of a prompt, whoever
    sent it. Requests in flight when new weights come are finished with the old ones first, and later ones wait, so that
    each completion comes from one version of the weights.

    Args:
        model: A folder in Hugging Face's format, or the name of a model on the hub.
        dtype: Of weights and computation: "float32", "bfloat16", "float16"; "auto" for what the weights are stored in.
        top_logprobs: Entropies are estimated from so many most probable tokens, see `estimated_entropy`.
        max_batch: Requests in one forward pass, at most.
        max_context: Longest sequence in tokens; None is the model's.
        memory_share: Of the GPU's memory, for weights and caches together.
        cache_gib: Memory for keys and values in GiB; None is what `memory_share` leaves, on a CPU 1.
        block_size: Tokens a block of the prefix cache; on a CPU multiples of 32 are fast.
        eager: Run without compiling and CUDA graphs; None does so on a CPU.
        tensor_parallel: Processes, of those that torchrun started, that share each layer.
        stop_token_ids: Tokens that end every generation; None takes those of the model's generation configuration.
        weights: False begins without weights; the first `sync` brings them.
        sleep: Whether `sleep` gives the device's memory back; on a CPU it never does.
        timeout: Seconds that one step of vLLM may take before it counts as hanging: all that wait for it are told.
        sync_timeout: Likewise for new weights, for `sleep`, `wake` and `aclose`.
        start_timeout: Likewise for its start.
        options: Further arguments of vLLM's `EngineArgs`.

    Raises:
        MissingExtraError: vLLM is not installed.
        EngineError: vLLM cannot run the model, or not any more in this process.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        top_logprobs: int = 20,
        max_batch: int = 256,
        max_context: int | None = None,
        memory_share: float = 0.9,
        cache_gib: float | None = None,
        block_size: int = 32,
        eager: bool | None = None,
        tensor_parallel: int = 1,
        stop_token_ids: Sequence[int] | None = None,
        weights: bool = True,
        sleep: bool = False,
        timeout: float = 300.0,
        sync_timeout: float = 600.0,
        start_timeout: float = 1800.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        vllm = building.import_vllm()
        await_room()
        self._parameters_class = vllm.SamplingParams
        self._final_only = vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        self._grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._sleeps = sleep and building.can_sleep()
        self._has_weights = weights
        self._asleep: set[str] = set()
        """What of vLLM has given its memory back."""
        self.top_logprobs = top_logprobs
        self.prompt_tokens = 0
        """Tokens of all prompts."""
        self.cached_tokens = 0
        """Those of them that were in the prefix cache."""
        self.generated_tokens = 0
        cpu = building.on_cpu()
        if cache_gib is None and cpu:
            cache_gib = _CPU_CACHE_GIB
        arguments: dict[str, Any] = {
            "model": model,
            "dtype": building.stored_dtype(model) if dtype == "auto" else dtype,
            "max_num_seqs": max_batch,
            "max_model_len": max_context,
            "gpu_memory_utilization": memory_share,
            "kv_cache_memory_bytes": None if cache_gib is None else int(cache_gib * 2**30),
            "block_size": block_size,
            "enforce_eager": cpu if eager is None else eager,
            "tensor_parallel_size": tensor_parallel,
            "enable_prefix_caching": True,
            "enable_sleep_mode": self._sleeps,
            # What the trainer computes again: after temperature. Cuts are undone, see `BeforeCuts`.
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": max(top_logprobs, 1),
            "disable_log_stats": True,
            "load_format": "auto" if weights else "dummy",
            "generation_config": "auto",
            **(options or {}),
        }
        if self._grouped or tensor_parallel > 1:
            # Every process that torchrun started makes its own engine; layers are shared by neighbours.
            arguments.setdefault("distributed_executor_backend", "external_launcher")
        # Processes that share layers step together.
        thread = LockstepThread if tensor_parallel > 1 else VllmThread
        self._thread = thread(
            lambda: building.build(arguments, grouped=self._grouped),
            lambda: self.version,
            drop=lambda engine: building.drop(engine, grouped=self._grouped),
            limits=Limits(step=timeout, call=sync_timeout, start=start_timeout),
        )
        settings = self._thread.call(lambda engine: engine.vllm_config.model_config).result()
        self._cuts = self._thread.call(lambda engine: all(engine.collective_rpc(building.report_before_cuts))).result()
        self.max_context = int(settings.max_model_len)
        self.vocabulary = int(settings.get_vocab_size())
        ends = settings.try_get_generation_config().get("eos_token_id") if stop_token_ids is None else stop_token_ids
        self.stop_token_ids = frozenset(() if ends is None else [ends] if isinstance(ends, int) else ends)
        self._expected: frozenset[str] = frozenset()
        """Names of weights that must be handed over together, as far as they are known."""
        self._arrival = Arrival(str(self))
        self._closed = False

    @classmethod
    def twin(cls, model: Any, tokenizer: Any, **arguments: Any) -> Self:
        """Make an engine of the same shape as a trainer's model; its first `sync` brings the weights.

        Args:
            model: A `PreTrainedModel`, whose weights may be spread over processes; they are not touched.
            tokenizer: Its tokenizer.
            **arguments: Of the constructor; `dtype` is the model's by default.
        """
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        with TemporaryDirectory(prefix="agent-gym-vllm-") as folder:
            config = base.config.__class__.from_dict(base.config.to_dict())
            # Sharding gives the model's class another name.
            config.architectures = base.config.architectures or [type(base).__name__.removeprefix("FSDP")]
            config.save_pretrained(folder)
            if base.generation_config is not None:
                base.generation_config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            try:
                engine = cls(folder, **{"dtype": dtype, "weights": False, **arguments})
            except EngineError as error:
                if folder in str(error):
                    # A folder that nobody else has seen says nothing.
                    raise EngineError(str(error).replace(folder, base.name_or_path or "of the trainer")) from error
                raise
        engine._expected = weight_names(base)
        return engine

    # -- the interface ---------------------------------------------------------------------------------------------

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, session: Session | None = None
    ) -> Completion:
        """Sample a continuation; see `Engine.generate`. Cancelling it takes the request out of vLLM."""
        if session is not None and session.closed:
            raise EngineError("The session is closed: open another one.")
        self._check(prompt_ids, sampling.max_tokens)
        if (sampling.top_p < 1 or sampling.top_k > 0) and not self._cuts:
            raise EngineError(
                "This vLLM does not say how probable tokens were before a cut: use top_p=1 and top_k=0, or set "
                "VLLM_USE_V2_MODEL_RUNNER=0."
            )
        request = Request(list(prompt_ids), self._parameters(sampling))
        output = await asyncio.wrap_future(self._thread.ask(request))
        self.prompt_tokens += len(prompt_ids)
        self.cached_tokens += output.num_cached_tokens or 0
        return self._completion(output.outputs[0], request.version)

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """See `Engine.score`; vLLM computes them as it does a prompt."""
        if len(token_ids) < 2:
            return []
        self._check(token_ids, 1)
        parameters = self._parameters_class(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, output_kind=self._final_only
        )
        output = await asyncio.wrap_future(self._thread.ask(Request(list(token_ids), parameters)))
        scores = [
            float(named[token].logprob) for named, token in zip(output.prompt_logprobs[1:], token_ids[1:], strict=True)
        ]
        return _finite(scores)

    async def sync(self, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """See `Engine.sync`; requests in flight are finished with the old weights first, and later ones wait.

        Raises:
            EngineError: The weights do not fit the model, some are missing, vLLM does not hold them, or none are given.
        """
        if weights is None:
            raise EngineError("vLLM shares no weights with the trainer: hand them to sync.")
        await asyncio.wrap_future(self._thread.call(lambda engine: self._load(engine, weights), "taking new weights"))

    async def sleep(self) -> None:
        """Give vLLM's memory back, weights and caches; nothing is given back on a CPU. See `Engine.sleep`."""
        if self._sleeps and not self._asleep:
            await asyncio.wrap_future(self._thread.call(self._fall_asleep, "falling asleep"))

    async def wake(self) -> None:
        """See `Engine.wake`: cheapest after `sync`, which takes memory for the weights alone."""
        if self._asleep:
            parts = {"weights", "kv_cache"}
            await asyncio.wrap_future(self._thread.call(lambda engine: self._wake(engine, parts), "waking up"))

    async def aclose(self) -> None:
        """End vLLM, after the requests in flight."""
        if not self._closed:
            self._closed = True
            ended = self._thread.end(lambda engine: building.tear_down(engine, grouped=self._grouped))
            try:
                await asyncio.wrap_future(ended)
            except EngineError:
                # Those who wait have been told why; there is nothing left to end.
                if not self._thread.has_died:
                    raise
            self._thread.join()

    # -- in vLLM's thread ------------------------------------------------------------------------------------------

    def _load(self, engine: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._wake(engine, {"weights"})
        self._has_weights = False
        given = WeightSums(engine.vllm_config.model_config.dtype)
        try:
            with torch.no_grad():
                engine.collective_rpc(building.reload, args=(given.passing(weights),))
        except (KeyError, ValueError, AssertionError, AttributeError, RuntimeError) as error:
            raise EngineError(f"The new weights do not fit vLLM's model: {type(error).__name__}: {error}.") from error
        missing = sorted(self._expected.difference(given.names))
        if missing:
            raise EngineError(f"The new weights are not all: {len(missing)} are missing, {missing[0]!r} among them.")
        [held] = engine.collective_rpc(building.held_sums)
        self._arrival.check(given.cast, held)
        # Keys and values of the old weights must not be found again.
        if not engine.reset_prefix_cache():
            raise EngineError("vLLM did not forget its prefix cache: it would answer with the old weights.")
        self._has_weights = True
        self.version += 1

    def _fall_asleep(self, engine: Any) -> None:
        engine.reset_prefix_cache()
        # Level 2 drops the weights: new ones follow anyway.
        engine.sleep(level=2)
        self._asleep = {"weights", "kv_cache"}
        self._has_weights = False

    def _wake(self, engine: Any, parts: set[str]) -> None:
        parts = parts & self._asleep
        if parts:
            engine.wake_up(sorted(parts))
            self._asleep -= parts

    # -- requests and answers --------------------------------------------------------------------------------------

    def _check(self, token_ids: Sequence[int], max_tokens: int) -> None:
        if not token_ids:
            raise EngineError("The engine was given an empty prompt: hand in at least one token.")
        if len(token_ids) + max_tokens > self.max_context:
            raise EngineError(
                f"A prompt of {len(token_ids)} tokens and max_tokens={max_tokens} exceed the model's context of "
                f"{self.max_context}: shorten the episode or the generation."
            )
        if not self._closed and (not self._has_weights or self._asleep):
            raise EngineError("vLLM has no weights yet, or sleeps: sync and wake it first.")

    def _parameters(self, sampling: Sampling) -> Any:
        return self._parameters_class(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            # One object a request: requests that share one draw the same noise.
            seed=sampling.seed & _LARGEST_SEED,
            logprobs=self.top_logprobs,
            flat_logprobs=True,
            # All tokens that end a generation are named here, so that the engine's own list counts and no other.
            ignore_eos=True,
            stop_token_ids=sorted(self.stop_token_ids.union(sampling.stop_token_ids)),
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            detokenize=bool(sampling.stop),
            skip_special_tokens=False,
            output_kind=self._final_only,
        )

    def _completion(self, answer: Any, version: int) -> Completion:
        token_ids, named = list(answer.token_ids), answer.logprobs
        if answer.finish_reason not in ("stop", "length") or named is None or len(named) != len(token_ids):
            raise EngineError(
                f"vLLM ended a request with {answer.finish_reason!r} after {len(token_ids)} tokens, with "
                f"log-probabilities of {0 if named is None else len(named)}."
            )
        self.generated_tokens += len(token_ids)
        logprobs, entropies = [], []
        for start, end in zip(named.start_indices, named.end_indices, strict=True):
            # The sampled token comes first, then the most probable ones, it may be among them.
            sampled, top = named.logprobs[start], named.logprobs[start + 1 : end]
            among = named.token_ids[start] in named.token_ids[start + 1 : end]
            logprobs.append(sampled)
            entropies.append(estimated_entropy(top if among else [sampled, *top], min(top, default=0.0)))
        return Completion(token_ids, _finite(logprobs), entropies, answer.finish_reason, version, exact_entropy=False)


def _finite(logprobs: list[float]) -> list[float]:
    """Return log-probabilities, those that rounding has put above 0 as 0."""
    if not all(map(math.isfinite, logprobs)):
        raise EngineError("vLLM gave log-probabilities that are no numbers: see that weights and dtype are right.")
    return [min(0.0, logprob) for logprob in logprobs]
