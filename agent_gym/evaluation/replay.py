"""Plays stored episodes again on a fresh environment and tells where anything differs.

What differs shows that an environment has changed since (another version, other data), or that it is left to chance.
"""

import difflib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from agent_gym.env import TextEnv
from agent_gym.evaluation.played import make_env, suite_of
from agent_gym.evaluation.resuming import suite_records
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first thing that was not as it is stored."""

    turn: int
    """The turn at which it was seen; 0 is the first observation."""
    what: str
    """ "observation", "reward", "end" or "error"."""
    stored: str
    found: str

    def diff(self) -> str:
        """Return the lines that differ, the stored ones marked with -, those found now with +."""
        lines = difflib.unified_diff(self.stored.splitlines(), self.found.splitlines(), lineterm="", n=1)
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of playing one episode again."""

    episode: str
    task_id: str
    turns: int
    divergence: Divergence | None


def replay_run(
    run: RunFolder, episode: str | None = None, *, phase: str | None = None, count: int = -1
) -> Iterator[Replay]:
    """Play episodes of a run again.

    Args:
        run: The run.
        episode: The id of one episode; all of them if None.
        phase: Only episodes of this phase.
        count: At most so many, the newest first; -1 is all.

    Raises:
        UnknownIdError: The run has no such episode, or its environment is not known here.
        ConfigError: The run does not say which environment it was played in.
    """
    if not suite_records(run.path):
        suite_of(run)
    with ExitStack() as stack:
        store = stack.enter_context(run.trajectories())
        envs: dict[str, TextEnv] = {}
        chosen = [store.get(episode)] if episode else store.select(phase=phase, limit=count, newest=True)
        for trajectory in chosen:
            suite = trajectory.metadata.get("suite", "")
            if suite not in envs:
                envs[suite] = make_env(run, suite)
                stack.callback(envs[suite].close)
            divergence = first_divergence(envs[suite], trajectory)
            yield Replay(trajectory.id, trajectory.task_id, len(trajectory.turns), divergence)


def first_divergence(env: TextEnv, trajectory: Trajectory) -> Divergence | None:
    """Play the actions of a trajectory; return the first difference, or None where all is as it was.

    Args:
        env: An environment like the one that the trajectory was played in, without a limit of turns.
        trajectory: A stored episode.
    """
    seed = int(trajectory.metadata.get("env_seed", trajectory.seed))
    turn = 0
    try:
        observation, _ = env.reset(seed=seed, options={"task": trajectory.task_id})
        for turn, stored in enumerate(trajectory.turns):
            if not env.same_observation(stored.observation, observation):
                return Divergence(turn, "observation", stored.observation, observation)
            observation, reward, terminated, _, _ = env.step(stored.action)
            if reward != stored.reward:
                return Divergence(turn + 1, "reward", str(stored.reward), str(reward))
            should_end = trajectory.terminated and stored is trajectory.turns[-1]
            if terminated != should_end:
                words = {True: "the episode ends", False: "the episode goes on"}
                return Divergence(turn + 1, "end", words[should_end], words[terminated])
    except Exception as error:  # noqa: BLE001 - whatever an environment raises now that it did not raise then
        return Divergence(turn, "error", "no error", f"{type(error).__name__}: {error}")
    last = trajectory.final_observation
    if last and not env.same_observation(last, observation):
        return Divergence(len(trajectory.turns), "observation", last, observation)
    return None
