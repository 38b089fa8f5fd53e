"""Handing new weights to vLLM's servers: by files that both sides see, or as a LoRA adapter in such a folder.

The order is the same for all ways: every server ends what it is generating and holds further requests back, so that no
answer is of two policies; it takes the weights, is told what they are called, forgets what it has cached under the old
ones, and goes on. None is changed before all have answered.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent_gym.engines.adapters import adapter_config, adapter_names, has_adapters, write_adapter
from agent_gym.engines.fingerprint import Arrival, WeightSums, same
from agent_gym.engines.vllm_http import MissingRouteError, ServerDownError, VllmServer
from agent_gym.engines.weight_folders import WeightFolder, no_room, write_weights
from agent_gym.engines.weights import complete, weight_names
from agent_gym.errors import EngineError
from agent_gym.sections import EngineSection

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")

_BRIEFLY = 60.0
"""Seconds that a server may take for what is done at once."""
_IN_PASSING = 5.0
"""Seconds that it may take to go on, where the push was broken off."""
LOAD_ADAPTER = "/v1/load_lora_adapter"
ADAPTER = "agent-gym-policy"
"""What servers call the adapter that they are given."""
_NEXT = "next"
"""Where an adapter is written before the servers stand still."""


class Pusher(ABC):
    """A way for weights to reach servers.

    Args:
        seconds: A server may take so long for new weights.
        names: Of the tensors that have to be handed over each time.
    """

    takes_adapter = False
    """Whether it wants the tensors of a LoRA adapter alone."""

    def __init__(self, seconds: float, names: frozenset[str] = frozenset()) -> None:
        self.seconds = seconds
        self.names = names
        self._arrivals: dict[str, Arrival] = {}

    async def push(
        self, servers: Sequence[VllmServer], weights: "Iterable[tuple[str, Tensor]]", label: str
    ) -> dict[str, ServerDownError]:
        """Give every server the same weights.

        Args:
            servers: At least one.
            weights: Names and whole tensors; read to their end in any case, since other processes may iterate along.
            label: What the servers call these weights from now on.

        Returns:
            The servers that died meanwhile, by address.

        Raises:
            EngineError: A server did not take the weights; the sentence says what each of them holds now.
        """
        try:
            await self.prepare(servers, complete(weights, self.names), label)
            with held_back(servers):
                return await self._hand_over(servers, label)
        finally:
            self.clean_up()

    async def _hand_over(self, servers: Sequence[VllmServer], label: str) -> dict[str, ServerDownError]:
        """Have the servers stop, take what was prepared, and go on; whatever happens none is left standing."""
        try:
            down = await _all(servers, self._hold)
            alive = [server for server in servers if server.url not in down]
            taken = await self._take(alive, label)
        except BaseException:
            await to_the_end(outcomes(servers, lambda server: self._resume(server, _IN_PASSING)))
            raise
        resumed = await to_the_end(outcomes(alive, lambda server: self._resume(server, _BRIEFLY)))
        failed = failures(alive, resumed) | failures(alive, taken)
        down |= {url: error for url, error in failed.items() if isinstance(error, ServerDownError)}
        wrong = {url: error for url, error in failed.items() if url not in down}
        if wrong:
            raise _not_taken(wrong, [each.url for each in alive if each.url not in failed])
        return down

    @abstractmethod
    async def prepare(self, servers: Sequence[VllmServer], weights: "Iterable[tuple[str, Tensor]]", label: str) -> None:
        """Read the weights and put them where servers can take them."""

    @abstractmethod
    async def load(self, servers: Sequence[VllmServer]) -> list[EngineError | None]:
        """Have every server take what was prepared; return what became of it at each of them."""

    def check_arrival(self, server: VllmServer, given: Sequence[float], results: Sequence[Mapping[str, Any]]) -> None:
        """Find out whether a server holds what it was given.

        Args:
            server: It has loaded.
            given: Sums over what it was given, see `fingerprint`.
            results: What each of its workers holds ("held").

        Raises:
            EngineError: It does not.
        """
        arrival = self._arrivals.setdefault(server.url, Arrival(f"The vLLM server {server.url}"))
        arrival.check(given, [sum(part) for part in zip(*(result["held"] for result in results), strict=True)])

    def model(self, server: VllmServer) -> str:
        """Return what the server calls the model that has the pushed weights."""
        return server.model

    def clean_up(self) -> None:  # noqa: B027 - not every way leaves something behind
        """Remove what only the servers needed."""

    def close(self) -> None:  # noqa: B027 - not every way holds something
        """Give back what is held."""

    async def _hold(self, server: VllmServer) -> None:
        try:
            await server.control("/pause?mode=wait", None, seconds=self.seconds)
        except MissingRouteError as error:
            raise EngineError(
                f"{error} It takes no new weights: start it with `agent-gym serve-model`, or with "
                "VLLM_SERVER_DEV_MODE=1 and the flags that this command prints."
            ) from None

    async def _take(self, servers: Sequence[VllmServer], label: str) -> list[EngineError | None]:
        """Load, and tell those that have loaded; return each server's error."""
        errors = await self.load(servers)
        loaded = [server for server, error in zip(servers, errors, strict=True) if error is None]
        told = failures(loaded, await outcomes(loaded, lambda server: self._tell(server, label)))
        return [error or told.get(server.url) for server, error in zip(servers, errors, strict=True)]

    async def _tell(self, server: VllmServer, label: str) -> None:
        seconds = min(self.seconds, _BRIEFLY)
        await server.control("/update_weight_version", {"new_version": label}, seconds=seconds)
        answer = await server.control("/reset_prefix_cache", None, seconds=seconds)
        if answer.get("success") is False:
            raise EngineError(f"The vLLM server {server.url} keeps what it has cached under the old weights.")

    async def _resume(self, server: VllmServer, seconds: float) -> None:
        await server.control("/resume", None, seconds=min(self.seconds, seconds))


