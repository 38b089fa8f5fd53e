"""Handing new weights to vLLM's servers: by files that both sides see, or as a LoRA adapter in such a folder.

The order is the same for all ways: every server ends what it is generating and holds further requests back, so that no
answer is of two policies; it takes the weights, is told what they are called, forgets what it has cached under the old
ones, and goes on. None is changed before all have answered.
"""

import asyncio
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_gym.engines.adapters import adapter_config, has_adapters, write_adapter
from agent_gym.engines.vllm_http import MissingRouteError, ServerDownError, VllmServer
from agent_gym.errors import EngineError
from agent_gym.sections import EngineSection

if TYPE_CHECKING:
    from torch import Tensor

_FILE_BYTES = 2 << 30
"""A file of weights is closed when it holds so much: no more than that is in memory twice."""
_BRIEFLY = 60.0
"""Seconds that a server may take for what is done at once."""
LOAD_ADAPTER = "/v1/load_lora_adapter"
ADAPTER = "agent-gym-policy"
"""What servers call the adapter that they are given."""


class Pusher(ABC):
    """A way for weights to reach servers.

    Args:
        seconds: A server may take so long for new weights.
    """

    takes_adapter = False
    """Whether it wants the tensors of a LoRA adapter alone."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

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
        await self.prepare(servers, weights, label)
        try:
            down = await _all(servers, self._hold)
            alive = [server for server in servers if server.url not in down]
            taken = await self._take(alive, label)
            resumed = await outcomes(alive, self._resume)
        finally:
            self.clean_up()
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
        await server.control("/update_weight_version", {"new_version": label}, seconds=_BRIEFLY)
        answer = await server.control("/reset_prefix_cache", None, seconds=_BRIEFLY)
        if answer.get("success") is False:
            raise EngineError(f"The vLLM server {server.url} keeps what it has cached under the old weights.")

    async def _resume(self, server: VllmServer) -> None:
        await server.control("/resume", None, seconds=_BRIEFLY)


class FilePusher(Pusher):
    """Weights as safetensors files, which a worker extension of ours loads: works everywhere, CPUs included.

    Args:
        folder: Trainer and servers see it under the same name.
        seconds: See `Pusher`.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(seconds)
        self._folder = folder
        self._place: Path | None = None

    async def prepare(self, servers: Sequence[VllmServer], weights: "Iterable[tuple[str, Tensor]]", label: str) -> None:
        """Write the files; see `Pusher.prepare`."""
        self._place = _new_folder(self._folder)
        _write_files(self._place, weights)

    async def load(self, servers: Sequence[VllmServer]) -> list[EngineError | None]:
        """Have the servers' workers read the files; see `Pusher.load`."""
        return await outcomes(servers, self._load)

    async def _load(self, server: VllmServer) -> None:
        request = {"method": "agent_gym_load", "args": [str(self._place)], "timeout": self.seconds}
        try:
            answer = await server.control("/collective_rpc", request, seconds=self.seconds)
        except ServerDownError:
            raise
        except EngineError as error:
            raise EngineError(
                f"{error} If its log says that there is no agent_gym_load, start it with `agent-gym serve-model`, or "
                "with the --worker-extension-cls that this command prints."
            ) from None
        results = answer.get("results")
        for result in results if isinstance(results, list) else [None]:
            said = result.get("error") if isinstance(result, dict) else "no word of what was loaded"
            if said:
                raise EngineError(f"The vLLM server {server.url} cannot load the weights ({said}).")

    def clean_up(self) -> None:
        """Remove the files."""
        if self._place is not None:
            shutil.rmtree(self._place, ignore_errors=True)
            self._place = None


