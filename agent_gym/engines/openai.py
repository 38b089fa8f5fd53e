"""Models behind an OpenAI-compatible server, as engines: messages for most, token ids for servers that take them.

A server keeps no session for us; it gets the whole history with every request. What of it is new is encoded once.
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent_gym.engines.base import Completion, Engine, Sampling, Session
from agent_gym.engines.dialect import Dialect
from agent_gym.engines.messages import SPOKEN, VOCABULARY, bytes_of, messages_in
from agent_gym.engines.openai_answers import (
    Token,
    WrongAnswerError,
    chat_tokens,
    choice_of,
    finish_reason,
    laid_over,
    logprob_of,
    tokens_in_bytes,
    usage_of,
)
from agent_gym.engines.prices import Price
from agent_gym.engines.scripted import END
from agent_gym.engines.server import Answer, BadRequestError, Server
from agent_gym.engines.topk import estimated_entropy
from agent_gym.errors import EngineError
from agent_gym.tools.calls import ToolCall

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_SEED = 2**31 - 1
"""Some servers take no larger one."""


class ServerEngine(Engine):
    """What both ways of asking a server share.

    Args:
        server: Where the model is.
        model: What the server calls it.
        top_logprobs: Entropies are estimated from so many tokens; 0 asks for no log-probabilities.
        price: For the cost of requests; None leaves it undefined.
    """

    path: str

    def __init__(self, server: Server, model: str, *, top_logprobs: int = 5, price: Price | None = None) -> None:
        self.server = server
        self.model = model
        self._top_logprobs = top_logprobs
        self._price = price
        self._dialect = Dialect()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, session: Session | None = None
    ) -> Completion:
        """Ask the server for a continuation; see `Engine.generate`.

        Log-probabilities and entropies are those that the server reports, of most before temperature.
        """
        prompt = self._encoded(prompt_ids, session or self.session())
        answer = await self._ask(prompt, self._parameters(sampling))
        try:
            completion = self._completion(answer, prompt_ids, sampling)
        except WrongAnswerError as error:
            # Its words are the server's, which a log would show as the cause.
            raise self.server.wrong(str(error)) from None
        except (TypeError, AttributeError) as error:
            raise self.server.wrong("in another form") from error
        named = answer.content.get("model")
        model = named if isinstance(named, str) and named else self.model
        completion.notes = {"model": model, **completion.notes, **self._dialect.note()}
        completion.exact_entropy = False
        return completion

    def fork_session(self, session: Session, length: int | None = None) -> Session:
        """Return a session that encodes its conversation anew: the server holds nothing."""
        return Session(self)

    async def sync(self, weights: "Iterable[tuple[str, Tensor]] | None" = None) -> None:
        """Refuse: the weights are the server's.

        Raises:
            EngineError: Always.
        """
        raise EngineError(f"The server {self.server.url} cannot take new weights: train with a model in this process.")

    async def disconnect(self) -> None:
        """See `Engine.disconnect`."""
        await self.server.disconnect()

    async def _ask(self, prompt: bytes, parameters: dict[str, Any]) -> Answer:
        while True:
            spoken = self._dialect.spoken(parameters)
            rest = json.dumps({"model": self.model, **spoken}).encode()
            try:
                return await self.server.post(self.path, b"{" + prompt + b"," + rest[1:])
            except BadRequestError as error:
                # It leaves out at least one more each time, so that this ends.
                if not self._dialect.learn(error.problem, spoken):
                    raise

    def _parameters(self, sampling: Sampling) -> dict[str, Any]:
        """Return the parameters that differ from what every server does by itself."""
        parameters: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed & _LARGEST_SEED,
        }
        if sampling.top_p < 1:
            parameters["top_p"] = sampling.top_p
        if sampling.top_k:
            parameters["top_k"] = sampling.top_k
        if sampling.stop:
            parameters["stop"] = list(sampling.stop)
        if sampling.stop_token_ids:
            parameters["stop_token_ids"] = list(sampling.stop_token_ids)
        return parameters

    @abstractmethod
    def _encoded(self, prompt_ids: Sequence[int], session: Session) -> bytes:
        """Return the member of the request that holds the prompt, without braces; encode what is new of it."""

    @abstractmethod
    def _completion(self, answer: Answer, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Read an answer.

        Raises:
            WrongAnswerError: It is not what the protocol says.
        """


