"""Weights straight from the trainer's GPU to those of vLLM's servers, by vLLM's own transfer over NCCL.

The trainer's first process is rank 0 of a group with every worker of every server; each tensor is broadcast once. It
needs vLLM in the trainer's environment and GPUs of their own on both sides.
"""

import asyncio
import importlib.util
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from agent_gym.engines.fingerprint import WeightSums
from agent_gym.engines.pushing import Pusher, failures, outcomes, tell_workers, to_the_end
from agent_gym.engines.vllm_http import VllmServer
from agent_gym.errors import EngineError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CHUNK_BYTES = 1 << 30
"""So much is announced and sent at once."""


def can_transfer(servers: Sequence[VllmServer], model: Any) -> bool:
    """Return whether trainer and servers have what it takes: GPUs, vLLM, and servers that were started for it."""
    return _on_gpu(model) and _can_send() and all(server.transfers_weights() for server in servers)


def _on_gpu(model: Any) -> bool:
    import torch

    return torch.cuda.is_available() and next(model.parameters()).device.type == "cuda"


def _can_send() -> bool:
    import torch

    return importlib.util.find_spec("vllm") is not None and torch.distributed.is_nccl_available()


class NcclPusher(Pusher):
    """Weights by NCCL.

    Args:
        seconds: See `Pusher`.
        device: The trainer's GPU, from which the weights are sent.
        names: See `Pusher`.
    """

    def __init__(self, seconds: float, device: "torch.device", names: frozenset[str] = frozenset()) -> None:
        super().__init__(seconds, names)
        self._device = device
        self._group: Any = None
        self._members: list[str] = []
        self._weights: Iterator[tuple[str, Tensor]] = iter(())

    async def prepare(self, servers: Sequence[VllmServer], weights: "Iterable[tuple[str, Tensor]]", label: str) -> None:
        """Meet the servers, where they are not those of the last time; the weights are read while they are sent."""
        self._weights = iter(weights)
        if self._members != [server.url for server in servers]:
            self.close()
            await self._meet(servers)

    async def load(self, servers: Sequence[VllmServer]) -> "list[EngineError | None]":
        """Send the weights to all; see `Pusher.load`."""
        if [server.url for server in servers] != self._members:
            # One of them died since: a broadcast would wait for it for ever.
            self.close()
            await self._meet(servers)
        sums, passing = await self._summing(servers)
        started = await outcomes(servers, lambda server: server.control("/start_weight_update", None, seconds=60.0))
        if any(started):
            return started
        chunks = _chunks(passing, self._device)
        while chunk := await to_the_end(asyncio.to_thread(next, chunks, None)):
            told = {
                "names": [name for name, _ in chunk],
                "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in chunk],
                "shapes": [list(tensor.shape) for _, tensor in chunk],
            }
            request = {"update_info": told}
            received = asyncio.ensure_future(outcomes(servers, partial(self._announce, request)))
            sent = _in_thread(partial(self._broadcast, chunk))
            # Where a server refuses at once the broadcast waits for it in vain: the group is given up.
            await asyncio.wait({received, sent}, return_when=asyncio.FIRST_COMPLETED)
            errors = await received
            if any(errors):
                self._group = None
                self._members = []
                return errors
            await sent

        async def finish(server: VllmServer) -> None:
            await server.control("/finish_weight_update", None, seconds=self.seconds)
            held = await tell_workers(server, "agent_gym_held", seconds=self.seconds)
            self.check_arrival(server, sums[server.url].cast, held)

        return await outcomes(servers, finish)

    async def _summing(
        self, servers: Sequence[VllmServer]
    ) -> "tuple[dict[str, WeightSums], Iterator[tuple[str, Tensor]]]":
        """Return what adds up the weights in each server's type, and the weights that go through it."""
        import torch

        types = {}
        for server in servers:
            workers = await tell_workers(server, "agent_gym_dtype", seconds=60.0)
            types[server.url] = str(workers[0]["dtype"])
        sums = {name: WeightSums(getattr(torch, name)) for name in set(types.values())}
        passing = self._weights
        for each in sums.values():
            passing = each.passing(passing)
        return {url: sums[name] for url, name in types.items()}, passing

    async def _announce(self, request: dict[str, Any], server: VllmServer) -> None:
        await server.control("/update_weights", request, seconds=self.seconds)

    def clean_up(self) -> None:
        """Read what was not sent: other processes iterate along."""
        for _ in self._weights:
            pass

    def close(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.destroy()
        self._group, self._members = None, []

    def _broadcast(self, chunk: "list[tuple[str, Tensor]]") -> None:
        import torch

        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        for _, tensor in chunk:
            self._group.broadcast(tensor, src=0, stream=stream)
        if stream is not None:
            stream.synchronize()

    def _join(self, meeting: dict[str, Any]) -> Any:
        import torch
        from vllm.distributed.weight_transfer.nccl_common import trainer_init

        if self._device.type == "cuda":
            # Which one is current is another matter in each thread.
            torch.cuda.set_device(self._device)
        return trainer_init(meeting)

    async def _meet(self, servers: Sequence[VllmServer]) -> None:
        """Make the group: rank 0 is here, the servers' workers follow in order.

        Raises:
            EngineError: A server does not come.
        """
        sizes = [await server.world_size() for server in servers]
        host, port = _address_towards(servers[0]), _free_port()
        meeting = {"master_address": host, "master_port": port, "world_size": 1 + sum(sizes)}
        offsets = {server.url: 1 + sum(sizes[:place]) for place, server in enumerate(servers)}

        async def invite(server: VllmServer) -> None:
            said = {"init_info": {**meeting, "rank_offset": offsets[server.url]}}
            await server.control("/init_weight_transfer_engine", said, seconds=self.seconds)

        invited = asyncio.ensure_future(outcomes(servers, invite))
        here = _in_thread(partial(self._join, meeting))
        await asyncio.wait({invited, here}, return_when=asyncio.FIRST_COMPLETED)
        missing = failures(servers, await invited)
        if missing:
            raise EngineError(
                f"{next(iter(missing.values()))} The group for weights did not come about: start every server with "
                '--weight-transfer-config \'{"backend": "nccl"}\' and a network that reaches '
                f"{host}, or set engine.sync=file."
            )
        self._group = await here
        self._members = [server.url for server in servers]


def _in_thread(work: Callable[[], Any]) -> "asyncio.Future[Any]":
    """Do something in a thread that keeps nobody from ending: where a peer has died it may hang for ever."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)

    def run() -> None:
        try:
            result, error = work(), None
        except Exception as raised:  # noqa: BLE001 - whoever waits hears of it
            result, error = None, raised
        loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True, name="agent-gym-nccl").start()
    return future


def _chunks(weights: "Iterator[tuple[str, Tensor]]", device: "torch.device") -> "Iterator[list[tuple[str, Tensor]]]":
    chunk: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        chunk.append((name, tensor.detach().to(device).contiguous()))
        size += tensor.nbytes
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _address_towards(server: VllmServer) -> str:
    """Return the address of this machine that a server can reach."""
    url = httpx.URL(server.url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: this only chooses the interface.
        probe.connect((url.host, url.port or 80))
        return str(probe.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
