"""One of vLLM's servers: how it is asked, how long it is waited for, and when it counts as gone.

Every error names the server. Knows nothing of tokens and weights.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx

from agent_gym.addresses import is_loopback
from agent_gym.engines.lanes import Lanes, certificates
from agent_gym.engines.retrying import Patience
from agent_gym.engines.server import BUSY, TOO_LONG, Answer, Server
from agent_gym.errors import ContextLengthError, EngineError, RefusedError
from agent_gym.tools.web import retry_after

_HEALTH_SECONDS = 5.0
"""What lives says so within this time; together with a broken connection this bounds how late a death is noticed."""

_TOO_SLOW = (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout)
"""Both clocks run at the same time, and either may be first; a connection that is not made in time is another thing."""


class ServerDownError(EngineError):
    """A server has died, hangs or is out of order: another one may answer the same request."""


class MissingRouteError(EngineError):
    """A server does not offer what it was asked for, because it was started without it."""


class VllmServer(Server):
    """A server of vLLM.

    Args:
        url: Its address without a version, "http://127.0.0.1:8000".
        key: Sent as a bearer token; taken out of every message.
        key_name: The environment variable of the key, for messages.
        patience: How long a request is tried.
        connections: Requests in flight, at most.

    Raises:
        EngineError: The address is none, or the key cannot stand in a header.
    """

    def __init__(
        self, url: str, *, key: str | None, key_name: str, patience: Patience | None = None, connections: int = 256
    ) -> None:
        url = url.rstrip("/").removesuffix("/v1")
        super().__init__(url, key=key, key_name=key_name, patience=patience, connections=connections)
        self.model = ""
        """What the server calls its model."""
        self.max_context: int | None = None
        """In tokens; None where it does not say."""
        self.held = False
        """Whether requests are held back, as new weights are on their way."""
        self.holds = 0
        """How often that was so before."""

    def describe(self) -> None:
        """Learn which model it has.

        Raises:
            EngineError: Nothing answers at the address, or it has no model.
            RefusedError: The key is refused.
        """
        response = self._got("/v1/models", self.patience.connect)
        if response is None:
            raise EngineError(
                f"No server of vLLM answers at {self.url}: start one (agent-gym serve-model MODEL), or check the "
                "address."
            )
        if not response.is_success:
            raise self._refusal(response, "/v1/models")
        data = self._decoded(response).get("data")
        first = data[0] if isinstance(data, list) and data else None
        if not isinstance(first, Mapping) or not isinstance(first.get("id"), str):
            raise self.wrong("without a model in its list")
        self.model = first["id"]
        longest = first.get("max_model_len")
        self.max_context = longest if isinstance(longest, int) and longest > 0 else None

    def offers(self, path: str) -> bool:
        """Return whether the server knows a path; asked with an empty body, which none acts on."""
        try:
            response = httpx.post(
                self.url + path,
                headers=self._headers,
                content=b"{}",
                timeout=self.patience.connect,
                verify=certificates(),
            )
        except httpx.TransportError:
            return False
        return response.status_code not in (403, 404, 405)

    def transfers_weights(self) -> bool:
        """Return whether it was started to take weights over NCCL."""
        response = self._got("/server_info?config_format=json", self.patience.connect)
        if response is None or not response.is_success:
            return False
        config = self._decoded(response).get("vllm_config")
        transfer = config.get("weight_transfer_config") if isinstance(config, Mapping) else None
        return isinstance(transfer, Mapping) and transfer.get("backend") == "nccl"

    async def world_size(self) -> int:
        """Return how many workers it has.

        Raises:
            EngineError: It does not say.
        """
        response = await asyncio.to_thread(self._got, "/get_world_size", self.patience.connect)
        size = self._decoded(response).get("world_size") if response is not None and response.is_success else None
        if not isinstance(size, int):
            raise EngineError(f"The vLLM server {self.url} does not say how many workers it has (/get_world_size).")
        return size

    async def ask(self, path: str, body: bytes) -> Answer:
        """Send a request until it is answered, or there is no more patience.

        Raises:
            ServerDownError: The server is gone, hangs, or is broken for too long.
            ContextLengthError: The prompt is too long.
            MissingRouteError: The server does not have the path.
            RefusedError: No such request can succeed, or the answer is no JSON.
        """
        lanes = self._connected()
        deadline = self.patience.clock() + self.patience.total
        failures = 0
        while True:
            asked_for, holds = None, self.holds
            try:
                response = await lanes.post(path, body)
            except _TOO_SLOW:
                if self.held or self.holds > holds:
                    # It was not slow: it was told to wait. The seed is the same, and so is the answer.
                    continue
                raise self.down(f"has not answered within {self.patience.request:g} s (engine.timeout)") from None
            except httpx.TransportError as error:
                reason = self._reason(error)
                if not await self.lives():
                    raise self.down(f"has died or cannot be reached ({reason})") from None
                said = f"breaks off ({reason})"
            else:
                if response.is_success:
                    self._answered = True
                    return Answer(self._decoded(response), failures)
                if response.status_code not in BUSY:
                    raise self._refusal(response, path)
                problem = self._problem(response)
                asked_for = retry_after(response.headers.get("Retry-After"))
                said = f"does not work ({problem.status}: {problem.message})"
            failures += 1
            if not await self.patience.wait(failures, asked_for, deadline):
                raise self.down(said)
            self.retries += 1

    async def control(self, path: str, body: Mapping[str, Any] | None, *, seconds: float) -> dict[str, Any]:
        """Tell the server to do something, once, over a connection of its own.

        Raises:
            ServerDownError: It is gone or does not answer in time.
            MissingRouteError: The server does not have the path.
            RefusedError: It will not, or cannot.
        """
        lanes = Lanes(self.url, self._headers, count=1, connect=self.patience.connect, request=seconds)
        try:
            response = await lanes.post(path, b"" if body is None else json.dumps(body).encode())
        except _TOO_SLOW:
            raise self.down(f"has not answered {path} within {seconds:g} s") from None
        except httpx.TransportError as error:
            raise self.down(f"has died or cannot be reached ({self._reason(error)})") from None
        finally:
            await lanes.close()
        if not response.is_success:
            raise self._refusal(response, path)
        if not response.content or "json" not in response.headers.get("Content-Type", ""):
            return {}
        return self._decoded(response)

    async def lives(self) -> bool:
        """Return whether the server answers, within a few seconds."""
        response = await asyncio.to_thread(self._got, "/health", _HEALTH_SECONDS)
        return response is not None and response.is_success

    def down(self, what: str) -> ServerDownError:
        """Return the error of a server that is gone."""
        return ServerDownError(f"The vLLM server {self.url} {what}.")

    def wrong(self, what: str) -> RefusedError:
        """Return the error of an answer that is not what vLLM gives."""
        return RefusedError(
            f"The vLLM server {self.url} answered {self._masked(what)}: what it says cannot be trained on; look at its "
            "log, restart it, and go on with --resume."
        )

    @property
    def is_local(self) -> bool:
        """Whether the address is this machine's own, by its name or number."""
        return is_loopback(httpx.URL(self.url).host)

    def _got(self, path: str, seconds: float) -> httpx.Response | None:
        try:
            return httpx.get(self.url + path, headers=self._headers, timeout=seconds, verify=certificates())
        except httpx.TransportError:
            return None

    def _refusal(self, response: httpx.Response, path: str) -> EngineError:
        """Return the error of a response that asking again would not change."""
        problem = self._problem(response)
        said = f"({problem.status}: {problem.message})"
        if problem.status in (400, 413, 422) and TOO_LONG.search(problem.message):
            return ContextLengthError(f"The prompt is too long for the vLLM server {self.url} {said}.")
        if problem.status == 401:
            return RefusedError(f"The vLLM server {self.url} refuses the key {said}: set {self.key_name}.")
        if problem.status in (403, 404, 405):
            return MissingRouteError(f"The vLLM server {self.url} does not offer {path} {said}.")
        return RefusedError(f"The vLLM server {self.url} refused a request {said}.")