class ChatEngine(ServerEngine):
    """A model that takes messages, by `/chat/completions`. Use it with a `MessageChat`: its ids are bytes.

    Args:
        server: Where the model is.
        model: What the server calls it.
        write_call: Writes a call that the server has read out of the answer in the environment's own syntax. None
            writes it as `<tool_call>` with JSON, as Hermes and Qwen do.
        top_logprobs: See `ServerEngine`.
        price: See `ServerEngine`.
    """

    path = "/chat/completions"
    vocabulary = VOCABULARY
    ids_per_token = 4.0

    def __init__(
        self,
        server: Server,
        model: str,
        *,
        write_call: Callable[[ToolCall], str] | None = None,
        top_logprobs: int = 5,
        price: Price | None = None,
    ) -> None:
        super().__init__(server, model, top_logprobs=top_logprobs, price=price)
        self.write_call = write_call or _hermes

    def _encoded(self, prompt_ids: Sequence[int], session: Session) -> bytes:
        parts = _parts(session, prompt_ids)
        parts.extend(message.to_json() for message in messages_in(prompt_ids, session.cached))
        session.cached = len(prompt_ids)
        return b'"messages":[' + b",".join(parts) + b"]"

    def _parameters(self, sampling: Sampling) -> dict[str, Any]:
        asked = {"logprobs": True, "top_logprobs": self._top_logprobs} if self._top_logprobs else {}
        return {**super()._parameters(sampling), **asked}

    def _completion(self, answer: Answer, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        choice = choice_of(answer.content)
        message = choice.get("message")
        if not isinstance(message, Mapping):
            raise WrongAnswerError("without a message")
        spoken, thought = bytes_of(self._said(message)), bytes_of(_thought(message))
        stop = choice.get("stop_reason")
        if isinstance(stop, str) and stop in sampling.stop:
            # Servers cut the stop string off; everywhere else it is kept.
            spoken += bytes_of(stop)
        reason = finish_reason(choice)
        token_ids = [*thought, SPOKEN, *spoken] if thought else list(spoken)
        logprobs, entropies, measured = self._measured(choice, thought, spoken)
        if reason != "length":
            token_ids.append(END)
            logprobs.append(0.0)
            entropies.append(0.0)
        sizes = tokens_in_bytes(len(prompt_ids)), tokens_in_bytes(len(token_ids))
        usage, counted = usage_of(answer.content, self._price, answer.retries, sizes)
        notes = {"entropies": measured, **({} if counted else {"token_counts": "estimated from bytes"})}
        return Completion(token_ids, logprobs, entropies, reason, usage=usage, notes=notes)

    def _measured(
        self, choice: Mapping[str, Any], thought: bytes, spoken: bytes
    ) -> tuple[list[float], list[float], str]:
        """Return log-probabilities and entropies of an answer's ids, without the end, and where they come from."""
        gap = len(thought) + 1 if thought else 0
        tokens = chat_tokens(choice)
        laid = laid_over(spoken, tokens) if tokens else None
        if laid is None:
            zeros = [0.0] * (gap + len(spoken))
            return zeros, list(zeros), "none"
        logprobs, entropies = laid
        before = [0.0] * gap
        return [*before, *logprobs], [*before, *entropies], f"estimated from the {self._top_logprobs} likeliest tokens"

    def _said(self, message: Mapping[str, Any]) -> str:
        """Return what an answer says, calls of tools in the environment's words."""
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
        parts = [content if isinstance(content, str) else ""]
        if not parts[0] and isinstance(message.get("refusal"), str):
            parts = [message["refusal"]]
        calls = message.get("tool_calls")
        parts += [self._written(call) for call in calls or () if isinstance(call, Mapping)]
        return "\n".join(part for part in parts if part)

    def _written(self, call: Mapping[str, Any]) -> str:
        function = call.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise WrongAnswerError("with a call of a tool that has no name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError:
                # What the model wrote, so that the environment can tell it what is wrong.
                return f"{function['name']}({function['arguments']})"
        if not isinstance(arguments, Mapping):
            arguments = {}
        return self.write_call(ToolCall(function["name"], arguments, str(call.get("id") or "")))


class CompletionsEngine(ServerEngine):
    """A model that takes token ids, by `/completions`, with the model's tokenizer on this side.

    vLLM returns the ids that it sampled. Of other servers the text is encoded again, and the episode says so.

    Args:
        server: Where the model is.
        model: What the server calls it.
        tokenizer: The model's; use a `TemplateChat` of it.
        top_logprobs: See `ServerEngine`.
        price: See `ServerEngine`.
    """

    path = "/completions"

    def __init__(
        self, server: Server, model: str, tokenizer: Any, *, top_logprobs: int = 5, price: Price | None = None
    ) -> None:
        super().__init__(server, model, top_logprobs=top_logprobs, price=price)
        self._tokenizer = tokenizer
        self.vocabulary = len(tokenizer)
        self.max_context = _context_of(server, model) or Engine.max_context

    def _encoded(self, prompt_ids: Sequence[int], session: Session) -> bytes:
        parts = _parts(session, prompt_ids)
        if new := prompt_ids[session.cached :]:
            parts.append(",".join(map(str, new)).encode())
        session.cached = len(prompt_ids)
        return b'"prompt":[' + b",".join(parts) + b"]"

    def _parameters(self, sampling: Sampling) -> dict[str, Any]:
        asked = {"logprobs": self._top_logprobs} if self._top_logprobs else {}
        return {**super()._parameters(sampling), **asked, "return_token_ids": True}

    def _completion(self, answer: Answer, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        choice = choice_of(answer.content)
        reason = finish_reason(choice)
        token_ids, again = self._ids(choice, reason)
        if not again and len(token_ids) > sampling.max_tokens:
            raise WrongAnswerError(f"with {len(token_ids)} tokens where at most {sampling.max_tokens} were asked for")
        tokens = _completion_tokens(choice)
        if tokens and not again and len(tokens) != len(token_ids):
            raise WrongAnswerError(f"with {len(token_ids)} tokens and {len(tokens)} log-probabilities")
        measured = "none"
        logprobs, entropies = [0.0] * len(token_ids), [0.0] * len(token_ids)
        if tokens and len(tokens) == len(token_ids) and all(token.entropy is not None for token in tokens):
            logprobs, entropies = [token.logprob for token in tokens], [token.entropy or 0.0 for token in tokens]
            measured = f"estimated from the {self._top_logprobs} likeliest tokens"
        usage, _ = usage_of(answer.content, self._price, answer.retries, (len(prompt_ids), len(token_ids)))
        notes = {"entropies": measured, **({"token_ids": "encoded again from text"} if again else {})}
        return Completion(token_ids, logprobs, entropies, reason, usage=usage, notes=notes)

    def _ids(self, choice: Mapping[str, Any], reason: str) -> tuple[list[int], bool]:
        """Return the generated ids, and whether they were encoded again."""
        token_ids = choice.get("token_ids")
        if token_ids is not None:
            if not isinstance(token_ids, list) or not all(self._known(each) for each in token_ids):
                raise WrongAnswerError("with token ids that the tokenizer does not have")
            return list(token_ids), False
        text = choice.get("text")
        if not isinstance(text, str):
            raise WrongAnswerError("without a text")
        encoded = list(self._tokenizer.encode(text, add_special_tokens=False))
        ends = reason != "length" and self._tokenizer.eos_token_id is not None
        return [*encoded, self._tokenizer.eos_token_id] if ends else encoded, True

    def _known(self, token: Any) -> bool:
        return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < self.vocabulary


def _parts(session: Session, prompt_ids: Sequence[int]) -> list[bytes]:
    """Return what of a session's conversation has been encoded; what is appended is kept."""
    if session.state is None or session.cached > len(prompt_ids):
        session.state, session.cached = [], 0
    parts: list[bytes] = session.state
    return parts


def _completion_tokens(choice: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a completion; none where the server reports none."""
    logprobs = choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, Mapping) else None
    if not isinstance(logprobs, Mapping) or not values:
        return []
    texts = logprobs.get("tokens") or [""] * len(values)
    tops = logprobs.get("top_logprobs") or [None] * len(values)
    if not len(values) == len(texts) == len(tops):
        raise WrongAnswerError(f"with {len(texts)} tokens and {len(values)} log-probabilities")
    tokens = []
    for text, value, top in zip(texts, values, tops, strict=True):
        logprob = logprob_of(value)
        alternatives = {str(name): logprob_of(each) for name, each in top.items()} if top else {}
        entropy = estimated_entropy({**alternatives, str(text): logprob}.values()) if alternatives else None
        tokens.append(Token(bytes_of(str(text)), logprob, entropy))
    return tokens


def _thought(message: Mapping[str, Any]) -> str:
    """Return the thought that a server has kept apart from its answer."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str):
            return str(message[name])
    return ""


def _hermes(call: ToolCall) -> str:
    value = {"name": call.name, "arguments": dict(call.arguments)}
    return f"<tool_call>\n{json.dumps(value, ensure_ascii=False)}\n</tool_call>"


def _context_of(server: Server, model: str) -> int | None:
    """Return the longest sequence of a model, where the server tells it, as vLLM does."""
    for known in server.models or ():
        longest = known.get("max_model_len")
        if known.get("id") == model and isinstance(longest, int) and longest > 0:
            return longest
    return None
