"""Sampling that runs ahead of training: the next steps' episodes are played while this step is trained on.

The episodes are played in a thread with an event loop of its own, by an engine with its own copy of the weights. A step
may begin once the weights are at most `max_lag` updates older than those that it will be trained with, and weights only
get newer: no token is older than that when it is trained on. It takes what room the last episodes of the step before it
leave, so that one long episode holds up no other. Episodes that are being played when new weights come go on
with these from their next turn; a generation that has begun is finished with the old ones first, so that a turn has one
version. Which weights an episode meets is a matter of timing: two runs of one seed differ.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_gym.config import TrainConfig
from agent_gym.engines.base import Engine
from agent_gym.rollout.chat import Chat
from agent_gym.rollout.sharing import Share, agreed
from agent_gym.trainers.algorithm import IndependentRollouts, RolloutStrategy
from agent_gym.trainers.mismatch import lag_metrics
from agent_gym.trainers.sampling import Result, Sampler
from agent_gym.trajectory import Group

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Played:
    """The groups of one step."""

    groups: list[Group]
    metrics: dict[str, float]
    """What the strategy says of them: a later step may have been played by the time that they are asked for."""
    seconds: float
    """From the first episode to the end of the last; those of two steps may overlap."""
    idle: float
    """Seconds that sampling had stood still before."""


class AheadSampler(Sampler):
    """Plays up to `rollout.max_lag` steps ahead.

    Args:
        config: Of the run.
        engine: Where the actions come from; it must not work on the model that is trained. The sampler closes it.
        chat: How observations become tokens.
        rollout: Which episodes are played for a step, and where they branch.
        share: What this process measures, where several play together; by it they also wait for each other's weights.
        share_ahead: What it plays ahead; a line of its own, as both go on at once.
        device: Where the engine's model is, if it is in this process.
    """

    def __init__(
        self,
        config: TrainConfig,
        engine: Engine,
        chat: Chat,
        rollout: RolloutStrategy,
        share: Share | None = None,
        *,
        share_ahead: Share | None = None,
        device: "torch.device | None" = None,
    ) -> None:
        super().__init__(config, engine, chat, rollout, share=share)
        self._training_share = share_ahead
        self.device = device
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._playing: dict[int, asyncio.Task[_Played]] = {}
        self._next: int | None = None
        """The step that begins next; None before training asks for its first."""
        self._in_turn = asyncio.Lock()
        self._stood_still_from = 0.0

    # -- for the trainer's thread ----------------------------------------------------------------------------------

    def groups(self, step: int) -> list[Group]:
        """Return the groups that training learns from after `step` steps; waits for them where need be.

        Raises:
            AgentGymError: They cannot be played.
        """
        self._tasks_env()  # Made here, as both threads read it.
        asked = time.perf_counter()
        played = self.call(self._ask(step))
        waited = time.perf_counter() - asked
        self._seconds = {"rollout": played.seconds, "waiting": waited, "sampling_idle": played.idle}
        self._metrics = played.metrics | lag_metrics(played.groups, self.engine.version)
        return played.groups

    def updated(self, weights: "Iterable[tuple[str, Tensor]] | None", step: int) -> None:
        """Sample with new weights from now on; see `Sampler.updated`. They are read before this returns."""
        self._settle()
        super().updated(weights, step)

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run something in the thread that samples, and return its result; see `Sampler.call`."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Throw away what was played ahead, and close environments, engine and thread."""
        try:
            if self._thread is not None and self._loop is not None:
                try:
                    self.call(self._give_up())
                finally:
                    self._loop.call_soon_threadsafe(self._loop.stop)
                    self._thread.join()
        finally:
            self._thread = self._loop = self._next = None
            self._close_environments()

    def _running(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the thread, which is started where there is none."""
        if self._loop is None:
            started: Future[asyncio.AbstractEventLoop] = Future()
            self._thread = threading.Thread(target=self._serve, args=(started,), name="sampling", daemon=True)
            self._thread.start()
            self._loop = started.result()
        return self._loop

    # -- in the thread that samples --------------------------------------------------------------------------------

    def _serve(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        """Run an event loop until it is stopped; `started` is told of it, or of why there is none."""
        with contextlib.ExitStack() as stack:
            try:
                loop = stack.enter_context(asyncio.Runner()).get_loop()
                stack.enter_context(self._own_stream())
            except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits for the loop must hear of it
                started.set_exception(error)
                return
            started.set_result(loop)
            loop.run_forever()

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Queue what the GPU does for sampling beside what it does for training, not behind it."""
        if self.device is None or self.device.type != "cuda":
            yield
            return
        import torch

        with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.Stream(self.device)):
            yield

    def _settle(self) -> None:
        """Wait for what this thread has asked of the GPU: another stream reads or writes it next."""
        if self.device is not None and self.device.type == "cuda":
            import torch

            torch.cuda.current_stream(self.device).synchronize()

    async def _ask(self, step: int) -> _Played:
        if self._next is None:
            self._next = step
            self._stood_still_from = time.perf_counter()
            self._begin()
        return await self._playing.pop(step)

    def _begin(self) -> None:
        """Let the steps begin that may: those for which the weights are new enough."""
        if self._next is None:
            return
        last = min(self.engine.version + self.config.rollout.max_lag, self.config.steps - 1)
        while self._next <= last:
            self._playing[self._next] = asyncio.create_task(self._play(self._next))
            self._next += 1

    async def _play(self, step: int) -> _Played:
        """Play a step when no episode of those before it waits to begin, or when they have ended; see `_overlaps`."""
        with contextlib.ExitStack() as turn:
            await self._in_turn.acquire()
            turn.callback(self._in_turn.release)
            begun = time.perf_counter()
            groups = await self._collect(step, all_begun=turn.close if self._overlaps else None)
            metrics = dict(self.rollout.metrics())
            ended = time.perf_counter()
            idle = max(begun - self._stood_still_from, 0.0)
            self._stood_still_from = ended
            return _Played(groups, metrics, ended - begun, idle)

    @property
    def _overlaps(self) -> bool:
        """Whether a step may begin while the last episodes of another are played: where none decides about others.

        Other strategies speak of their last collection; several processes put their parts together step by step.
        """
        plain = isinstance(self.rollout, IndependentRollouts)
        return plain and type(self.rollout).metrics is IndependentRollouts.metrics and self._training_share is None

    async def _take_weights(self, weights: "Iterable[tuple[str, Tensor]] | None", step: int) -> None:
        met: Exception | None = None
        try:
            await super()._take_weights(weights, step)
        except Exception as error:
            met = error
            if self.share is None:
                raise
        if self.share is not None:
            # Others, which hold parts of the weights, iterate along; one process hands them to servers for all, and
            # what another began before they are there would be sampled with older ones than it may.
            for _ in weights or ():
                pass
            await agreed(self.share, met)
        self._settle()
        self._begin()

    async def _give_up(self) -> None:
        """End what is being played, and the engine."""
        tasks = list(self._playing.values())
        self._playing.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.engine.aclose()
