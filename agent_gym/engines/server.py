"""A server that speaks OpenAI's protocol: requests, retries, and what its errors mean.

The connections serve all episodes of an event loop. Knows nothing of prompts and tokens.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus

import httpx

from agent_gym.engines.lanes import Lanes, certificates
from agent_gym.engines.retrying import Patience
from agent_gym.errors import ContextLengthError, EngineError, RefusedError
from agent_gym.tools.web import retry_after

_LONGEST_MESSAGE = 300
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed."""
TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|(prompt|input) is too long|too many (input )?tokens|max_model_len",
    re.IGNORECASE,
)
_NO_RIGHT = re.compile(r"logprobs|moderation|flagged", re.IGNORECASE)
"""What a right key may not ask for."""
_NO_MODEL = re.compile(
    r"model_not_found|(unknown|invalid|no such) model|model\b.{0,100}\b(not found|not exist)", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a server says is wrong with a request."""

    status: int
    message: str
    """One line, cut short."""
    parameter: str = ""
    """Which parameter the server blames, where it says so."""
    code: str = ""


class BadRequestError(EngineError):
    """The server does not understand a request, or does not allow it."""

    def __init__(self, sentence: str, problem: Problem) -> None:
        super().__init__(sentence)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, and after how many failures."""

    content: dict[str, Any]
    retries: int


class Server:
    """A server at an address.

    Args:
        url: Its address up to the version, "http://localhost:8000/v1".
        key: Sent as a bearer token, without the white space around it; kept here alone, and taken out of every message.
        key_name: The environment variable of the key, for messages.
        patience: How long a request is tried.
        connections: Requests in flight, at most.

    Raises:
        EngineError: The address is none, or carries a password or a query; or the key cannot stand in a header.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        key_name: str = "OPENAI_API_KEY",
        patience: Patience | None = None,
        connections: int = 64,
    ) -> None:
        self.url = _checked(url)
        self.key_name = key_name
        self.patience = patience or Patience()
        self.connections = connections
        self.retries = 0
        """Requests that failed and were sent again."""
        self.models: list[dict[str, Any]] | None = None
        """The models that the server lists; None where it lists none, or was not asked."""
        key = _usable(key, key_name)
        self._secret = _spellings(key) if key else None
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._lanes: Lanes | None = None
        self._answered = False

    def list_models(self) -> None:
        """Ask which models there are: one cheap request that shows whether the server and the key are right.

        Raises:
            EngineError: Nothing answers at the address.
            RefusedError: The key is refused.
        """
        try:
            response = httpx.get(
                f"{self.url}/models", headers=self._headers, timeout=self.patience.connect, verify=certificates()
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise EngineError(
                f"No server answers at {self.url} ({self._reason(error)}): start it, or check the address."
            ) from error
        if response.status_code in (401, 403):
            raise self._error(response, self._problem(response))
        if response.is_success:
            self.models = _models(response)

    async def post(self, path: str, body: bytes) -> Answer:
        """Send a request until it is answered, or there is no more patience.

        Args:
            path: "/chat/completions", say.
            body: JSON.

        Raises:
            ContextLengthError: The prompt is too long.
            BadRequestError: The server does not understand the request.
            RefusedError: No request can succeed.
            EngineError: The server is busy, broken or not reached for too long, or answers with something else.
        """
        lanes = self._connected()
        deadline = self.patience.clock() + self.patience.total
        failures = 0
        while True:
            asked_for = None
            try:
                response = await lanes.post(path, body)
            except httpx.TransportError as error:
                failure = self._unreached(self._reason(error))
            except TimeoutError:
                failure = self._unreached(f"no answer within {self.patience.request:g} s")
            else:
                content = self._decoded(response) if response.is_success else {}
                if response.is_success and not _is_error(content):
                    self._answered = True
                    return Answer(content, failures)
                problem = self._problem(response)
                failure = self._error(response, problem)
                if problem.status not in BUSY or isinstance(failure, RefusedError):
                    raise failure
                asked_for = retry_after(response.headers.get("Retry-After"))
            failures += 1
            if not await self.patience.wait(failures, asked_for, deadline):
                raise _given_up(failure, failures)
            self.retries += 1

    async def disconnect(self) -> None:
        """Close the connections of the running event loop."""
        lanes, self._lanes = self._lanes, None
        if lanes is not None and lanes.loop is asyncio.get_running_loop():
            await lanes.close()

    def wrong(self, what: str) -> EngineError:
        """Return the error of an answer that is not what the protocol says."""
        return EngineError(
            f"The server {self.url} answered {self._masked(what)}: check that it speaks OpenAI's protocol (--api chat "
            "or completions)."
        )

    def _connected(self) -> Lanes:
        """Return the connections of the running event loop: those of another, which has ended, are of no use."""
        if self._lanes is None or self._lanes.loop is not asyncio.get_running_loop():
            patience = self.patience
            self._lanes = Lanes(
                self.url,
                self._headers,
                count=self.connections,
                connect=patience.connect,
                request=patience.request,
            )
        return self._lanes

    def _decoded(self, response: httpx.Response) -> dict[str, Any]:
        try:
            content = json.loads(response.content)
        except (ValueError, RecursionError):
            raise self.wrong(f"with what is no JSON ({self._quoted(response.text)!r})") from None
        if not isinstance(content, dict):
            raise self.wrong("with JSON that is no object")
        return content

    def _error(self, response: httpx.Response, problem: Problem) -> EngineError:
        """Return the error of a response that is no success."""
        status, said = problem.status, f"({problem.status}): {problem.message}"
        if problem.code == "insufficient_quota" or status == 402:
            return RefusedError(f"The account at {self.url} has nothing left {said}; add credit, or use another key.")
        if status == 401 or (status == 403 and not self._answered and not _NO_RIGHT.search(problem.message)):
            return RefusedError(
                f"The server {self.url} refuses the key {said}; set {self.key_name}, or name the variable that holds "
                "the key with --api-key-env."
            )
        if 300 <= status < 400:
            where = self._quoted(response.headers.get("Location", "elsewhere"))
            return RefusedError(f"The server {self.url} redirects to {where}: give that address.")
        if status in (400, 413, 422) and (TOO_LONG.search(problem.message) or TOO_LONG.search(problem.code)):
            return ContextLengthError(f"The prompt is too long for the server {self.url} {said}.")
        no_model = status in (400, 404, 422) and (_NO_MODEL.search(problem.message) or _NO_MODEL.search(problem.code))
        if (no_model or status in (404, 405)) and not self._answered:
            return RefusedError(
                f"The server {self.url} does not know the model or the address {said}; it has {self._listed()}: give "
                "one of them with --model-name, and the address up to its version, as http://localhost:8000/v1."
            )
        return BadRequestError(f"The server {self.url} refused a request {said}.", problem)

    def _problem(self, response: httpx.Response) -> Problem:
        """Read an error, which servers write in several ways."""
        try:
            content = json.loads(response.content)
        except (ValueError, RecursionError):
            content = response.text
        error = content.get("error", content) if isinstance(content, Mapping) else content
        message, parameter, code = error, "", ""
        if isinstance(error, Mapping):
            message = error.get("message") or error.get("detail") or error
            parameter, code = str(error.get("param") or ""), str(error.get("code") or "")
        text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
        # Some gateways answer 200 and put the status into the error.
        status = int(code) if response.is_success and code.isdecimal() else response.status_code
        said = self._quoted(text).rstrip(".") or self._quoted(response.reason_phrase)
        return Problem(status, said, self._masked(parameter), self._masked(code))

    def _listed(self) -> str:
        names = [str(model.get("id")) for model in self.models or []]
        return (
            self._masked(", ".join(names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            or "no list of models"
        )

    def _quoted(self, text: str) -> str:
        """Return a foreign text as a sentence may hold it: on one line, cut short, without the key."""
        # The key goes first: half of one, at the end of what is cut short, would not be found.
        return _short(self._masked(text))

    def _masked(self, text: str) -> str:
        return self._secret.sub("***", text) if self._secret else text

    def _reason(self, error: Exception) -> str:
        return self._quoted(str(error)) or type(error).__name__

    def _unreached(self, reason: str) -> EngineError:
        return EngineError(f"The server {self.url} could not be reached or broke off ({reason}).")


def _is_error(content: Mapping[str, Any]) -> bool:
    return bool(content.get("error")) and not content.get("choices")


def _given_up(failure: EngineError, failures: int) -> EngineError:
    tries = f"{failures} tries" if failures > 1 else "one try"
    return EngineError(
        f"{failure} Given up after {tries}: ask for fewer episodes at once (rollout.concurrency) or be more patient "
        "(server.tries, server.patience), then play the failed episodes again."
    )


def _usable(key: str | None, name: str) -> str | None:
    """Return a key as it can be sent."""
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        # It is not quoted: errors are stored.
        raise EngineError(
            f"The key in {name} holds characters that cannot be sent: it must be printable ASCII, so copy it again."
        )
    return key or None


def _spellings(key: str) -> re.Pattern[str]:
    """Return what finds a key as it is, in an address and in JSON."""
    spelled = {key, quote(key), quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1]}
    return re.compile("|".join(map(re.escape, sorted(spelled, key=len, reverse=True))), re.IGNORECASE)


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise EngineError(f"{url!r} is no address ({error}): give one like http://localhost:8000/v1.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise EngineError(f"{url!r} is no address of a server: give one like http://localhost:8000/v1.")
    if parsed.userinfo or parsed.query or parsed.fragment:
        # It would be stored in the run folder.
        raise EngineError(
            "The address of a server may hold neither a password nor a query: give the key in an environment variable, "
            "see --api-key-env."
        )
    return str(parsed).rstrip("/")


def _models(response: httpx.Response) -> list[dict[str, Any]] | None:
    try:
        content = response.json()
    except ValueError:
        return None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list):
        return None
    return [model for model in data if isinstance(model, dict) and isinstance(model.get("id"), str)]


def _short(text: str) -> str:
    line = " ".join(text[: 4 * _LONGEST_MESSAGE].split())
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + "..."
