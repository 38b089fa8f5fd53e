"""Environments for many episodes at once: lent out, called so that none waits for another, replaced when they fail.

An environment in this process is called directly. One that waits for another process (`TextEnv.blocking`: a worker, a
JVM) is called in a thread, and the other episodes go on meanwhile. One that lives elsewhere and can be awaited is
(`AwaitedEnv`). All look the same to an episode.
"""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from agent_gym.env import TextEnv

logger = logging.getLogger(__name__)

EnvFactory = Callable[[], TextEnv]
Caller = Callable[..., Awaitable[Any]]
"""Calls a method of an environment with the arguments that follow it."""


async def inline(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function here and now."""
    return function(*args, **kwargs)


class AwaitedEnv(TextEnv):
    """An environment elsewhere, some of whose methods can be awaited: no thread is needed to wait for them."""

    blocking: bool = True

    @abstractmethod
    def awaited(self, function: Callable[..., Any]) -> Caller | None:
        """Return what does the same as a method of this environment and can be awaited, or None where nothing does."""

    @abstractmethod
    def set_apart(self) -> None:
        """Move to where its death takes no other environment along; called before `reset`, and may take a while."""


class Workers:
    """Lends environments.

    Args:
        make_env: Makes an environment.
        concurrency: Environments that are called at once, at most (at least 1).
    """

    def __init__(self, make_env: EnvFactory, concurrency: int) -> None:
        self._make_env = make_env
        self._concurrency = concurrency
        self._blocking = False
        self._idle: list[TextEnv] = []
        self._lent: dict[int, TextEnv] = {}
        self._threads: ThreadPoolExecutor | None = None

    async def take(self, *, alone: bool = False) -> TextEnv:
        """Return an environment that nobody else uses until it is given back or discarded.

        Args:
            alone: Whether it may die, and should take no other along where it lives. Better discarded afterwards.
        """
        if self._idle:
            env = self._idle.pop()
        else:
            # What waits for another process may do so when it is made, too; that shows with the first one.
            env = await (self._in_thread if self._blocking else inline)(self._make_env)
            self._blocking = env.blocking
        self._lent[id(env)] = env
        if alone and isinstance(env, AwaitedEnv):
            try:
                await self._in_thread(env.set_apart)
            except BaseException:
                await self.discard(env)
                raise
        return env

    async def fork(self, env: TextEnv) -> TextEnv:
        """Return a fork of an environment, which is lent like any other.

        It is known here before its caller hears of it, so that none is left behind where the caller was cancelled.
        """

        def lend() -> TextEnv:
            twin = env.fork()
            self._lent[id(twin)] = twin
            return twin

        twin: TextEnv = await self.caller(env)(lend)
        return twin

    @property
    def full(self) -> bool:
        """Whether as many environments lie idle as may be called at once: more are not worth keeping."""
        return len(self._idle) >= self._concurrency

    def give_back(self, env: TextEnv) -> None:
        """Take an environment back for the next episode."""
        del self._lent[id(env)]
        self._idle.append(env)

    async def discard(self, env: TextEnv) -> None:
        """Close an environment that cannot be trusted any more."""
        del self._lent[id(env)]
        await self.caller(env)(_close, env)

    def caller(self, env: TextEnv) -> Caller:
        """Return how to call the environment: at once, or in a thread where it waits for another process."""
        if isinstance(env, AwaitedEnv):
            return partial(self._awaited, env)
        return self._in_thread if env.blocking else inline

    def peek(self) -> TextEnv:
        """Return an idle environment, to ask for tasks; it may be lent the next moment."""
        if not self._idle:
            self._idle.append(self._make_env())
        return self._idle[-1]

    def close(self) -> None:
        """Close all environments, those that an interrupted episode has left behind included."""
        if self._threads is not None:
            # A call that is under way ends by its own time-out at the latest.
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None
        for env in (*self._idle, *self._lent.values()):
            _close(env)
        self._idle.clear()
        self._lent.clear()

    async def _awaited(self, env: AwaitedEnv, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        known = env.awaited(function)
        if known is None:
            return await self._in_thread(function, *args, **kwargs)
        return await known(*args, **kwargs)

    async def _in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="environment")
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))


def _close(env: TextEnv) -> None:
    """Close an environment; one that fails even at that must not take the others along."""
    try:
        env.close()
    except Exception as error:
        logger.warning("An environment could not be closed: %s", error, exc_info=True)
