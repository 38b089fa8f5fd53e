"""Environments in actors of Ray: on this machine, or on the machines of a cluster.

The actors are the only thing that is remote; episodes are played here, as ever, and are the same. An actor that dies,
hangs or was on a machine that died costs the episodes that were played with it: their calls raise WorkerError, they
are played once more elsewhere, and another actor is started where there is room.
"""

import itertools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from agent_gym import __version__
from agent_gym.errors import ConfigError, WorkerError
from agent_gym.rollout.ray_actor import Call, EnvironmentActor
from agent_gym.rollout.ray_env import RayEnv
from agent_gym.rollout.ray_link import Link
from agent_gym.rollout.ray_session import START_SECONDS, RaySession
from agent_gym.rollout.sharing import Share
from agent_gym.rollout.shipping import shipment_of
from agent_gym.secrecy import secrets_in
from agent_gym.sections import RolloutSection

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 10.0
"""So long an actor that was just started is waited for, where others could take more than their share."""
_CLOSE_SECONDS = 5.0
_SOONER = 0.8
"""Part of a call's time after which a process inside an actor is given up, and the actor not yet."""


class RayPool:
    """Actors of one run, for one environment at a time or several. Close it, or use it as a context manager.

    Args:
        section: How many actors, where, and how long a call may take.
        id: The environment, see `agent_gym.make`.
        options: Its arguments.
        share: Of this process, where several share the cluster.

    Raises:
        ConfigError: Ray does not start, no cluster answers, or the environment cannot be sent there.
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self, section: RolloutSection, id: str, options: Mapping[str, Any], share: Share | None = None
    ) -> None:
        _refuse_secrets(section, options)
        self.timeout = section.ray_timeout
        self._id, self._options, self._shipment = shipment_of(id, dict(options))
        self._wanted: set[str] = set()
        self._tasks: dict[Any, Any] = {}
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._links: list[Link] = []
        self._closed = False
        wished = _wished(section)
        self._session = open_session(section)
        try:
            self.ray = self._session.ray
            room = int(self.ray.cluster_resources().get("CPU", 1) // section.ray_cpus)
            room = room if share is None else len(share.mine(room))
            count = wished or max(1, min(room, section.concurrency))
            self._most = section.ray_environments or math.ceil(section.concurrency / count)
            threads = {Link.WAITING: self._most}
            self._class = self.ray.remote(num_cpus=section.ray_cpus, max_restarts=0, concurrency_groups=threads)(
                EnvironmentActor
            )
            self._links = [self._start() for _ in range(count)]
            self._check(self._first())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def make(self, **options: Any) -> RayEnv:
        """Make an environment in one of the actors.

        Args:
            **options: Arguments that differ from those of the pool.

        Raises:
            WorkerError: There is no actor, or it died.
        """
        return RayEnv(self, options)

    @property
    def nodes(self) -> dict[str, int]:
        """How many living actors there are on each node."""
        with self._lock:
            living = [link.node for link in self._links if link.ready()]
        return {node: living.count(node) for node in sorted(set(living))}

    def close(self) -> None:
        """Close the environments, end the actors and leave Ray."""
        with self._lock:
            self._closed = True
            links, self._links = self._links, []
        with suppress(Exception):
            closing = [link.actor.close.remote() for link in links if link.dead is None and link.ready()]
            # Whoever asks Ray for anything where there is none starts one.
            if closing:
                self.ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
        try:
            for link in links:
                link.end()
        finally:
            self._session.close()

    # -- for the environments --------------------------------------------------------------------------------------

    def lend(self, options: Mapping[str, Any]) -> tuple[Link, int, dict[str, Any]]:
        """Make an environment; return where it is, its number and what it says about itself.

        Raises:
            WorkerError: There is no actor, or two in a row have died.
        """
        try:
            return self._lend(options)
        except WorkerError as error:
            logger.warning("An environment is made elsewhere: %s", error)
            return self._lend(options)

    def _lend(self, options: Mapping[str, Any]) -> tuple[Link, int, dict[str, Any]]:
        link, slot = self._choose(), self.number()
        link.environments += 1
        try:
            options = {**self._options, **options}
            # What starts a process meanwhile lets the actor's other environments go on.
            waits = options.get("worker") == "process"
            return link, slot, link.ask(Call(slot, "make", (self._id, options)), waits=waits)
        except BaseException:
            link.environments -= 1
            raise

    def apart(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options with which an environment is in a process of its own, which hangs before the actor does."""
        return {"call_timeout": _SOONER * self.timeout, **self._options, **options, "worker": "process"}

    def number(self) -> int:
        """Return a number for an environment that no other has."""
        return next(self._numbers)

    @property
    def wanted(self) -> set[str]:
        """Keys of the info that somebody has read: they are sent along from then on."""
        return self._wanted

    @property
    def tasks(self) -> dict[Any, Any]:
        """Tasks that were sent, by the environment's options, split and place."""
        return self._tasks

    def lost(self, link: Link) -> None:
        """Hear that an actor cannot be used any more: see whether others are gone, too, and start as many anew."""
        with self._lock:
            if self._closed or link not in self._links:
                return
            gone = [link]
            with suppress(Exception):
                alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
                gone += [each for each in self._links if each is not link and each.node and each.node not in alive]
            for each in gone:
                each.dead = each.dead or "was on a node that has died"
                logger.warning("%s %s", each.title, each.dead)
                self._links.remove(each)
                each.end()
            try:
                self._links += [self._start() for _ in gone]
            except Exception:
                # The connection itself is gone: whoever wants an environment hears of it.
                logger.warning("No actor could be started anew", exc_info=True)

    # -- actors ----------------------------------------------------------------------------------------------------

    def _start(self) -> Link:
        path = [place for place in [*sys.path, str(Path.cwd())] if place]
        return Link(self, self._class.remote(self._shipment, path))

    def _choose(self) -> Link:
        """Return the actor with the fewest environments; wait where there is none, or one is about to be there.

        Raises:
            WorkerError: None can be placed.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            with self._lock:
                links = list(self._links)
            if not links:
                raise WorkerError("No actor of Ray is left, and none could be started: is the cluster still there?")
            ready = [link for link in links if link.ready()]
            free = [link for link in ready if link.environments < self._most]
            awaited = [link for link in links if link not in ready and (not ready or link.age < _PATIENCE_SECONDS)]
            if free or (ready and not awaited):
                return min(free or ready, key=lambda link: link.environments)
            if self._closed or time.monotonic() > deadline:
                raise WorkerError(
                    f"No actor of Ray could be placed within {START_SECONDS:g} s (free CPUs: "
                    f"{self.ray.available_resources().get('CPU', 0):g}): add a node, or lower rollout.ray_cpus."
                )
            self.ray.wait([link.placed for link in awaited], timeout=0.5)

    def _first(self) -> Link:
        """Return the first actor that is there."""
        self.ray.wait([link.placed for link in self._links], timeout=START_SECONDS)
        return next((link for link in self._links if link.ready()), None) or self._choose()

    def _check(self, link: Link) -> None:
        """Compare versions: other ones may play otherwise.

        Raises:
            ConfigError: They differ.
        """
        theirs, python = link.place["agent-gym"], link.place["python"]
        if (theirs, python) != (__version__, ".".join(map(str, sys.version_info[:2]))):
            raise ConfigError(
                f"The cluster has agent-gym {theirs} on Python {python}, this process has {__version__}: install the "
                "same on all machines."
            )


def open_session(section: RolloutSection) -> RaySession:
    """Find or start Ray; pools that are opened meanwhile use it.

    Raises:
        ConfigError: It does not start, or no cluster answers.
        MissingExtraError: It is not installed.
    """
    actors = _wished(section) or len(os.sched_getaffinity(0))
    return RaySession(section.ray_address, math.ceil(actors * section.ray_cpus))


def _wished(section: RolloutSection) -> int | None:
    """Return how many actors the configuration asks for, if it does.

    Raises:
        ConfigError: They have no room for the episodes in flight.
    """
    actors, each = section.ray_actors, section.ray_environments
    if actors is None:
        return None if each is None else math.ceil(section.concurrency / each)
    if each is not None and actors * each < section.concurrency:
        raise ConfigError(
            f"{actors} actors of {each} environments have no room for {section.concurrency} episodes in flight: raise "
            "rollout.ray_environments or lower rollout.concurrency."
        )
    return min(actors, section.concurrency)


def _refuse_secrets(section: RolloutSection, options: Mapping[str, Any]) -> None:
    """Make sure that no secret leaves this machine.

    Raises:
        ConfigError: An option holds one.
    """
    address = section.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        return
    for path in secrets_in(options, "env.options"):
        raise ConfigError(
            f"{path} would be sent to the machines of the cluster: set it there as an environment variable and name "
            "the variable instead."
        )