class LoraPusher(Pusher):
    """A LoRA adapter, swapped in while the server runs: small, where the base model never changes.

    Args:
        folder: Trainer and servers see it under the same name.
        config: Of the adapter, see `adapters.adapter_config`.
        seconds: See `Pusher`.
    """

    takes_adapter = True

    def __init__(self, folder: Path, config: Any, seconds: float) -> None:
        super().__init__(seconds)
        self._config = config
        self._folder = folder
        self._place: Path | None = None

    async def prepare(self, servers: Sequence[VllmServer], weights: "Iterable[tuple[str, Tensor]]", label: str) -> None:
        """Write the adapter; see `Pusher.prepare`."""
        # Servers read it again when they have put it aside, so that it stays until the end.
        self._place = self._place or _new_folder(self._folder)
        try:
            write_adapter(self._place, weights, self._config)
        except OSError as error:
            raise _no_room(self._place, error) from error

    async def load(self, servers: Sequence[VllmServer]) -> list[EngineError | None]:
        """Swap the adapter; see `Pusher.load`."""
        request = {"lora_name": ADAPTER, "lora_path": str(self._place), "load_inplace": True}
        return await outcomes(servers, lambda server: server.control(LOAD_ADAPTER, request, seconds=self.seconds))

    def model(self, server: VllmServer) -> str:
        """Return the adapter's name."""
        return ADAPTER

    def close(self) -> None:
        """Remove the adapter's files."""
        if self._place is not None:
            shutil.rmtree(self._place, ignore_errors=True)


def choose_pusher(section: EngineSection, servers: Sequence[VllmServer], model: Any, folder: str) -> Pusher:
    """Return the way that a configuration names, or the first that trainer and servers can do.

    Raises:
        EngineError: The way does not fit the model or the servers.
    """
    kind = section.sync if section.sync != "auto" else _best(servers, model)
    if kind == "nccl":
        from agent_gym.engines.nccl import NcclPusher

        return NcclPusher(section.sync_timeout, next(model.parameters()).device)
    far = next((server.url for server in servers if not server.is_local), None)
    if far is not None and section.sync_folder is None:
        raise EngineError(
            f"The vLLM server {far} is on another machine: name a folder that both see (engine.sync_folder), or send "
            "weights from GPU to GPU (engine.sync=nccl)."
        )
    if kind == "file":
        return FilePusher(Path(folder), section.sync_timeout)
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
    return LoraPusher(Path(folder), adapter_config(model), section.sync_timeout)


def _best(servers: Sequence[VllmServer], model: Any) -> str:
    from agent_gym.engines.nccl import can_transfer

    if can_transfer(servers, model):
        return "nccl"
    if has_adapters(model) and all(server.offers(LOAD_ADAPTER) for server in servers):
        return "lora"
    return "file"


async def _all(
    servers: Sequence[VllmServer], act: Callable[[VllmServer], Awaitable[Any]]
) -> dict[str, ServerDownError]:
    """Do the same at all servers; return those that are gone.

    Raises:
        EngineError: One of them refuses; the others are let go on.
    """
    failed = failures(servers, await outcomes(servers, act))
    down = {url: error for url, error in failed.items() if isinstance(error, ServerDownError)}
    refusal = next((error for url, error in failed.items() if url not in down), None)
    if refusal is not None:
        await outcomes(
            [server for server in servers if server.url not in failed],
            lambda server: server.control("/resume", None, seconds=_BRIEFLY),
        )
        raise EngineError(f"{refusal} No server has been changed.")
    return down


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


def _write_files(folder: Path, weights: "Iterable[tuple[str, Tensor]]") -> None:
    from safetensors.torch import save_file

    held: dict[str, Tensor] = {}
    size, number = 0, 0
    try:
        for name, tensor in weights:
            held[name] = tensor.detach().cpu().contiguous()
            size += held[name].nbytes
            if size >= _FILE_BYTES:
                save_file(held, folder / f"{number:05d}.safetensors")
                held, size, number = {}, 0, number + 1
        if held:
            save_file(held, folder / f"{number:05d}.safetensors")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _no_room(folder, error) from error


def _new_folder(inside: Path) -> Path:
    try:
        inside.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="agent-gym-weights-", dir=inside))
    except OSError as error:
        raise _no_room(inside, error) from error


def _no_room(folder: Path, error: OSError) -> EngineError:
    return EngineError(
        f"The weights for the servers cannot be written to {folder} ({error.strerror or error}): name another "
        "engine.sync_folder."
    )
