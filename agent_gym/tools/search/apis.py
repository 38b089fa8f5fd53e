"""Search engines on the web: Serper (Google), Brave, SearXNG and everything that speaks as Bing's interface did.

Each class says where its key comes from. A key goes into a header and nowhere else: no log, no error, no cache.
"""

import html
import json
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from agent_gym.errors import ConfigError, ToolError
from agent_gym.sandbox.base import clean
from agent_gym.tools.search.base import Hit
from agent_gym.tools.search.cache import SearchCache, cache_key
from agent_gym.tools.web import RateLimit, Retries, SingleFlight, retry_after

if TYPE_CHECKING:
    import httpx

_ANSWER_BYTES = 4 * 1024 * 1024
_TAG = re.compile(r"</?(?:strong|b|em|i)>")
_logger = logging.getLogger(__name__)


class WebSearch(ABC):
    """A search engine that answers in JSON; safe to call from many threads, which share its connections.

    The same search that several threads ask for at once is made once. The proxies of the environment are used, since
    whoever sets up the program chooses the address that it speaks to.

    Args:
        api_key: The key; that of the environment variable `key_variable` by default.
        base_url: Where the engine answers; that of the service by default.
        parameters: Sent along with every query: {"gl": "de"} for Serper, {"language": "de"} for SearXNG.
        timeout: Seconds that one try may take.
        retries: How often a search is tried while the engine is busy, out of order or silent.
        rate: Searches that are let through in a second; as many as come by default.
        cache: Where results are kept, or the file for it; nowhere by default.
        connections: Connections at once, at most.

    Raises:
        ToolError: There is no key, or no address.
        ConfigError: The address is none.
    """

    name: ClassVar[str]
    key_variable: ClassVar[str] = ""
    """Environment variable of the key."""
    default_url: ClassVar[str] = ""
    most_results: ClassVar[int] = 20
    most_characters: ClassVar[int] = 2000
    """What is longer is cut off a query."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        timeout: float = 10.0,
        retries: Retries | None = None,
        rate: RateLimit | None = None,
        cache: SearchCache | Path | str | None = None,
        connections: int = 16,
    ) -> None:
        self._key = (api_key or os.environ.get(self.key_variable, "")).strip()
        if self.key_variable and not (self._key and self._key.isascii() and self._key.isprintable()):
            raise ToolError(f"{self.name} needs a key: set the environment variable {self.key_variable}.")
        self.base_url = (base_url or self.default_url).rstrip("/")
        if not _is_address(self.base_url):
            raise ConfigError(f"{self.name} needs a base_url that begins with http:// or https:// and a host.")
        self._parameters = dict(parameters or {})
        self._timeout = timeout
        self._retries = retries or Retries()
        self._rate = rate
        self._cache = SearchCache(cache) if isinstance(cache, Path | str) else cache
        self._flights: SingleFlight[list[Hit]] = SingleFlight()
        self._client = _client(timeout, connections)

    @abstractmethod
    def _request(self, query: str, count: int) -> "httpx.Request":
        """Return what is sent to the engine."""

    @abstractmethod
    def _hits(self, answer: Mapping[str, Any]) -> Iterable[Hit]:
        """Return the hits in the engine's answer."""

    def search(self, query: str, count: int) -> list[Hit]:
        """See `SearchBackend.search`."""
        # Models write what no text has, such as halves of surrogate pairs, and no request can carry.
        query = " ".join(clean(query.encode("utf-8", "replace")).split())[: self.most_characters]
        count = min(count, self.most_results)
        if not query or count < 1:
            return []
        where = {"backend": self.name, "url": self.base_url, "parameters": self._parameters}
        key = cache_key(query=query, count=count, **where)
        kept = self._kept(key)
        if kept is None:
            kept = self._flights.do(key, lambda: self._ask_and_keep(key, query, count))
        return list(kept)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _kept(self, key: str) -> list[Hit] | None:
        if self._cache is None:
            return None
        try:
            return self._cache.get(key)
        except ToolError as error:
            _logger.warning("%s", error)
            return None

    def _ask_and_keep(self, key: str, query: str, count: int) -> list[Hit]:
        answer = self._ask(query, count)
        try:
            hits = [hit for hit in self._hits(answer) if hit.url or hit.text][:count]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ToolError(f"{self.name} gave an answer that is not in its format: try another query.") from error
        if self._cache is not None:
            try:
                self._cache.put(key, hits)
            except ToolError as error:  # the results are there, and worth more than the cache
                _logger.warning("%s", error)
        return hits

    def _ask(self, query: str, count: int) -> Mapping[str, Any]:
        retry = 0
        while True:
            if self._rate is not None and not self._rate.wait(self._retries.longest_wait):
                raise ToolError(f"{self.name} is asked more often than its rate limit allows: try again later.")
            problem, asked_for = self._try(self._request(query, count))
            if not isinstance(problem, str):
                return problem
            retry += 1
            wait = self._retries.wait_before(retry, asked_for)
            if wait is None:
                raise ToolError(f"{self.name} {problem} ({retry} of {self._retries.tries} tries): try again later.")
            _logger.info("%s %s; it is tried again in %.1f seconds.", self.name, problem, wait)
            self._retries.sleep(wait)

    def _try(self, request: "httpx.Request") -> tuple[Mapping[str, Any] | str, float | None]:
        """Return the answer, or what went wrong and might not go wrong again, and the wait that is asked for."""
        import httpx

        # Nothing of an exception or of the body is quoted: either may repeat what was sent, the key with it.
        try:
            response = self._client.send(request, stream=True)
            try:
                body = self._read(response)
            finally:
                response.close()
        except httpx.TimeoutException:
            return f"did not answer within {self._timeout:g} seconds", None
        except httpx.TransportError:
            return "could not be reached", None
        except httpx.HTTPError as error:
            raise ToolError(f"{self.name} gave an answer that cannot be read: try another query.") from error
        if response.status_code in (408, 429) or response.status_code >= 500:
            busy = "is asked too often" if response.status_code == 429 else "is out of order"
            return f"{busy} (status {response.status_code})", retry_after(response.headers.get("Retry-After"))
        return self._decode(response, body), None

    def _read(self, response: "httpx.Response") -> bytes:
        import httpx

        end = time.monotonic() + self._timeout
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > _ANSWER_BYTES:
                raise ToolError(f"{self.name} gave an answer that is too long: try another query.")
            if time.monotonic() > end:
                raise httpx.ReadTimeout("the whole answer took too long")
        return bytes(body)

    def _decode(self, response: "httpx.Response", body: bytes) -> Mapping[str, Any]:
        if response.status_code in (401, 403):
            remedy = f"check {self.key_variable}" if self.key_variable else "check what it allows"
            _logger.warning("%s refuses access (status %d): %s.", self.name, response.status_code, remedy)
            raise ToolError(f"{self.name} refuses access (status {response.status_code}): {remedy}.")
        if response.status_code != 200:
            raise ToolError(f"{self.name} does not accept the query (status {response.status_code}): change it.")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ToolError(f"{self.name} gave an answer that is no JSON: check its base_url.") from error
        if not isinstance(answer, dict):
            raise ToolError(f"{self.name} gave an answer that is not in its format: check its base_url.")
        return answer


