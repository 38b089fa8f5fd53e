"""Rollouts that branch: the members of a group go on in step, and some of them are forked where a rule says so.

All members take a turn at once, then it is decided in the order of their numbers, by a generator of the group's own:
what comes out depends on no timing.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

from agent_gym.env import TextEnv
from agent_gym.errors import ConfigError, WorkerError
from agent_gym.rollout.collect import HOPELESS, Collector, Job, OnEpisode, member_job
from agent_gym.rollout.episode import Episode
from agent_gym.rollout.seeds import derive_seed
from agent_gym.rollout.sharing import share_out
from agent_gym.trajectory import Group, Trajectory

logger = logging.getLogger(__name__)

Timing = Literal["after", "before"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """How a group grows; the numbers come from a method, see `trainers.arpo` and `trainers.aepo`."""

    group_size: int
    """Trajectories a group has in the end."""
    initial: int
    """Episodes that it begins with."""
    measure: Callable[[Sequence[float]], float]
    """Makes a number of the entropies of a generation's tokens."""
    probability: Callable[[float, float, int], float]
    """Probability to branch, from that number now, its first value in the episode, and the branches in a row before."""
    attempts: int = 1
    """How often a member may branch at one turn."""
    timing: Timing = "after"
    """ "after": the next action tells how uncertain the model is, and a branch leaves before it. "before": the last
    action does, and a branch leaves after the environment has answered it."""
    max_depth: int | None = None
    """Branches between a root and a leaf at most; None sets no limit."""
    budget: Callable[[Sequence[float]], int] | None = None
    """Where given, one member is played to its end first, and its numbers, a turn each, tell `initial`."""
    count: Callable[[int, int], int] | None = None
    """Branches in a row, from those before and what the last round has added to the group; None counts along chains."""


@dataclass(eq=False)
class Member:
    """An episode of the group that is being played."""

    number: int
    episode: Episode
    depth: int = 0
    """Branches between it and its root."""
    entropies: list[float] = field(default_factory=list)
    """The numbers of its turns: the first one is what the others are compared with."""
    probability: float = 0.0
    """That of its last decision."""
    in_a_row: int = 0
    """Decisions to branch on its chain, up to the last one that was not."""
    just_branched: bool = False
    """It has left its parent and not taken a turn since: what lies before has been decided on."""

    @property
    def trajectory(self) -> Trajectory:
        """Its record."""
        return self.episode.trajectory


