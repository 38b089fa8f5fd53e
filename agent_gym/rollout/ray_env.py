"""An environment that lives in an actor of Ray; here, it looks like any other."""

import asyncio
import copy
import logging
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import gymnasium

from agent_gym.env import LazyTasks, State, Task
from agent_gym.errors import WorkerError
from agent_gym.info import Info
from agent_gym.rollout.ray_actor import BLOCK, Answer, Call
from agent_gym.rollout.workers import AwaitedEnv, Caller

if TYPE_CHECKING:
    from agent_gym.rollout.ray_workers import RayPool

logger = logging.getLogger(__name__)

_TRIES = 2
"""Actors that a reset tries, where it finds that one has died meanwhile."""


class RayEnv(AwaitedEnv):
    """Asks an actor; `RayPool.make` makes one.

    A turn is one question. What is lazy in the info is asked for when it is read; what was once read is sent along from
    then on.

    Args:
        pool: Where the actors are.
        options: Arguments of the environment that differ from those of the pool.
    """

    def __init__(self, pool: "RayPool", options: Mapping[str, Any]) -> None:
        self._pool = pool
        self._options = dict(options)
        self._link, self._slot, about = pool.lend(self._options)
        self._waits: bool = about["blocking"]
        self._held_out: str = about["held_out_split"]
        self.splits = about["splits"]  # type: ignore[misc]
        self.task_noun = about["task_noun"]  # type: ignore[misc]
        self.kind: str = about["kind"]
        """The class of the environment."""
        if about["syntax"] is not None:
            self.syntax = about["syntax"]
        self._policies = 0
        super().__init__(max_turns=about["max_turns"], split=about["split"], render_mode=about["render_mode"])

    @property
    def held_out_split(self) -> str:
        """The split to measure on where none is named."""
        return self._held_out

    @property
    def node(self) -> str:
        """Ray's id of the machine that it is on."""
        return self._link.node

    def awaited(self, function: Any) -> Caller | None:
        """See `AwaitedEnv.awaited`."""
        if function == self.step:
            return self._step_soon
        return self._reset_soon if function == self.reset else None

    def set_apart(self) -> None:
        """Move into a process of its own inside an actor, where the environment can be made in one.

        Raises:
            WorkerError: There is no actor, or it died.
        """
        options = self._pool.apart(self._options)
        try:
            link, slot, about = self._pool.lend(options)
        except WorkerError:
            raise
        except Exception as error:  # noqa: BLE001 - then it stays where it is, as good as before
            logger.warning("An environment cannot be in a process of its own: %s", error)
            return
        self.close()
        self._options, self._link, self._slot, self._waits = options, link, slot, about["blocking"]

    # -- turns -----------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """See `TextEnv.reset`; one that finds its actor dead goes to another."""
        for left in reversed(range(_TRIES)):
            try:
                self._settle()
                return self._begun(self._ask("reset", seed, options, tuple(self._pool.wanted)), seed)
            except WorkerError:
                if not left or not self._died:
                    raise
        raise AssertionError("unreachable")

    async def _reset_soon(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        for left in reversed(range(_TRIES)):
            try:
                if self._link.dead is not None:
                    await asyncio.to_thread(self._settle)
                return self._begun(await self._soon("reset", seed, options, tuple(self._pool.wanted)), seed)
            except WorkerError:
                if not left or not self._died:
                    raise
        raise AssertionError("unreachable")

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """See `TextEnv.step`."""
        return self._stepped(self._ask("step", action, tuple(self._pool.wanted)), action)

    async def _step_soon(self, action: str) -> tuple[str, float, bool, bool, Info]:
        return self._stepped(await self._soon("step", action, tuple(self._pool.wanted)), action)

    def _begun(self, answer: tuple[Task, Answer], seed: int | None) -> tuple[str, Info]:
        # The generator that gymnasium promises after a seed; what is random is drawn from the actor's own.
        gymnasium.Env.reset(self, seed=seed)
        self.task, first = answer
        observation, _, _, _, info = self._stepped(first)
        self._history = [("", observation)]
        return observation, info

    def _stepped(self, answer: Answer, action: str = "") -> tuple[str, float, bool, bool, Info]:
        lazy = {key: partial(self._read, answer.turn, key) for key in answer.lazy}
        self.turn, self._last_observation = answer.info["turn"], answer.observation
        self._ended = answer.terminated or answer.truncated
        self._history.append((action, answer.observation))
        return answer.observation, answer.reward, answer.terminated, answer.truncated, Info(answer.info, lazy)

    def _read(self, turn: int, key: str) -> Any:
        self._pool.wanted.add(key)
        return self._ask("read", turn, key)

    # -- the rest --------------------------------------------------------------------------------------------------

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split; they cross over some hundreds at a time."""
        known, whose = self._pool.tasks, (repr(self._options), split)
        if whose not in known:
            known[whose] = self._ask("count", split)

        def task_at(index: int) -> Task:
            number, place = divmod(index, BLOCK)
            if (*whose, number) not in known:
                known[*whose, number] = self._ask("tasks", split, number * BLOCK)
            task: Task = known[*whose, number][place]
            return task

        return LazyTasks(known[whose], task_at)

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id.

        Raises:
            UnknownIdError: No split has it.
        """
        task: Task = self._ask("find_task", task_id)
        return task

    def content_of(self, task: Task) -> str:
        """Return what a task says, without playing it."""
        return str(self._ask("content_of", task))

    def data_files(self) -> Mapping[str, Path]:
        """Return the files and folders that decide what it says; they lie on the actor's machine."""
        files: Mapping[str, Path] = self._ask("data_files")
        return files

    def same_observation(self, expected: str, found: str) -> bool:
        """Return whether two observations say the same."""
        return expected == found or bool(self._ask("same_observation", expected, found))

    def expert(self) -> Iterator[str] | None:
        """Return the actions that solve the current task from its start, or None where no oracle exists."""
        actions = self._ask("expert")
        return None if actions is None else iter(actions)

    def demonstrate(self, observation: str, rng: random.Random) -> Generator[str, str, object] | None:
        """Return the environment's demonstrator; it acts in the actor."""
        self._policies += 1
        if not self._ask("demonstrate", self._policies, observation, rng):
            return None
        return self._follow(self._policies)

    def _follow(self, number: int) -> Generator[str, str, object]:
        observation: str | None = None
        while (action := self._ask("demonstrated", number, observation)) is not None:
            observation = yield action
        return None

    def close(self) -> None:
        """Close the environment; the actor stays for others."""
        if self._slot >= 0:
            self._link.environments -= 1
            self._link.tell(Call(self._slot, "close"))
            self._slot = -1

    # -- asking ----------------------------------------------------------------------------------------------------

    @property
    def _died(self) -> bool:
        """Whether the actor was dead before it was asked; one that hangs now would hang elsewhere, too."""
        return self._link.dead is not None and "has died" in self._link.dead

    def _settle(self) -> None:
        """Make the environment anew where its actor is gone."""
        if self._link.dead is not None:
            self._link, self._slot, _ = self._pool.lend(self._options)

    def _ask(self, method: str, *args: Any) -> Any:
        return self._link.ask(Call(self._slot, method, args), waits=self._waits)

    async def _soon(self, method: str, *args: Any) -> Any:
        return await self._link.soon(Call(self._slot, method, args), waits=self._waits)

    def _copy(self) -> Self:
        twin = copy.copy(self)
        number = self._pool.number()
        self._ask("fork", number)
        # From here on it must be given back.
        twin._slot = number
        self._link.environments += 1
        return twin

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        raise NotImplementedError("reset() is answered elsewhere.")

    def _act(self, action: str) -> tuple[str, State]:
        raise NotImplementedError("step() is answered elsewhere.")
