"""Sampling ahead that fails or is ended: nothing is left of it, and no process goes on without the others."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers import small_llama
from sampling_ahead import LIMIT, Watched, sampling, sampling_threads, settings
from wavering import Wavering

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import EngineError
from agent_gym.rollout.chat import ByteChat, TemplateChat
from agent_gym.trainers.ahead import AheadSampler
from agent_gym.trainers.weights import named_weights
from agent_gym.trajectory import Group

# -- several processes -------------------------------------------------------------------------------------------------


class Side:
    """One of two processes, which are threads here; `came` is set when it waits for the other."""

    def __init__(self, barrier: threading.Barrier, met: list[Exception | None], rank: int) -> None:
        self.barrier, self.met, self.rank = barrier, met, rank
        self.came = threading.Event()

    def mine(self, count: int) -> list[int]:
        raise AssertionError

    def gather(self, items: Any) -> list[Any]:
        raise AssertionError

    def agree(self, error: Exception | None) -> None:
        self.met[self.rank] = error
        self.came.set()
        self.barrier.wait()
        first = next(filter(None, self.met), None)
        self.barrier.wait()
        if first is not None:
            raise first


class Pushing(Wavering):
    """Hands weights to servers, slowly, as the first of several processes does."""

    def __init__(self) -> None:
        super().__init__(["up"])
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def sync(self, weights: Any = None) -> None:
        await asyncio.to_thread(self.gate.wait, LIMIT)
        if self.error is not None:
            raise self.error
        await super().sync(weights)


@contextmanager
def two_processes() -> Iterator[tuple[list[AheadSampler], list[Side], Pushing]]:
    """Open the samplers of two processes, of which the first pushes; steps 0 and 1 have been played by the second."""
    barrier, met, pushing = threading.Barrier(2, timeout=LIMIT), [None, None], Pushing()
    sides = [Side(barrier, met, rank) for rank in range(2)]  # type: ignore[arg-type]
    samplers = [
        AheadSampler(settings(1), engine, ByteChat(), Watched(), share=side)
        for engine, side in zip([pushing, Wavering(["up"])], sides, strict=True)
    ]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda sampler: sampler.updated(None, 0), samplers))
        samplers[1].groups(0)
        assert samplers[1].rollout.ended[1].wait(LIMIT)  # type: ignore[attr-defined]
        sides[1].came.clear()
        yield samplers, sides, pushing
    finally:
        for sampler in samplers:
            sampler.close()
    assert not sampling_threads()


def test_no_process_begins_a_step_before_another_has_handed_the_weights_to_the_servers() -> None:
    with two_processes() as (samplers, sides, pushing), ThreadPoolExecutor(2) as pool:
        pushing.gate.clear()
        updates = [pool.submit(sampler.updated, None, 1) for sampler in samplers]
        assert sides[1].came.wait(LIMIT)
        assert max(samplers[1].rollout.begun) == 1  # type: ignore[attr-defined]
        pushing.gate.set()
        for update in updates:
            update.result(LIMIT)
        assert samplers[1].rollout.ended[2].wait(LIMIT)  # type: ignore[attr-defined]
        assert samplers[1].rollout.begun[2] == 1  # type: ignore[attr-defined]


def test_where_one_process_cannot_hand_them_over_no_process_begins_and_all_read_the_weights_to_their_end() -> None:
    with two_processes() as (samplers, _, pushing), ThreadPoolExecutor(2) as pool:
        pushing.error = EngineError("The server does not take them.")
        weights = [iter([("a", torch.zeros(1)), ("b", torch.zeros(1))]) for _ in samplers]
        updates = [pool.submit(sampler.updated, given, 1) for sampler, given in zip(samplers, weights, strict=True)]
        for update in updates:
            with pytest.raises(EngineError, match="does not take them"):
                update.result(LIMIT)
        assert [list(given) for given in weights] == [[], []]
        assert max(samplers[1].rollout.begun) == 1  # type: ignore[attr-defined]


# -- errors and ends ---------------------------------------------------------------------------------------------------


def test_what_fails_while_sampling_ahead_is_raised_where_the_step_is_asked_for() -> None:
    class Failing(Watched):
        async def collect(self, collector: Any, *arguments: Any, **values: Any) -> list[Group]:
            groups = await super().collect(collector, *arguments, **values)
            if values["prefix"] == "train/2/":
                raise EngineError("The server is gone.")
            return groups

    with sampling(2, rollout=Failing()) as sampler:
        assert sampler.groups(0)
        assert sampler.rollout.ended[1].wait(LIMIT)
        with pytest.raises(EngineError, match="The server is gone"):
            sampler.groups(1)


def test_weights_that_do_not_fit_are_an_error_of_the_trainers(tokenizer: Any) -> None:
    engine = TransformersEngine(small_llama(len(tokenizer)), tokenizer)
    with sampling(1, engine, TemplateChat(tokenizer)) as sampler:
        with pytest.raises(EngineError, match="do not fit"):
            sampler.updated(named_weights(small_llama(8)), 1)
        assert sampler.engine.version == 0


class Silent(Wavering):
    """Never answers, and tells that it was asked."""

    def __init__(self, asked: Callable[[], None]) -> None:
        super().__init__(["up"])
        self.asked = asked

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        self.asked()
        await asyncio.Event().wait()
        raise AssertionError


def test_closing_ends_what_is_being_played_and_its_environments() -> None:
    asked, ended = threading.Event(), threading.Event()

    def wait(sampler: AheadSampler) -> None:
        try:
            sampler.groups(0)
        except CancelledError:
            ended.set()

    with sampling(1, Silent(asked.set)) as sampler:
        waiting = threading.Thread(target=wait, args=(sampler,), daemon=True)
        waiting.start()
        assert asked.wait(LIMIT)
        envs = list(sampler._training._workers._lent.values())  # type: ignore[union-attr]
        assert envs and not any(env.closed for env in envs)  # type: ignore[attr-defined]
        sampler.close()
        waiting.join(LIMIT)
    assert ended.is_set() and all(env.closed for env in envs)  # type: ignore[attr-defined]


def test_ctrl_c_reaches_a_trainer_that_waits_for_episodes() -> None:
    presses = iter(range(1))

    def press() -> None:
        ident = threading.main_thread().ident
        assert ident is not None
        # Once, though several episodes ask: a second one would meet the closing.
        for _ in presses:
            signal.pthread_kill(ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with sampling(1, Silent(press)) as sampler, pytest.raises(KeyboardInterrupt):
            sampler.groups(0)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_sampler_that_never_sampled_leaves_no_thread() -> None:
    with AheadSampler(settings(1), Wavering(["up"]), ByteChat(), Watched()):
        pass
    assert not sampling_threads()