class FilePusher(Pusher):
    """Weights as safetensors files, which a worker extension of ours loads: works everywhere, CPUs included.

    Args:
        folder: Trainer and servers see it under the same name.
        seconds: See `Pusher`.
        names: See `Pusher`.
    """

    def __init__(self, folder: Path, seconds: float, names: frozenset[str] = frozenset()) -> None:
        super().__init__(seconds, names)
        self._folder = folder
        self._place: WeightFolder | None = None
        self._written = WeightSums()

    async def prepare(self, servers: Sequence[VllmServer], weights: "Iterable[tuple[str, Tensor]]", label: str) -> None:
        """Write the files; see `Pusher.prepare`."""
        self._place, self._written = WeightFolder(self._folder), WeightSums()
        # Episodes are played in this loop meanwhile, where sampling runs ahead.
        await to_the_end(asyncio.to_thread(write_weights, self._place.path, self._written.passing(weights)))

    async def load(self, servers: Sequence[VllmServer]) -> list[EngineError | None]:
        """Have the servers' workers read the files; see `Pusher.load`."""
        return await outcomes(servers, self._load)

    async def _load(self, server: VllmServer) -> None:
        assert self._place is not None, "nothing was prepared"
        results = await tell_workers(server, "agent_gym_load", str(self._place.path), seconds=self.seconds)
        for result in results:
            if result["tensors"] != self._written.tensors or not same(result["read"], self._written.sums):
                raise EngineError(
                    f"The vLLM server {server.url} has read {result['tensors']} tensors in {self._place.path}, and not "
                    f"the {self._written.tensors} that were written: is engine.sync_folder on a disk that both see?"
                )
        self.check_arrival(server, results[0]["given"], results)

    def clean_up(self) -> None:
        """Remove the files."""
        if self._place is not None:
            self._place.remove()
            self._place = None


class LoraPusher(Pusher):
    """A LoRA adapter, swapped in while the server runs: small, where the base model never changes.

    Args:
        folder: Trainer and servers see it under the same name.
        config: Of the adapter, see `adapters.adapter_config`.
        seconds: See `Pusher`.
        names: See `Pusher`.
    """

    takes_adapter = True

    def __init__(self, folder: Path, config: Any, seconds: float, names: frozenset[str] = frozenset()) -> None:
        super().__init__(seconds, names)
        self._config = config
        self._folder = folder
        self._place: WeightFolder | None = None

    async def prepare(self, servers: Sequence[VllmServer], weights: "Iterable[tuple[str, Tensor]]", label: str) -> None:
        """Write the adapter; see `Pusher.prepare`."""
        self._place = self._place or WeightFolder(self._folder)
        await to_the_end(asyncio.to_thread(self._write, self._place.path / _NEXT, weights))

    def _write(self, folder: Path, weights: "Iterable[tuple[str, Tensor]]") -> None:
        try:
            folder.mkdir(exist_ok=True)
            write_adapter(folder, weights, self._config)
        except OSError as error:
            raise no_room(folder, error) from error

    async def load(self, servers: Sequence[VllmServer]) -> list[EngineError | None]:
        """Swap the adapter; see `Pusher.load`."""
        assert self._place is not None, "nothing was prepared"
        place = self._place.path
        # Servers read the adapter again when they have put it aside: it stays until the end, in the same place, and
        # is another one only when they stand still.
        for file in (place / _NEXT).iterdir():
            file.replace(place / file.name)
        request = {"lora_name": ADAPTER, "lora_path": str(place), "load_inplace": True}
        return await outcomes(servers, lambda server: server.control(LOAD_ADAPTER, request, seconds=self.seconds))

    def model(self, server: VllmServer) -> str:
        """Return the adapter's name."""
        return ADAPTER

    def close(self) -> None:
        """Remove the adapter's files."""
        if self._place is not None:
            self._place.remove()
            self._place = None


