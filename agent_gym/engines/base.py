"""What an engine is: prompts of token ids in, sampled token ids with log-probabilities and entropies out.

Strings never cross this interface; an engine knows no chat, no environment and no training.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_gym.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of one request are drawn.

    Raises:
        EngineError: A number is out of range.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    """0 takes the most probable token each time."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    stop: tuple[str, ...] = ()
    """Generation ends as soon as the generated text contains one of these; the tokens of the stop string are kept."""
    stop_token_ids: tuple[int, ...] = ()
    """Generation ends with one of these tokens, which is kept."""
    seed: int = 0
    """Fixes the random numbers of this request, whatever else is in the batch."""

    def __post_init__(self) -> None:
        _check(self.max_tokens >= 1, f"max_tokens must be at least 1, not {self.max_tokens}")
        _check(self.temperature >= 0, f"temperature must not be negative, it is {self.temperature}")
        _check(0 < self.top_p <= 1, f"top_p must be in (0, 1], not {self.top_p}")
        _check(self.top_k >= 0, f"top_k must not be negative, it is {self.top_k}")

    def seeded(self, seed: int) -> "Sampling":
        """Return the same with another seed; what was checked is not checked again, once for every turn."""
        twin, put = object.__new__(Sampling), object.__setattr__
        put(twin, "max_tokens", self.max_tokens)
        put(twin, "temperature", self.temperature)
        put(twin, "top_p", self.top_p)
        put(twin, "top_k", self.top_k)
        put(twin, "stop", self.stop)
        put(twin, "stop_token_ids", self.stop_token_ids)
        put(twin, "seed", seed)
        return twin


def _check(holds: bool, sentence: str) -> None:
    if not holds:
        raise EngineError(f"Sampling cannot start: {sentence}.")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost, where the engine is told so."""

    prompt_tokens: int
    generated_tokens: int
    """Those of a thought that the server does not show included."""
    cost: float | None = None
    """In dollars; None where no price is known."""
    retries: int = 0
    """Requests that failed before this one was answered."""


@dataclass(slots=True)
class Completion:
    """The answer to one request, over n generated tokens."""

    token_ids: list[int]
    logprobs: list[float]
    """Natural log-probabilities (n,) of the sampled tokens under the distribution after temperature and before any
    cut by top_p or top_k: what a trainer recomputes. At temperature 0 they are those of temperature 1."""
    entropies: list[float]
    """Entropies (n,) in nats of the same distributions."""
    finish_reason: str
    """ "stop" (a stop token or string), "length", or "content_filter" where a server held the answer back."""
    engine_version: int = 0
    exact_entropy: bool = True
    """False where the entropy was estimated from the k most probable tokens."""
    usage: Usage | None = None
    """None where the tokens are those of the ids and cost nothing."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What the metadata of the episode should say: which model answered, what could not be had from it."""


@dataclass(eq=False)
class Session:
    """One conversation with an engine; the engine may keep its key-value cache between turns."""

    engine: "Engine"
    cached: int = 0
    """Number of leading tokens whose keys and values the engine holds."""
    state: Any = None
    closed: bool = field(default=False)

    def fork(self, length: int | None = None) -> "Session":
        """Return a session with a copy of what the engine holds for this one.

        Args:
            length: Of the leading tokens take over so many at most; the copy goes on from there. None takes all.
        """
        return self.engine.fork_session(self, length)

    def close(self) -> None:
        """Give back what the engine holds; closing twice does nothing."""
        if not self.closed:
            self.closed = True
            self.engine.close_session(self)


class Engine(ABC):
    """Turns token prompts into sampled tokens. Requests of many episodes may be in flight at once."""

    version: int = 0
    """Counts the updates of the weights."""
    max_context: int = 1 << 30
    """Longest sequence, prompt and generation together, in tokens."""
    vocabulary: int = 0
    """Number of tokens that it draws from; 0 where it does not say."""
    ids_per_token: float = 1.0
    """More than 1 where the ids are no tokens of the model but the bytes of its text: limits are meant in tokens."""

    takes_adapter: bool = False
    """Whether `sync` is handed the tensors of a LoRA adapter alone instead of the whole weights."""

    def __str__(self) -> str:
        """Return what errors call it."""
        return type(self).__name__

    @abstractmethod
    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, session: Session | None = None
    ) -> Completion:
        """Sample a continuation of `prompt_ids`.

        Args:
            prompt_ids: The whole context. With a session it must begin with the tokens of the session's last call;
                the engine reads only what is new.
            sampling: How to sample.
            session: The conversation that the prompt belongs to, from `session()`.

        Raises:
            EngineError: The prompt does not fit or the engine failed.
        """

    def session(self) -> Session:
        """Open a conversation; close it when the episode ends."""
        return Session(self)

    def fork_session(self, session: Session, length: int | None = None) -> Session:
        """Return an independent copy of a session, of its first `length` tokens at most; see `Session.fork`."""
        return Session(self, _at_most(session.cached, length), session.state)

    def close_session(self, session: Session) -> None:  # noqa: B027 - engines that keep nothing need not override
        """Free what the engine holds for a session."""

    async def disconnect(self) -> None:  # noqa: B027 - an engine in this process has no connections
        """Close connections, which belong to the running event loop; the next request opens them again."""

    async def aclose(self) -> None:
        """Give back all that the engine holds: it is not used again. Closing twice does nothing."""
        await self.disconnect()

    async def sync(self, weights: "Iterable[tuple[str, Tensor]] | None" = None) -> None:
        """Use new weights from now on, and forget all that was computed with the old ones; adds 1 to `version`.

        Args:
            weights: Names and full tensors, named as in the model's own state dict; taken one by one, so that a model
                is never held twice. None where the engine shares the trainer's model.

        Raises:
            EngineError: The weights do not fit the model, or the engine cannot take any.
        """
        self.version += 1

    async def score(self, token_ids: Sequence[int]) -> list[float] | None:
        """Return the natural log-probability of each token after the first, at temperature 1, given those before it.

        Returns:
            One number for each of the n - 1 tokens; None where the engine cannot say.

        Raises:
            EngineError: The tokens do not fit the model or the engine failed.
        """
        return None

    async def sleep(self) -> None:  # noqa: B027 - most engines hold nothing that another could use
        """Give memory back that the update of the weights can use; no request comes before `wake`."""

    async def wake(self) -> None:  # noqa: B027 - see `sleep`
        """Be ready for requests again. The weights are not, where `sleep` gave them back: a `sync` follows."""


def _at_most(cached: int, length: int | None) -> int:
    return cached if length is None else min(cached, length)
