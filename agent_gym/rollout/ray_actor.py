"""The actor's side of `agent_gym.rollout.ray_workers`: holds environments and answers for them.

Knows nothing of Ray but where it runs. What it sends is pickled here, so that one answer that cannot travel is an error
of its own and not of all that travel with it.
"""

import pickle
import random
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import agent_gym
from agent_gym.env import Task, TextEnv
from agent_gym.envs.hosted import portable
from agent_gym.errors import StaleInfo
from agent_gym.info import Info
from agent_gym.registry import make
from agent_gym.rollout.shipping import Shipment

BLOCK = 256
"""Tasks that travel together."""


class Call(NamedTuple):
    """A question to an environment."""

    slot: int
    """Which environment; numbers are given by who asks."""
    method: str
    """A method of `Hosted`."""
    args: tuple[Any, ...] = ()


class Answer(NamedTuple):
    """What an environment says about a turn: what `TextEnv.step` returns, with an info that can travel."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    lazy: tuple[str, ...]
    """Keys of the info whose values have not been computed."""
    turn: int
    """Counts the answers of this environment: what is lazy belongs to this one."""


@dataclass(slots=True)
class Hosted:
    """One environment, and what the other side may still ask about its last answer."""

    env: TextEnv
    info: Info = field(default_factory=lambda: Info({}))
    answers: int = 0
    policies: dict[int, Generator[str, str, object]] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """Return what the other side must know from the beginning."""
        env = self.env
        names = ("splits", "task_noun", "max_turns", "split", "render_mode", "held_out_split", "syntax")
        known = {name: getattr(env, name, None) for name in names}
        return known | {"kind": type(env.unwrapped).__name__, "blocking": env.blocking}

    def reset(self, seed: int | None, options: dict[str, Any] | None, wanted: Iterable[str]) -> tuple[Task, Answer]:
        """Begin an episode; return its task, too.

        Args:
            seed: See `TextEnv.reset`.
            options: Likewise.
            wanted: Keys of the info to compute at once.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        assert self.env.task is not None
        return self.env.task, self._answer((observation, 0.0, False, False, info), wanted)

    def step(self, action: str, wanted: Iterable[str]) -> Answer:
        """Apply an action."""
        return self._answer(self.env.step(action), wanted)

    def read(self, turn: int, key: str) -> Any:
        """Compute a lazy value of the last answer.

        Raises:
            StaleInfo: The environment has moved on since.
        """
        if turn != self.answers:
            raise StaleInfo(f"{key!r} belongs to an earlier turn of an environment elsewhere: read it before.")
        return self.info[key]

    def count(self, split: str) -> int:
        """Return how many tasks a split has."""
        return len(self.env.tasks(split))

    def tasks(self, split: str, start: int) -> list[Task]:
        """Return some tasks of a split, from one on."""
        tasks = self.env.tasks(split)
        return [tasks[index] for index in range(start, min(start + BLOCK, len(tasks)))]

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id."""
        return self.env.find_task(task_id)

    def content_of(self, task: Task) -> str:
        """Return what a task says."""
        return self.env.content_of(task)

    def data_files(self) -> dict[str, Any]:
        """Return the files and folders that decide what the environment says."""
        return dict(self.env.data_files())

    def same_observation(self, expected: str, found: str) -> bool:
        """Return whether two observations say the same."""
        return self.env.same_observation(expected, found)

    def expert(self) -> list[str] | None:
        """Return the actions that solve the current task."""
        actions = self.env.expert()
        return None if actions is None else list(actions)

    def demonstrate(self, number: int, observation: str, rng: random.Random) -> bool:
        """Begin a demonstration; return whether the environment has a demonstrator."""
        policy = self.env.demonstrate(observation, rng)
        # Only the latest is followed: an episode that was given up leaves its demonstrator behind.
        self.policies = {} if policy is None else {number: policy}
        return policy is not None

    def demonstrated(self, number: int, observation: str | None) -> str | None:
        """Return the demonstrator's next action, or None at the end."""
        policy = self.policies[number]
        try:
            return next(policy) if observation is None else policy.send(observation)
        except StopIteration:
            return None

    def fork(self) -> "Hosted":
        """Return a fork, which answers what is lazy as this one does."""
        return Hosted(self.env.fork(), self.info, self.answers)

    def _answer(self, answer: tuple[str, float, bool, bool, Info], wanted: Iterable[str]) -> Answer:
        observation, reward, terminated, truncated, info = answer
        self.info = info
        self.answers += 1
        for key in wanted:
            info.get(key)
        lazy = info.unread()
        plain = {key: info[key] for key in info if key not in lazy}
        return Answer(observation, reward, terminated, truncated, plain, lazy, self.answers)


class EnvironmentActor:
    """Environments by number.

    Args:
        shipment: Code that the environments need and that may not be here.
        path: Where modules are looked for besides, as in the process that asks.
    """

    def __init__(self, shipment: Shipment, path: Sequence[str]) -> None:
        sys.path.extend(place for place in path if place not in sys.path)
        self._unpacked = shipment.unpack(_folder_of_ray())
        self._envs: dict[int, Hosted] = {}

    def place(self) -> dict[str, str]:
        """Return where this is, and with which versions."""
        import ray

        where = ray.get_runtime_context()
        python = ".".join(map(str, sys.version_info[:2]))
        return {"node": where.get_node_id(), "agent-gym": agent_gym.__version__, "python": python}

    def serve(self, calls: Sequence[Call]) -> list[bytes]:
        """Answer several questions, one after the other."""
        return [self.answer(call) for call in calls]

    def answer(self, call: Call) -> bytes:
        """Answer a question.

        Returns:
            A pickle of ("returned", value) or ("raised", error).
        """
        return _pickled(lambda: self._run(call))

    def close(self) -> None:
        """Close all environments."""
        for slot in tuple(self._envs):
            self.answer(Call(slot, "close"))

    def _run(self, call: Call) -> Any:
        if call.method == "make":
            id, options = self._unpacked(call.args)
            self._envs[call.slot] = hosted = Hosted(make(id, **options))
            return hosted.about()
        if call.method == "close":
            hosted = self._envs.pop(call.slot)
            return hosted.env.close()
        hosted = self._envs[call.slot]
        if call.method == "fork":
            (twin,) = call.args
            self._envs[twin] = hosted.fork()
            return None
        return getattr(hosted, call.method)(*call.args)


def _folder_of_ray() -> str | None:
    """Return the folder of Ray's session on this node, which Ray's own files lie in."""
    from ray._private import worker

    node = worker._global_node
    return None if node is None else str(node.get_session_dir_path())


def _pickled(function: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps(("returned", function()), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
        error.add_note("In the actor:\n" + traceback.format_exc())
        return pickle.dumps(("raised", portable(error)), pickle.HIGHEST_PROTOCOL)