def choose_pusher(section: EngineSection, servers: Sequence[VllmServer], model: Any, folder: str) -> Pusher:
    """Return the way that a configuration names, or the first that trainer and servers can do.

    Raises:
        EngineError: The way does not fit the model or the servers.
    """
    kind = section.sync if section.sync != "auto" else _best(servers, model)
    if kind == "nccl":
        from agent_gym.engines.nccl import NcclPusher

        return NcclPusher(section.sync_timeout, next(model.parameters()).device, weight_names(model))
    far = next((server.url for server in servers if not server.is_local), None)
    if far is not None and section.sync_folder is None:
        raise EngineError(
            f"The vLLM server {far} is on another machine: name a folder that both see (engine.sync_folder), or send "
            "weights from GPU to GPU (engine.sync=nccl)."
        )
    if kind == "file":
        return FilePusher(Path(folder), section.sync_timeout, weight_names(model))
    if not has_adapters(model):
        raise EngineError(
            "engine.sync=lora needs a model that is trained through LoRA: set model.lora, or another sync."
        )
    for server in servers:
        if not server.offers(LOAD_ADAPTER):
            raise EngineError(
                f"The vLLM server {server.url} loads no adapters: start it with `agent-gym serve-model --lora-rank "
                f"{adapter_config(model).r}`, or choose another engine.sync."
            )
    return LoraPusher(Path(folder), adapter_config(model), section.sync_timeout, adapter_names(model))


def _best(servers: Sequence[VllmServer], model: Any) -> str:
    from agent_gym.engines.nccl import can_transfer

    if can_transfer(servers, model):
        return "nccl"
    if has_adapters(model) and all(server.offers(LOAD_ADAPTER) for server in servers):
        return "lora"
    return "file"


@contextmanager
def held_back(servers: Sequence[VllmServer]) -> Iterator[None]:
    """A block in which servers answer no request: what waits for them is not too slow."""
    for server in servers:
        server.held = True
    try:
        yield
    finally:
        for server in servers:
            server.held = False
            server.holds += 1


async def to_the_end(work: Awaitable[Result]) -> Result:
    """Wait for something that must not be broken off; whoever is cancelled meanwhile is so when it has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        # An error of it is not what whoever has cancelled wants to hear of.
        if not task.cancelled():
            task.exception()
        raise


async def _all(
    servers: Sequence[VllmServer], act: Callable[[VllmServer], Awaitable[Any]]
) -> dict[str, ServerDownError]:
    """Do the same at all servers; return those that are gone.

    Raises:
        EngineError: One of them refuses.
    """
    failed = failures(servers, await outcomes(servers, act))
    down = {url: error for url, error in failed.items() if isinstance(error, ServerDownError)}
    refusal = next((error for url, error in failed.items() if url not in down), None)
    if refusal is not None:
        raise EngineError(f"{refusal} No server has been changed.")
    return down


async def tell_workers(server: VllmServer, method: str, *arguments: str, seconds: float) -> list[dict[str, Any]]:
    """Call a method of our extension in every worker of a server, and return what each says.

    Raises:
        ServerDownError: The server is gone.
        EngineError: It has no such extension, or a worker says what went wrong.
    """
    request = {"method": method, "args": list(arguments), "timeout": seconds}
    try:
        answer = await server.control("/collective_rpc", request, seconds=seconds)
    except ServerDownError:
        raise
    except EngineError as error:
        raise EngineError(
            f"{error} If its log says that there is no {method}, start it with `agent-gym serve-model` of this "
            "version, or with the --worker-extension-cls that this command prints."
        ) from None
    results = answer.get("results")
    said = [each for each in results if isinstance(each, dict)] if isinstance(results, list) else []
    problem = next((each["error"] for each in said if "error" in each), None if said else "its workers say nothing")
    if problem is not None:
        raise EngineError(f"The vLLM server {server.url} cannot load the weights ({problem}).")
    return said


async def outcomes(
    servers: Sequence[VllmServer], act: Callable[[VllmServer], Awaitable[Any]]
) -> list[EngineError | None]:
    """Do something at all servers at once; return each one's error.

    Raises:
        BaseException: What is no error of a server.
    """
    outcomes = await asyncio.gather(*(act(server) for server in servers), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, EngineError):
            raise outcome
    return [outcome if isinstance(outcome, EngineError) else None for outcome in outcomes]


def failures(servers: Sequence[VllmServer], errors: "Sequence[EngineError | None]") -> dict[str, EngineError]:
    """Return the errors by the servers' addresses."""
    return {server.url: error for server, error in zip(servers, errors, strict=True) if error is not None}


def _not_taken(wrong: dict[str, EngineError], updated: Sequence[str]) -> EngineError:
    said = " ".join(str(error) for error in wrong.values())
    others = f"; {', '.join(updated)} hold the new ones" if updated else ""
    return EngineError(
        f"{said} What {', '.join(wrong)} now hold is not known{others}: restart what failed, and go on with --resume."
    )
