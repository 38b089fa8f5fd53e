"""vLLM whose layers are spread over several processes: each of them must do the same steps on the same requests.

Before each step the processes tell each other what they were asked for meanwhile, and all of them take all of it in
the same order. Each hands on the answers to its own requests alone.
"""

import importlib
import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from agent_gym.engines.vllm_thread import Request, VllmThread

_PAUSE = 0.02
"""Seconds between two rounds while none of the processes has anything to do."""


@dataclass(slots=True)
class _Offer:
    """What one process brings into a round."""

    requests: list[tuple[list[int], Any]] = field(default_factory=list)
    """Prompt and parameters of each."""
    abandoned: list[int] = field(default_factory=list)
    """Numbers of requests, of those that all processes count alike, whose caller has left."""
    calls: bool = False
    """Whether it waits for the others with something to do while no request is in flight."""


class LockstepThread(VllmThread):
    """A `VllmThread` in each process of a tensor-parallel group.

    All processes must make the same calls in the same order; requests are each one's own.

    Args:
        make: As of `VllmThread`.
        version: As of `VllmThread`.
        **more: As of `VllmThread`.
    """

    def __init__(self, make: Callable[[], Any], version: Callable[[], int], **more: Any) -> None:
        self._group: Any = None
        self._numbers: dict[int, str] = {}
        """vLLM's name for each request in flight, by the number that is the same on all processes."""
        self._mine: dict[int, Request] = {}
        self._offered: list[Request] = []
        """Those that the others are being told of."""
        super().__init__(make, version, **more)

    def _receive(self) -> None:
        if not self._running and not self._waiting:
            with suppress(queue.Empty):
                self._waiting.append(self._inbox.get(timeout=_PAUSE))
        self._drain()

    def _abort_abandoned(self) -> None:
        """Abort with the others, in `_begin`."""

    def _begin(self) -> bool:
        own: list[Request] = []
        while self._waiting and isinstance(self._waiting[0], Request):
            request = self._waiting.popleft()
            if isinstance(request, Request) and not request.future.cancelled():
                own.append(request)
        abandoned = [number for number, request in self._mine.items() if request.future.cancelled()]
        offer = _Offer([(each.prompt_ids, each.parameters) for each in own], abandoned, bool(self._waiting))
        # A neighbour that has died takes none of them: they must not be forgotten.
        self._offered = own
        # They may be in a call that this process has done.
        seconds = max(self._limits.call, self._limits.step)
        with self._watch.within("the wait for the processes that share its layers", seconds, "sync_timeout"):
            offers, rank = self._exchange(offer)
        for place, other in enumerate(offers):
            self._begin_all(own if place == rank else None, other)
        self._offered = []
        self._forget_ended()
        self._abort([number for other in offers for number in other.abandoned])
        if all(other.calls for other in offers) and not self._running:
            return super()._begin()
        return True

    def _left(self) -> list[Any]:
        return [*self._offered, *super()._left()]

    def _begin_all(self, own: list[Request] | None, offer: _Offer) -> None:
        """Begin the requests of one process; what it alone waits for is its own object."""
        for request in own if own is not None else (Request(*each) for each in offer.requests):
            known = set(self._running)
            self._add(request)
            for name in self._running.keys() - known:
                self._numbers[self._count] = name
                if own is not None:
                    self._mine[self._count] = request

    def _abort(self, numbers: list[int]) -> None:
        names = [self._numbers[number] for number in numbers if number in self._numbers]
        if names:
            self._engine.abort_request(names, internal=True)
        for name in names:
            self._running.pop(name, None)
        self._forget_ended()

    def _forget_ended(self) -> None:
        self._numbers = {number: name for number, name in self._numbers.items() if name in self._running}
        self._mine = {number: request for number, request in self._mine.items() if number in self._numbers}

    def _exchange(self, offer: _Offer) -> tuple[list[_Offer], int]:
        """Return what all processes of the group bring, in the same order everywhere, and which is this one's."""
        if self._group is None:
            state = importlib.import_module("vllm.distributed.parallel_state")
            self._group = state.get_tp_group().cpu_group
        offers: list[Any] = [None] * torch.distributed.get_world_size(self._group)
        torch.distributed.all_gather_object(offers, offer, group=self._group)
        return offers, torch.distributed.get_rank(self._group)