class Serper(WebSearch):
    """Google's results through serper.dev; the key is in `SERPER_API_KEY`. See `WebSearch` for the arguments."""

    name = "Serper"
    key_variable = "SERPER_API_KEY"
    default_url = "https://google.serper.dev"
    most_results = 100

    def _request(self, query: str, count: int) -> "httpx.Request":
        body = {**self._parameters, "q": query, "num": count}
        return self._client.build_request(
            "POST", f"{self.base_url}/search", json=body, headers={"X-API-KEY": self._key}
        )

    def _hits(self, answer: Mapping[str, Any]) -> Iterable[Hit]:
        box = answer.get("answerBox") or {}
        if box:
            yield Hit(_text(box, "title"), _text(box, "link"), _text(box, "answer", "snippet"))
        for item in answer.get("organic") or ():
            yield Hit(_text(item, "title"), _text(item, "link"), _text(item, "snippet"))


class Brave(WebSearch):
    """Brave's own index; the key is in `BRAVE_SEARCH_API_KEY`. See `WebSearch` for the arguments."""

    name = "Brave"
    key_variable = "BRAVE_SEARCH_API_KEY"
    default_url = "https://api.search.brave.com"
    most_characters = 400

    def _request(self, query: str, count: int) -> "httpx.Request":
        return self._client.build_request(
            "GET",
            f"{self.base_url}/res/v1/web/search",
            params={**self._parameters, "q": query, "count": count},
            headers={"X-Subscription-Token": self._key, "Accept": "application/json"},
        )

    def _hits(self, answer: Mapping[str, Any]) -> Iterable[Hit]:
        for item in (answer.get("web") or {}).get("results") or ():
            yield Hit(_text(item, "title"), _text(item, "url"), _text(item, "description"))


class SearXNG(WebSearch):
    """A SearXNG server of one's own, at `base_url` or `SEARXNG_URL`; it needs no key, but JSON in its `formats`.

    See `WebSearch` for the arguments.
    """

    name = "SearXNG"

    def __init__(self, *, base_url: str | None = None, **options: Any) -> None:
        super().__init__(base_url=base_url or os.environ.get("SEARXNG_URL"), **options)

    def _request(self, query: str, count: int) -> "httpx.Request":
        parameters = {**self._parameters, "q": query, "format": "json"}
        return self._client.build_request("GET", f"{self.base_url}/search", params=parameters)

    def _hits(self, answer: Mapping[str, Any]) -> Iterable[Hit]:
        for item in answer.get("results") or ():
            score = item.get("score")
            yield Hit(_text(item, "title"), _text(item, "url"), _text(item, "content"), float(score or 0.0))


class Bing(WebSearch):
    """What speaks as Bing's web search 7 did; the key is in `BING_SEARCH_API_KEY`.

    Microsoft has closed the service itself, so that `base_url` names another one, or a proxy, and must be given: all
    of the address before "/search". See `WebSearch` for the other arguments.
    """

    name = "Bing"
    key_variable = "BING_SEARCH_API_KEY"
    most_results = 50

    def _request(self, query: str, count: int) -> "httpx.Request":
        return self._client.build_request(
            "GET",
            f"{self.base_url}/search",
            params={**self._parameters, "q": query, "count": count},
            headers={"Ocp-Apim-Subscription-Key": self._key},
        )

    def _hits(self, answer: Mapping[str, Any]) -> Iterable[Hit]:
        for item in (answer.get("webPages") or {}).get("value") or ():
            yield Hit(_text(item, "name"), _text(item, "url"), _text(item, "snippet"))


ENGINES: Mapping[str, type[WebSearch]] = {"serper": Serper, "brave": Brave, "searxng": SearXNG, "bing": Bing}
"""The engines by name."""


def _client(timeout: float, connections: int) -> "httpx.Client":
    import httpx

    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    # A redirect is not followed: the key would go along.
    return httpx.Client(timeout=timeout, limits=limits, follow_redirects=False)


def _is_address(url: str) -> bool:
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


def _text(item: Mapping[str, Any], *names: str) -> str:
    """Return the first of the fields that is there, without the marks and entities of HTML."""
    value = next((item[name] for name in names if item.get(name)), "")
    return html.unescape(_TAG.sub("", str(value)))
