"""Batched sampling from any Hugging Face causal model, with the key-value cache kept over the turns of an episode.

Requests of many episodes share each forward pass (continuous batching); a request joins as soon as it arrives and
leaves as soon as it ends. Knows token ids only.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agent_gym.engines.base import Completion, Engine, Sampling, Session
from agent_gym.engines.runners import Row, SequentialRunner, SlotRunner
from agent_gym.engines.sampling import draw, uniforms
from agent_gym.engines.weights import copy_weights
from agent_gym.errors import EngineError

logger = logging.getLogger(__name__)

_TAIL = 32
"""Tokens decoded when looking for a stop string; longer than any stop string in tokens."""


@dataclass(eq=False)
class _Request:
    sampling: Sampling
    session: Session
    context: list[int]
    """The prompt and what was generated after it; the model has read the first `session.cached` of them."""
    future: "asyncio.Future[Completion]"
    own_session: bool
    stop_ids: frozenset[int]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


class TransformersEngine(Engine):
    """Samples from a causal model that lives in this process; the trainer may share its weights.

    Args:
        model: The model, on the device where it should run.
        tokenizer: Used only to look for stop strings; may be None where none are used.
        stop_token_ids: Tokens that end every generation; defaults to those of the model's generation configuration.
        max_batch: At most so many requests share a forward pass; the others wait.
        packed: Lay the tokens of all rows end to end (fast). None tries it against the model's own forward pass and
            falls back to one row at a time where the two disagree.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        *,
        stop_token_ids: Sequence[int] | None = None,
        max_batch: int = 256,
        packed: bool | None = None,
    ) -> None:
        if max_batch < 1:
            raise EngineError(f"max_batch must be at least 1, not {max_batch}.")
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.max_context = getattr(model.config, "max_position_embeddings", None) or Engine.max_context
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.stop_token_ids = frozenset(end_tokens(model) if stop_token_ids is None else stop_token_ids)
        self.generated_tokens = 0
        self._sessions: set[Session] = set()
        self._waiting: list[_Request] = []
        self._running: list[_Request] = []
        self._driver: asyncio.Task[None] | None = None
        self._holding = False
        """Whether requests wait for new weights."""
        self._runner: SlotRunner | SequentialRunner = self._choose_runner(packed)

    # -- the interface ---------------------------------------------------------------------------------------------

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, session: Session | None = None
    ) -> Completion:
        """Sample a continuation; see `Engine.generate`."""
        if not prompt_ids:
            raise EngineError("The engine was given an empty prompt: hand in at least one token.")
        if len(prompt_ids) + sampling.max_tokens > self.max_context:
            raise EngineError(
                f"A prompt of {len(prompt_ids)} tokens and max_tokens={sampling.max_tokens} exceed the model's context "
                f"of {self.max_context}: shorten the episode or the generation."
            )
        if sampling.stop and self.tokenizer is None:
            raise EngineError("Stop strings need a tokenizer: give one to TransformersEngine.")
        own_session = session is None
        session = session or self.session()
        if session.closed or session.cached >= len(prompt_ids):
            raise EngineError("The session is closed or its prompt did not grow: append to its last prompt.")
        loop = asyncio.get_running_loop()
        request = _Request(
            sampling=sampling,
            session=session,
            context=list(prompt_ids),
            future=loop.create_future(),
            own_session=own_session,
            stop_ids=self.stop_token_ids | frozenset(sampling.stop_token_ids),
        )
        self._waiting.append(request)
        self._start()
        return await request.future

    def session(self) -> Session:
        """Open a conversation whose keys and values are kept until it is closed."""
        session = Session(self)
        self._sessions.add(session)
        return session

    def fork_session(self, session: Session, length: int | None = None) -> Session:
        """Copy a conversation, its keys and values included, as far as asked for."""
        kept = session.cached if length is None else min(session.cached, length)
        child = Session(self, kept, self._runner.fork(session.state, kept))
        self._sessions.add(child)
        return child

    def close_session(self, session: Session) -> None:
        """Free the cache of a conversation."""
        self._sessions.discard(session)
        self._runner.free(session.state)
        session.state = None

    async def sync(self, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """Use new weights and forget all keys and values that the old ones made.

        Generations that have begun are finished with the old weights first, and those that are asked for meanwhile
        wait: all tokens of a completion are of its version.

        Raises:
            EngineError: The weights do not fit the model.
        """
        self._holding = True
        try:
            if self._running and self._driver is not None and not self._driver.done():
                await asyncio.wait([self._driver])
            if weights is not None:
                copy_weights(self.model, weights)
            for session in self._sessions:
                self._forget(session)
            self.version += 1
        finally:
            self._holding = False
            self._start()

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """See `Engine.score`."""
        if len(token_ids) > self.max_context:
            raise EngineError(f"{len(token_ids)} tokens exceed the model's context of {self.max_context}.")
        self.model.eval()
        ids = torch.tensor([list(token_ids)], device=self.model.device)
        with torch.no_grad():
            logprobs = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        scores: list[float] = logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()
        return scores

    def _forget(self, session: Session) -> None:
        """Drop a conversation's keys and values; the next pass reads all of it again."""
        self._runner.free(session.state)
        session.state, session.cached = None, 0

    # -- the loop --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """See to it that somebody takes care of those who wait."""
        if self._waiting and (self._driver is None or self._driver.done()):
            self._driver = asyncio.get_running_loop().create_task(self._drive())

    async def _drive(self) -> None:
        """Run forward passes until nothing is asked for; one pass adds one token to every running request."""
        try:
            while True:
                # Those whose answers came with the last pass act in their environments now and ask again.
                await asyncio.sleep(0)
                self._admit()
                if not self._running:
                    return
                self._advance()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._fail(error)

    def _admit(self) -> None:
        self._running = [request for request in self._running if not self._abandoned(request)]
        self._waiting = [request for request in self._waiting if not self._abandoned(request)]
        room = 0 if self._holding else self.max_batch - len(self._running)
        self._running.extend(self._waiting[:room])
        del self._waiting[:room]

    def _abandoned(self, request: _Request) -> bool:
        """A caller that was cancelled (by a time-out, say) no longer wants its tokens."""
        if not request.future.cancelled():
            return False
        if request.own_session:
            request.session.close()
        elif request.token_ids:
            # It may hold tokens that its owner never got.
            self._forget(request.session)
        return True

    @torch.no_grad()
    def _advance(self) -> None:
        logits = self._forward()
        temperatures, uniform, top_p, top_k = self._parameters(logits.device)
        drawn = draw(logits, temperatures, uniform, top_p, top_k)
        tokens, logprobs, entropies = (values.tolist() for values in drawn)
        self.generated_tokens += len(tokens)
        still_running = []
        for request, token, logprob, entropy in zip(self._running, tokens, logprobs, entropies, strict=True):
            request.token_ids.append(token)
            request.logprobs.append(logprob)
            request.entropies.append(entropy)
            request.context.append(token)
            reason = self._finish_reason(request, token)
            if reason is None:
                still_running.append(request)
            else:
                self._finish(request, reason)
        self._running = still_running

    def _forward(self) -> Tensor:
        """Read every running request's new tokens; return the logits (R, V) after each one's last token."""
        # The trainer, which may share the model, leaves it in training mode: dropout would be on.
        if self.model.training:
            self.model.eval()
        rows = []
        for request in self._running:
            cached = request.session.cached
            rows.append(Row(request.session.state, cached, request.context[cached:]))
        try:
            logits = self._runner.forward(rows)
        finally:
            for request, row in zip(self._running, rows, strict=True):
                request.session.state = row.state
        for request in self._running:
            request.session.cached = len(request.context)
        return logits

    def _parameters(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return temperature, random number, top_p and top_k of each running request, (R,) each."""
        samplings = [request.sampling for request in self._running]
        counters = [len(request.token_ids) for request in self._running]
        top_p = [sampling.top_p for sampling in samplings]
        top_k = [sampling.top_k for sampling in samplings]
        return (
            torch.tensor([sampling.temperature for sampling in samplings], device=device),
            uniforms([sampling.seed for sampling in samplings], counters),
            torch.tensor(top_p, device=device) if min(top_p) < 1 else None,
            torch.tensor(top_k, device=device) if max(top_k) > 0 else None,
        )

    def _finish_reason(self, request: _Request, token: int) -> str | None:
        if token in request.stop_ids:
            return "stop"
        if request.sampling.stop:
            tail = self.tokenizer.decode(request.token_ids[-_TAIL:])
            if any(stop in tail for stop in request.sampling.stop):
                return "stop"
        return "length" if len(request.token_ids) >= request.sampling.max_tokens else None

    def _finish(self, request: _Request, reason: str) -> None:
        if request.own_session:
            request.session.close()
        if not request.future.done():
            request.future.set_result(
                Completion(request.token_ids, request.logprobs, request.entropies, reason, self.version)
            )

    def _fail(self, error: Exception) -> None:
        """Hand an error of the forward pass to everyone who waits; the engine can be used again."""
        requests, self._running, self._waiting = [*self._running, *self._waiting], [], []
        for request in requests:
            if not request.future.done():
                failure = EngineError(f"The model's forward pass failed: {error}.")
                failure.__cause__ = error
                request.future.set_exception(failure)
        for request in requests:
            # What the pass had read before it failed is not known.
            self._forget(request.session)
            if request.own_session:
                request.session.close()

    # -- choosing how to run ---------------------------------------------------------------------------------------

    def _choose_runner(self, packed: bool | None) -> SlotRunner | SequentialRunner:
        if packed is False:
            return SequentialRunner(self.model)
        runner = SlotRunner(self.model)
        difference = runner.difference_from_model()
        # What 16 bits round away grows with the depth of a model; packing that is wrong is off by much more.
        tolerance = max(1e-3, 8 * torch.finfo(self.model.dtype).eps)
        if difference is not None and difference <= tolerance:
            return SlotRunner(self.model)
        reason = "its attention cannot be packed" if difference is None else f"logits differ by {difference:.2g}"
        if packed:
            raise EngineError(f"{type(self.model).__name__} cannot run packed ({reason}): leave packed=None.")
        logger.warning("%s runs one row at a time: %s.", type(self.model).__name__, reason)
        return SequentialRunner(self.model)


def end_tokens(model: PreTrainedModel) -> list[int]:
    """Return the tokens with which a model says that it has ended."""
    config = getattr(model, "generation_config", None)
    end = getattr(config, "eos_token_id", None) if config else None
    if end is None:
        end = getattr(model.config, "eos_token_id", None)
    if end is None:
        return []
    return list(end) if isinstance(end, list | tuple) else [int(end)]
