"""Sampling from servers of vLLM, one or many: token ids in and out, and new weights pushed to all of them.

A conversation stays with one server, which finds what it has read before in its cache of prefixes. A server that dies
is left out, and the others take over its conversations; where none is left the run ends, and says so.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_gym.engines import vllm_answers as answers
from agent_gym.engines.base import Completion, Engine, Sampling, Session
from agent_gym.engines.openai_answers import WrongAnswerError
from agent_gym.engines.pinning import Pins
from agent_gym.engines.pushing import Pusher, choose_pusher
from agent_gym.engines.retrying import Patience
from agent_gym.engines.server import Answer
from agent_gym.engines.vllm_http import ServerDownError, VllmServer
from agent_gym.engines.weight_folders import sweep
from agent_gym.errors import ContextLengthError, EngineError, RefusedError
from agent_gym.sections import EngineSection
from agent_gym.tools.web import Retries

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_PROBE = 4
"""Tokens of the prompt with which a server is tried."""


@dataclass(eq=False)
class _Conversation:
    """What is known of a session: its server, and the part of its prompt that is already written as JSON."""

    server: str
    parts: list[bytes] = field(default_factory=list)


class VllmServerEngine(Engine):
    """Samples from the policy that servers of vLLM hold.

    Args:
        servers: They have been described (`VllmServer.describe`).
        vocabulary: Tokens of the model.
        stop_ids: Tokens that end every generation.
        pusher: How new weights reach the servers.
        pushes: Whether this process hands them on; of many that train together one does, and the others count along.
        top_logprobs: Entropies are estimated from so many most probable tokens.
        tolerance: Log-probabilities of two servers may differ by so much.

    Raises:
        EngineError: A server cannot do what is needed.
    """

    def __init__(
        self,
        servers: Sequence[VllmServer],
        *,
        vocabulary: int,
        stop_ids: Sequence[int] = (),
        pusher: Pusher,
        pushes: bool = True,
        top_logprobs: int = 20,
        tolerance: float = 0.1,
    ) -> None:
        self.servers = {server.url: server for server in servers}
        self.vocabulary = vocabulary
        self.max_context = min((each.max_context or Engine.max_context for each in servers), default=0)
        self.lost: dict[str, str] = {}
        """Servers that are left out, and why."""
        self._stop_ids = tuple(stop_ids)
        self._pusher = pusher
        self._pushes = pushes
        self.takes_adapter = pusher.takes_adapter
        self._top_logprobs = top_logprobs
        self._tolerance = tolerance
        self._pins = Pins(self.servers)
        self._path = answers.GENERATE if all(each.offers(answers.GENERATE) for each in servers) else answers.COMPLETIONS
        self._syncs = 0
        self._earlier: dict[str, int] = {}
        """Versions of the weights before the present ones, by the labels that servers were told."""
        self._flattening: set[str] = set()
        """Servers that are known to report log-probabilities after temperature."""

    def __str__(self) -> str:
        return f"vLLM at {', '.join(self.servers)}"

    # -- sampling --------------------------------------------------------------------------------------------------

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, session: Session | None = None
    ) -> Completion:
        """Sample a continuation; see `Engine.generate`. A cancelled call closes its connection, which ends it there.

        Raises:
            ContextLengthError: The prompt is too long.
            RefusedError: No server is left, or one answers what cannot be trained on.
        """
        if not prompt_ids:
            raise EngineError("The engine was given an empty prompt: hand in at least one token.")
        if sampling.top_p < 1 or sampling.top_k > 0:
            raise RefusedError(
                "Servers of vLLM do not say how probable tokens were before a cut, which training needs: use top_p=1 "
                "and top_k=0, or another engine (--engine vllm)."
            )
        if len(prompt_ids) + sampling.max_tokens > self.max_context:
            raise ContextLengthError(
                f"A prompt of {len(prompt_ids)} tokens and max_tokens={sampling.max_tokens} exceed the servers' "
                f"context of {self.max_context}: shorten the episode or the generation."
            )
        own = session is None
        session = session or self.session()
        try:
            return await self._generate(prompt_ids, sampling, session)
        finally:
            if own:
                session.close()

    async def _generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Session) -> Completion:
        chosen = answers.parameters(sampling, self._stop_ids, self._top_logprobs)
        while True:
            server = self._server_of(session, prompt_ids)
            version = self.version
            try:
                if sampling.temperature not in (0.0, 1.0) and server.url not in self._flattening:
                    await self._check_temperature(server)
                answer = await self._ask(server, self._written(session, prompt_ids), chosen)
                completion = answers.read_completion(self._path, answer.content, sampling, vocabulary=self.vocabulary)
                completion.engine_version = self._version_of(answers.weights_label(answer.content), version)
                return completion
            except ServerDownError as error:
                self._lose(server, error)
            except WrongAnswerError as error:
                raise server.wrong(str(error)) from None
            except (TypeError, AttributeError) as error:
                raise server.wrong("in another form") from error

    async def score(self, token_ids: Sequence[int]) -> list[float] | None:
        """See `Engine.score`; every server is asked, and they must agree.

        Raises:
            EngineError: They do not.
        """
        scores: dict[str, list[float]] = {}
        for url in sorted(self._pins.usable):
            server = self.servers[url]
            try:
                scores[url] = await self._score(server, token_ids)
            except ServerDownError as error:
                self._lose(server, error)
        first = next(iter(scores), None)
        if first is None:
            raise self._none_left()
        for url, values in scores.items():
            apart = max((abs(a - b) for a, b in zip(values, scores[first], strict=True)), default=0.0)
            if apart > self._tolerance:
                raise EngineError(
                    f"The vLLM servers {url} and {first} hold different weights: their log-probabilities differ by "
                    f"{apart:.3g}; restart both, and go on with --resume."
                )
        return scores[first]

    async def _score(self, server: VllmServer, token_ids: Sequence[int]) -> list[float]:
        prompt = ",".join(map(str, token_ids)).encode()
        answer = await self._ask(server, prompt, {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0})
        try:
            return answers.read_scores(self._path, answer.content, token_ids)
        except WrongAnswerError as error:
            raise server.wrong(str(error)) from None

    async def _ask(self, server: VllmServer, prompt: bytes, chosen: dict[str, Any]) -> Answer:
        rest = json.dumps({"model": self._pusher.model(server), **answers.body(self._path, chosen)}).encode()
        member = answers.prompt_member(self._path).encode()
        return await server.ask(self._path, b'{"' + member + b'":[' + prompt + b"]," + rest[1:])

    async def _check_temperature(self, server: VllmServer) -> None:
        """Make sure that log-probabilities are those after temperature, which is how the server was started.

        Raises:
            RefusedError: They are not.
        """
        likeliest = []
        for temperature in (1.0, 2.0):
            sampling = Sampling(max_tokens=1, temperature=temperature)
            prompt = ",".join(["0"] * _PROBE).encode()
            answer = await self._ask(server, prompt, answers.parameters(sampling, (), 2))
            likeliest.append(answers.likeliest(self._path, answer.content))
        if abs(likeliest[0] - likeliest[1]) < 1e-6:
            raise RefusedError(
                f"The vLLM server {server.url} reports log-probabilities before temperature: start it with "
                "--logprobs-mode processed_logprobs (agent-gym serve-model does), or sample at temperature 1."
            )
        self._flattening.add(server.url)

    # -- conversations ---------------------------------------------------------------------------------------------

    def fork_session(self, session: Session, length: int | None = None) -> Session:
        """Return a session that goes on at the same server, where the beginning is in the cache."""
        child = Session(self)
        if session.state is not None:
            child.state = _Conversation(session.state.server)
            self._pins.enter(child.state.server)
        return child

    def close_session(self, session: Session) -> None:
        """Forget a conversation; the server keeps what it has read until it needs the room."""
        if session.state is not None:
            self._pins.leave(session.state.server)
            session.state = None

    def _server_of(self, session: Session, prompt_ids: Sequence[int]) -> VllmServer:
        state: _Conversation | None = session.state
        if state is None or state.server not in self._pins.usable:
            name = self._pins.take(prompt_ids)
            if name is None:
                raise self._none_left()
            if state is not None:
                self._pins.leave(state.server)
            session.state, session.cached = _Conversation(name), 0
            return self.servers[name]
        return self.servers[state.server]

    def _written(self, session: Session, prompt_ids: Sequence[int]) -> bytes:
        """Return the prompt as JSON without brackets; what is new of it is written once."""
        parts: list[bytes] = session.state.parts
        if session.cached > len(prompt_ids):
            parts.clear()
            session.cached = 0
        if new := prompt_ids[session.cached :]:
            parts.append(",".join(map(str, new)).encode())
            session.cached = len(prompt_ids)
        return b",".join(parts)

    # -- servers that come and go ----------------------------------------------------------------------------------

    def _lose(self, server: VllmServer, error: ServerDownError) -> None:
        """Leave a server out from now on.

        Raises:
            RefusedError: It was the last one.
        """
        if server.url in self._pins.usable:
            self._pins.usable.discard(server.url)
            self.lost[server.url] = str(error)
            logger.error("%s The other servers take over (%d left).", error, len(self._pins.usable))
        if not self._pins.usable:
            raise self._none_left()

    def _none_left(self) -> RefusedError:
        said = " ".join(self.lost.values()) or "There is no vLLM server."
        return RefusedError(f"{said} No server is left: start one again, and go on with --resume.")

    async def disconnect(self) -> None:
        """See `Engine.disconnect`."""
        for server in self.servers.values():
            await server.disconnect()

    async def aclose(self) -> None:
        """See `Engine.aclose`; the servers go on running."""
        await self.disconnect()
        self._pusher.close()

    # -- weights ---------------------------------------------------------------------------------------------------

    async def sync(self, weights: "Iterable[tuple[str, Tensor]] | None" = None) -> None:
        """Hand new weights to every server; see `Engine.sync`. Servers that are back are used again.

        Raises:
            EngineError: A server did not take them: the sentence names it and says what the others hold.
        """
        before, self._syncs = self.version, self._syncs + 1
        if weights is None:
            raise EngineError(f"{self} shares no model with the trainer: hand the weights to sync.")
        if self._pushes:
            await self._push(weights)
        for _ in weights:
            pass
        self._earlier[str(self._syncs - 1)] = before
        self.version = before + 1

    async def _push(self, weights: "Iterable[tuple[str, Tensor]]") -> None:
        for url in list(self.lost):
            if await self.servers[url].lives():
                logger.warning("The vLLM server %s is back.", url)
                del self.lost[url]
                self._pins.usable.add(url)
        servers = [self.servers[url] for url in sorted(self._pins.usable)]
        if not servers:
            raise self._none_left()
        for url, error in (await self._pusher.push(servers, weights, str(self._syncs))).items():
            self._lose(self.servers[url], error)

    def _version_of(self, label: str | None, asked: int) -> int:
        """Return the version of the weights that a server calls by this label.

        Args:
            label: What the server says; it was told the number of the sync.
            asked: The version when it was asked, which holds where the server does not say.
        """
        return self.version if label == str(self._syncs) else self._earlier.get(label or "", asked)


def connect(section: EngineSection, *, model: Any, max_batch: int, pushes: bool = True) -> VllmServerEngine:
    """Reach the servers of a configuration.

    Args:
        section: Which servers.
        model: The trainer's.
        max_batch: Requests in flight, at most, at each server.
        pushes: Whether this process hands new weights to them.

    Raises:
        EngineError: A server does not answer, or is not on this machine and `trust_network` is not set.
    """
    import torch

    from agent_gym.engines.transformers import end_tokens

    servers = servers_of(section, connections=max_batch, pushes=pushes)
    for server in servers:
        server.describe()
    folder = section.sync_folder or tempfile.gettempdir()
    if pushes:
        sweep(Path(folder))
    return VllmServerEngine(
        servers,
        vocabulary=int(model.get_input_embeddings().weight.shape[0]),
        stop_ids=end_tokens(model),
        pusher=choose_pusher(section, servers, model, folder),
        pushes=pushes,
        top_logprobs=section.top_logprobs,
        tolerance=section.allowed_difference(exact=next(model.parameters()).dtype == torch.float32),
    )


def servers_of(section: EngineSection, *, connections: int = 1, pushes: bool = True) -> list[VllmServer]:
    """Return the servers at a configuration's addresses; none of them is asked anything yet.

    Args:
        section: Which servers.
        connections: To each of them, at most.
        pushes: Whether this process hands new weights to them.

    Raises:
        EngineError: A server is not on this machine, and `trust_network` is not set.
    """
    patience = Patience(Retries(tries=section.tries, longest_wait=10.0), request=section.timeout)
    key = os.environ.get(section.api_key_env)
    servers = [
        VllmServer(url, key=key, key_name=section.api_key_env, patience=patience, connections=connections)
        for url in dict.fromkeys(section.urls)
    ]
    for server in servers:
        if pushes and not server.is_local and not section.trust_network:
            raise EngineError(
                f"The vLLM server {server.url} is on another machine: whoever can push weights to it can make it run "
                "code, and vLLM asks nobody for a key there. Set engine.trust_network=true where nobody else is in "
                "that network."
            )
    return servers
