"""Short episodes, played, written down and played again: what the conformance suite compares."""

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agent_gym.env import Info, Task, TextEnv
from agent_gym.errors import EpisodeEnded, UnknownIdError
from agent_gym.misfits import tasks_of

MakeEnv = Callable[[], TextEnv]
_TURNS = 12
_COMMON_WORDS = ("look", "wait", "help", "inventory", "go north", "yes", "no", "1", "5", "9")
_BY_THE_SOLUTION = 0.3

Answer = tuple[str, float, bool, bool, Info]


@dataclass(frozen=True, slots=True)
class Moment:
    """One turn of a recorded episode; the first has no action."""

    action: str
    observation: str
    reward: float
    ended: bool


@contextlib.contextmanager
def opened(make: MakeEnv, count: int = 1) -> Iterator[tuple[Any, ...]]:
    """Make environments, and close them in the end."""
    with contextlib.ExitStack() as stack:
        envs = []
        for _ in range(count):
            envs.append(make())
            stack.callback(envs[-1].close)
        yield tuple(envs)


def walk(env: TextEnv, info: Info, rng: random.Random, *, turns: int = _TURNS) -> Iterator[Answer]:
    """Act at random where the environment says what can be done, else by guessing from what its expert would do."""
    solution = [] if info["admissible_actions"] else list(env.expert() or ())
    for _ in range(turns):
        admissible = info["admissible_actions"]
        answer = env.step(rng.choice(admissible) if admissible else _guess(solution, rng))
        yield answer
        info = answer[4]
        if answer[2] or answer[3]:
            return


def _guess(solution: list[str], rng: random.Random) -> str:
    """Return a part of the solution with other numbers in it, or a word that many environments know."""
    if solution and rng.random() < _BY_THE_SOLUTION:
        return re.sub(r"\d+", lambda _: str(rng.randrange(10)), rng.choice(solution))
    return rng.choice(_COMMON_WORDS)


def record(env: TextEnv, seed: int) -> list[Moment]:
    """Play a random episode of a few turns and write it down."""
    observation, info = env.reset(seed=seed)
    moments = [Moment("", observation, 0.0, False)]
    for observation, reward, terminated, truncated, _ in walk(env, info, random.Random(seed)):
        action, _ = env._history[-1]
        moments.append(Moment(action, observation, reward, terminated or truncated))
    return moments


def follow(env: TextEnv, seed: int, moments: list[Moment], who: str) -> None:
    """Play a recorded episode again and demand the same answers."""
    for _ in follower(env, seed, moments, who):
        pass


def follower(env: TextEnv, seed: int, moments: list[Moment], who: str = "another environment") -> Iterator[bool]:
    """Play a recorded episode again, a turn each time that the next item is asked for; demand the same answers."""
    for turn, moment in enumerate(moments):
        if turn == 0:
            observation, reward, ended = env.reset(seed=seed)[0], 0.0, False
        else:
            observation, reward, terminated, truncated, _ = env.step(moment.action)
            ended = terminated or truncated
        check_same(env, moment, (observation, reward, ended), f"{who} answers differently at turn {turn}")
        yield True


def check_same(env: TextEnv, moment: Moment, found: tuple[str, float, bool], what: str) -> None:
    """Demand that an environment answers as it was recorded, in whatever order it lists things."""
    observation, reward, ended = found
    assert env.same_observation(moment.observation, observation), (
        f"{what}: {show_difference(moment.observation, observation)}"
    )
    assert (reward, ended) == (moment.reward, moment.ended), (
        f"{what}: reward {reward} instead of {moment.reward}, ended {ended} instead of {moment.ended}"
    )


def check_fork(parent: TextEnv, seed: int, record: list[Moment], at: int) -> None:
    """Fork after turn `at`; the child, let loose first, and then the parent both go on as recorded."""
    follow(parent, seed, record[: at + 1], "the parent")
    stray, child = parent.fork(), parent.fork()
    rest = record[at + 1 :]
    with contextlib.closing(stray), contextlib.closing(child):
        with contextlib.suppress(EpisodeEnded):
            for action in ("look", "", *(moment.action for moment in rest[1:])):
                stray.step(action)
        for who, env in (("a fork", child), ("a parent whose forks went on", parent)):
            for turn, moment in enumerate(rest, at + 1):
                observation, reward, terminated, truncated, _ = env.step(moment.action)
                found = observation, reward, terminated or truncated
                check_same(env, moment, found, f"{who} (made after turn {at}) answers differently at turn {turn}")


def sample_tasks(env: TextEnv, count: int = 3) -> list[Task]:
    """Return the first, a middle and the last task of the environment's split."""
    tasks = tasks_of(env, env.split)
    if not tasks:
        raise UnknownIdError(f"The split {env.split!r} has no tasks: choose another split.")
    return [tasks[index] for index in sorted({round(i * (len(tasks) - 1) / (count - 1)) for i in range(count)})]


def show_difference(expected: str, found: str) -> str:
    """Show where two texts part."""
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    start = max(0, at - 20)
    return f"{found[start : at + 40]!r} instead of {expected[start : at + 40]!r} (character {at})"
