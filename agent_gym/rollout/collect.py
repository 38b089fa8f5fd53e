"""Groups of episodes: which tasks, how many attempts each, how many in flight."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent_gym.engines.base import Engine
from agent_gym.env import TextEnv
from agent_gym.errors import MissingExtraError, RefusedError, WorkerError
from agent_gym.rollout.chat import Chat
from agent_gym.rollout.episode import Episode, EpisodeSettings
from agent_gym.rollout.seeds import derive_seed
from agent_gym.rollout.sharing import Share, share_out
from agent_gym.rollout.spending import carry_spending
from agent_gym.rollout.workers import EnvFactory, Workers
from agent_gym.trajectory import Group, Trajectory

OnEpisode = Callable[[Trajectory], None]
HOPELESS = (RefusedError, MissingExtraError)
"""What no other episode would be spared: it is raised, and is no episode's own failure."""


@dataclass(frozen=True, slots=True)
class Job:
    """One episode to be played."""

    id: str
    group_id: str
    task_id: str | None
    seed: int
    env_seed: int | None = None
    """Seeds the environment, see `Episode`."""


def member_job(prefix: str, group: int, member: int, task_id: str | None, seed: int) -> Job:
    """Return the job of a member of a group: its ids and seeds follow from these numbers alone."""
    return Job(
        f"{prefix}g{group}e{member}",
        f"{prefix}g{group}",
        task_id,
        seed=derive_seed(seed, group, member),
        env_seed=derive_seed(seed, group),
    )