async def grow_groups(
    collector: Collector,
    task_ids: Sequence[str | None],
    plan: BranchPlan,
    *,
    seed: int,
    prefix: str = "",
    on_episode: OnEpisode | None = None,
) -> list[Group]:
    """Grow a group for each task.

    As many groups grow at once as have room among the collector's episodes in flight; one always has. First looks, see
    `BranchPlan.budget`, come before that, those of all groups together. Where several processes play together, each
    grows its share and gets the groups of all.

    Args:
        collector: Plays the episodes.
        task_ids: One task a group; None lets the group's seed choose.
        plan: How they grow.
        seed: From it every seed is derived, those of roots as `Collector.groups` does.
        prefix: Begins the ids of groups and episodes.
        on_episode: Called as each episode ends.

    Raises:
        RefusedError: No request of the engine can succeed.
        MissingExtraError: The environment needs something that is not installed.
    """

    async def grow(mine: list[int]) -> list[Group]:
        trees = [_Tree(collector, plan, number, task_ids[number], seed, prefix, on_episode) for number in mine]
        if plan.budget is not None:
            await _all([partial(tree.explore, plan.budget) for tree in trees], at_once=collector.concurrency)
        return await _all([tree.grow for tree in trees], at_once=max(1, collector.concurrency // plan.group_size))

    return await share_out(collector.share, len(task_ids), grow)


async def _all(parts: Sequence[Callable[[], Awaitable[Result]]], *, at_once: int) -> list[Result]:
    """Run coroutines, so many at once; return their results in their order."""
    room = asyncio.Semaphore(at_once)

    async def run(part: Callable[[], Awaitable[Result]]) -> Result:
        async with room:
            return await part()

    try:
        async with asyncio.TaskGroup() as running:
            tasks = [running.create_task(run(part)) for part in parts]
    except ExceptionGroup as failures:
        # One sentence says more than the traces of all groups that were growing.
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


class _Tree:
    """One group; arguments as in `grow_groups`."""

    def __init__(
        self,
        collector: Collector,
        plan: BranchPlan,
        group: int,
        task_id: str | None,
        seed: int,
        prefix: str,
        on_episode: OnEpisode | None,
    ) -> None:
        self.collector = collector
        self.plan = plan
        self.on_episode = on_episode
        self._job_of: Callable[[int], Job] = lambda member: member_job(prefix, group, member, task_id, seed)
        self._random = random.Random(derive_seed(seed, group, "branches"))
        self._free = list(range(plan.group_size))
        self._active: list[Member] = []
        self._done: dict[int, Trajectory] = {}
        self._retried: dict[int, str] = {}
        """Why a place was given to a second episode."""
        self._in_a_row = 0
        self._initial = plan.initial

    async def grow(self) -> Group:
        """Play until the group is full and nobody plays any more."""
        try:
            await self._begin(self._free[: max(0, self._initial - len(self._done))])
            while self._active or self._free:
                free = len(self._free)
                await self._round()
                if not self._active:
                    await self._begin(self._free[:1])
                if self.plan.count is not None:
                    self._in_a_row = self.plan.count(self._in_a_row, free - len(self._free))
        finally:
            self._release()
        members = [self._done[number] for number in sorted(self._done)]
        return Group(members[0].group_id, members[0].task_id, members)

    async def explore(self, budget: Callable[[Sequence[float]], int]) -> None:
        """Play the first member to its end, without branches; it tells with how many episodes the group begins."""
        entropies: list[float] = []
        try:
            await self._begin(self._free[:1])
            while self._active:
                (member,) = self._active
                entropies = member.entropies
                await self._round(branching=False)
        finally:
            self._release()
        self._initial = budget(entropies)

    # -- rounds ----------------------------------------------------------------------------------------------------

    async def _round(self, *, branching: bool = True) -> None:
        """Let everybody take a turn, and those branch who shall."""
        # Where nobody branches, what an episode says last is measured, too.
        after = self.plan.timing == "after" or not branching
        playing = await self._each(self._active, lambda m: m.episode.propose if after else m.episode.take_turn)
        candidates = [member for member in playing if branching and self._may_branch(member)]
        for member in playing:
            turn = member.trajectory.turns[-1]
            member.entropies.append(self.plan.measure(member.trajectory.entropies[turn.start : turn.end]))
            member.just_branched = False
        await self._branch(candidates)
        if after:
            await self._each(playing, lambda member: member.episode.apply)

    async def _each(
        self, members: Iterable[Member], part: Callable[[Member], Callable[[], Awaitable[bool]]]
    ) -> list[Member]:
        """Let members do a part of their turn at once; return those that go on, and see the others off."""
        members = list(members)
        going_on = await asyncio.gather(*(member.episode.attempt(part(member)) for member in members))
        for member, goes_on in zip(members, going_on, strict=True):
            if not goes_on:
                await self._end(member)
        return [member for member, goes_on in zip(members, going_on, strict=True) if goes_on]

    # -- branches --------------------------------------------------------------------------------------------------

    def _may_branch(self, member: Member) -> bool:
        """Whether the turn that a member has just generated decides on something; it is not measured yet."""
        if member.just_branched or member.depth == self.plan.max_depth:
            return False
        return self.plan.timing == "before" or bool(member.entropies)

    async def _branch(self, candidates: list[Member]) -> None:
        """Decide which members branch, and fork them."""
        asked = {member.number: member for member in candidates}

        def probability(number: int) -> float:
            member = asked[number]
            in_a_row = member.in_a_row if self.plan.count is None else self._in_a_row
            member.probability = self.plan.probability(member.entropies[-1], member.entropies[0], in_a_row)
            return member.probability

        chosen = choose_parents(
            asked,
            probability,
            free=len(self._free),
            attempts=self.plan.attempts,
            draw=self._random.random,
        )
        for number, member in asked.items():
            member.in_a_row = member.in_a_row + 1 if number in chosen else 0
        places, self._free = self._free[: len(chosen)], self._free[len(chosen) :]
        forks: dict[int, list[int]] = {}
        for number, place in zip(chosen, places, strict=True):
            forks.setdefault(number, []).append(place)
        grown = await asyncio.gather(*(self._fork(asked[number], places) for number, places in forks.items()))
        self._enter([child for children in grown for child in children])

    async def _fork(self, parent: Member, places: Sequence[int]) -> list[Member]:
        """Fork a member once for each place; a fork that fails costs nothing but the branch."""
        children = []
        for place in places:
            try:
                episode = await self.collector.fork(parent.episode, self._job_of(place))
            except Exception as error:
                logger.warning("Episode %s could not branch: %s", parent.trajectory.id, error, exc_info=True)
                failed = int(parent.trajectory.metadata.get("failed_forks", 0))
                parent.trajectory.metadata["failed_forks"] = str(failed + 1)
                self._open(place)
                continue
            child = Member(place, episode, parent.depth + 1, in_a_row=parent.in_a_row)
            if self.plan.timing == "after":
                # The released code, which branches "before", compares a branch with its own first turn instead.
                child.entropies, child.just_branched = parent.entropies[:1], True
            metadata = episode.trajectory.metadata
            for name in ("retried", "failed_forks"):
                metadata.pop(name, None)
            metadata["branch_probability"] = f"{parent.probability:.6g}"
            metadata["branch_entropy"] = f"{parent.entropies[-1]:.6g}"
            metadata["initial_entropy"] = f"{parent.entropies[0]:.6g}"
            children.append(child)
        return children

    # -- beginnings and ends ---------------------------------------------------------------------------------------

    async def _begin(self, places: Sequence[int]) -> None:
        """Start fresh roots."""
        self._free = [place for place in self._free if place not in places]
        begun = await asyncio.gather(*(self._root(place) for place in places))
        roots = [member for member in begun if member is not None]
        self._enter(roots)
        await self._each(roots, lambda member: member.episode.start)

    async def _root(self, place: int) -> Member | None:
        """Return a fresh root, or None where there is no environment for it, not even at the second try."""
        job = self._job_of(place)
        while True:
            try:
                return Member(place, await self.collector.begin(job, alone=place in self._retried))
            except WorkerError as error:
                if place in self._retried:
                    self._keep(place, self.collector.failed(job, error))
                    return None
                self._retried[place] = str(error)

    async def _end(self, member: Member) -> None:
        """See a member off. Where its worker died, its place goes to a fresh root, once."""
        self._active.remove(member)
        await self.collector.end(member.episode, keep=member.number not in self._retried)
        failure = member.episode.failure
        if isinstance(failure, HOPELESS):
            raise failure
        if isinstance(failure, WorkerError) and member.number not in self._retried:
            self._retried[member.number] = str(failure)
            self._bequeath(member.trajectory)
            self._open(member.number)
            await self._begin([member.number])
        else:
            self._keep(member.number, member.trajectory)

    def _enter(self, members: Iterable[Member]) -> None:
        self._active = sorted([*self._active, *members], key=lambda member: member.number)

    def _keep(self, place: int, trajectory: Trajectory) -> None:
        if place in self._retried:
            trajectory.metadata["retried"] = self._retried[place]
        self._done[place] = trajectory
        if self.on_episode is not None:
            self.on_episode(trajectory)

    def _release(self) -> None:
        """Give back what the engine holds for those who were playing when all broke off."""
        for member in self._active:
            member.episode.close()

    def _open(self, place: int) -> None:
        self._free = sorted([*self._free, place])

    def _bequeath(self, dead: Trajectory) -> None:
        """Let the branch that shares most of a vanished episode stand in its place, as the parent of the others."""
        everyone = [*self._done.values(), *(member.trajectory for member in self._active)]
        children = [trajectory for trajectory in everyone if trajectory.parent_id == dead.id]
        if not children:
            return
        heir = max(children, key=lambda child: child.branch_offset or 0)
        for child in children:
            child.parent_id = heir.id
        heir.parent_id, heir.branch_turn, heir.branch_offset = dead.parent_id, dead.branch_turn, dead.branch_offset


def choose_parents(
    active: Iterable[int], probability: Callable[[int], float], *, free: int, attempts: int, draw: Callable[[], float]
) -> list[int]:
    """Decide who branches in a round.

    Args:
        active: Numbers of the members that may branch, in their order; each is asked `attempts` times.
        probability: Probability that a member branches.
        free: Places that are left in the group; nobody is asked any more when they are taken.
        attempts: Branches of one member at most.
        draw: Returns a number in [0, 1).

    Returns:
        The members that branch, one entry a branch.
    """
    parents: list[int] = []
    for member in active:
        for _ in range(attempts):
            if len(parents) >= free:
                return parents
            if branches(draw(), probability(member)):
                parents.append(member)
    return parents


def branches(drawn: float, probability: float) -> bool:
    """Whether a draw from [0, 1) comes out as a branch: never at probability 0, always at 1."""
    return probability > 0 and drawn <= probability


def check_forks(env: TextEnv) -> None:
    """Find out, before any step, whether an environment can be forked.

    Raises:
        ConfigError: It cannot.
    """
    try:
        env.reset(seed=0)
        env.fork().close()
    except Exception as error:
        raise ConfigError(
            f"{type(env).__name__} cannot be forked ({type(error).__name__}: {error}), and this algorithm branches: "
            "write its _copy(), run it with worker='process', or choose an algorithm without branches."
        ) from error


def branch_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return what branching came to: branches a group, and the share of all turns that were not taken again."""
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    told = sum(len(trajectory.turns) for trajectory in trajectories)
    taken = sum(len(trajectory.own_turns) for trajectory in trajectories)
    branched = sum(trajectory.parent_id is not None for trajectory in trajectories)
    return {"branches": branched / max(len(groups), 1), "turns_shared": 1 - taken / told if told else 0.0}