class Collector:
    """Plays episodes with an engine; environments are made once and used again.

    Args:
        make_env: Makes an environment.
        engine: Where the actions come from.
        chat: How observations become tokens.
        settings: How episodes are played.
        concurrency: Episodes in flight (at least 1).
        env_id: Written into the trajectories.
        share: What this process does of all that is played, where several play together.
    """

    def __init__(
        self,
        make_env: EnvFactory,
        engine: Engine,
        chat: Chat,
        settings: EpisodeSettings,
        *,
        concurrency: int = 64,
        env_id: str = "",
        share: Share | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}.")
        self.engine = engine
        self.chat = chat
        self.settings = settings
        self.concurrency = concurrency
        self.env_id = env_id
        self.share = share
        self.all_begun: Callable[[], None] | None = None
        """Called, may be more than once, when the jobs played next have all been taken: others may be played as well.

        Those take what room is left, and no more episodes are in flight than `concurrency` in all.
        """
        self._room = asyncio.Semaphore(concurrency)
        self._workers = Workers(make_env, concurrency)

    async def play(self, jobs: Sequence[Job], on_episode: OnEpisode | None = None) -> list[Trajectory]:
        """Play all jobs; the result has their order. `on_episode` is called as each one ends.

        Where several processes play together, each plays its share and gets the episodes of all; `on_episode` hears
        of those that are played here.
        """
        return await share_out(
            self.share, len(jobs), lambda mine: self._play_here([jobs[place] for place in mine], on_episode)
        )

    async def _play_here(self, jobs: Sequence[Job], on_episode: OnEpisode | None) -> list[Trajectory]:
        results: list[Trajectory | None] = [None] * len(jobs)

        def ended(index: int, trajectory: Trajectory) -> None:
            results[index] = trajectory
            if on_episode is not None:
                on_episode(trajectory)

        await self._play_all(enumerate(jobs), ended)
        return [trajectory for trajectory in results if trajectory is not None]

    async def stream(self, jobs: Iterable[Job], on_episode: OnEpisode) -> None:
        """Play jobs and keep none of the episodes: `on_episode` gets each as it ends.

        Args:
            jobs: A job is taken when there is room for it; a generator that stops early ends the playing, once those
                in flight have ended.
            on_episode: What it raises ends everything, too.

        Raises:
            RefusedError: No request of the engine can succeed.
            MissingExtraError: The environment needs something that is not installed.
        """
        await self._play_all(enumerate(jobs), lambda _, trajectory: on_episode(trajectory))

    async def _play_all(self, jobs: Iterator[tuple[int, Job]], ended: Callable[[int, Trajectory], None]) -> None:
        all_begun, self.all_begun = self.all_begun, None

        async def work(job: tuple[int, Job] | None) -> None:
            while job is not None:
                async with self._room:
                    ended(job[0], await self._play_one(job[1]))
                job = next(jobs, None)
            if all_begun is not None:
                all_begun()

        try:
            async with asyncio.TaskGroup() as workers:
                begun = [workers.create_task(work(job)) for job in itertools.islice(jobs, self.concurrency)]
                if all_begun is not None and len(begun) < self.concurrency:
                    all_begun()
        except ExceptionGroup as group:
            # Whoever plays episodes one by one hears of the same error in the same way.
            raise group.exceptions[0] from group.exceptions[0].__cause__

    async def groups(
        self,
        task_ids: Sequence[str | None],
        *,
        size: int,
        seed: int,
        prefix: str = "",
        on_episode: OnEpisode | None = None,
    ) -> list[Group]:
        """Play `size` episodes of each task.

        Args:
            task_ids: One task a group; None lets the group's seed choose.
            size: Episodes a group (at least 1).
            seed: From it every episode's seed is derived, and every group's seed of the environment.
            prefix: Begins the ids of groups and episodes.
            on_episode: Called as each episode ends.
        """
        jobs = [
            member_job(prefix, group, member, task_id, seed)
            for group, task_id in enumerate(task_ids)
            for member in range(size)
        ]
        trajectories = await self.play(jobs, on_episode)
        groups = []
        for number in range(len(task_ids)):
            members = trajectories[number * size : (number + 1) * size]
            groups.append(Group(members[0].group_id, members[0].task_id, members))
        return groups

    # -- episodes one by one, for who decides between their turns --------------------------------------------------

    async def begin(self, job: Job, *, alone: bool = False) -> Episode:
        """Return an episode that has an environment and has not started; `end` it.

        Args:
            job: What is played.
            alone: See `Workers.take`.

        Raises:
            WorkerError: There is no environment for it.
        """
        env = await self._workers.take(alone=alone)
        episode = Episode(
            env,
            self.engine,
            self.chat,
            self.settings,
            job.task_id,
            job.seed,
            job.env_seed,
            self._workers.caller(env),
        )
        episode.trajectory.env_id = self.env_id
        _name(episode, job)
        return episode

    async def fork(self, episode: Episode, job: Job) -> Episode:
        """Return a branch of a running episode under the name and the seed of a job; `end` it, too."""
        env = await self._workers.fork(episode.env)
        child = episode.branch(env, seed=job.seed)
        _name(child, job)
        return child

    async def end(self, episode: Episode, *, keep: bool = True) -> None:
        """Take back what an episode holds. Its environment is used again if `keep`, unless the episode failed."""
        episode.close()
        if keep and episode.trajectory.error is None and not self._workers.full:
            self._workers.give_back(episode.env)
        else:
            await self._workers.discard(episode.env)

    def failed(self, job: Job, error: WorkerError) -> Trajectory:
        """Return the record of an episode that could not begin."""
        reason = f"{type(error).__name__}: {error}"
        return Trajectory(job.task_id or "", self.env_id, job.id, job.group_id, job.seed, error=reason)

    @property
    def probe(self) -> TextEnv:
        """One of the collector's environments, to ask for tasks; it may be playing the next moment."""
        return self._workers.peek()

    def close(self) -> None:
        """Close the environments."""
        self._workers.close()

    async def _play_one(self, job: Job) -> Trajectory:
        """Play an episode; one whose worker died or hung is played once more, from its beginning.

        Then it is alone where it is played, as it may have been what ended the worker.
        """
        trajectory, failure = await self._attempt(job)
        if isinstance(failure, WorkerError):
            first, again = trajectory, str(failure)
            trajectory, failure = await self._attempt(job, alone=True)
            trajectory.metadata["retried"] = again
            carry_spending(first, trajectory)
        if isinstance(failure, HOPELESS):
            raise failure
        return trajectory

    async def _attempt(self, job: Job, *, alone: bool = False) -> tuple[Trajectory, Exception | None]:
        try:
            episode = await self.begin(job, alone=alone)
        except WorkerError as error:
            return self.failed(job, error), error
        await episode.run()
        await self.end(episode, keep=not alone)
        return episode.trajectory, episode.failure


def _name(episode: Episode, job: Job) -> None:
    episode.trajectory.id, episode.trajectory.group_id = job.id, job.group_id
