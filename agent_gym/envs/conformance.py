"""What every environment must do, ours and yours: one suite of checks that runs on any `TextEnv`.

`agent-gym check ENV` prints its result as a table; `conform` returns it. A check plays a few short episodes and takes
no network, no model and no files but those that the environment itself needs.
"""

import contextlib
import copy
import functools
import importlib
import os
import random
import sys
import sysconfig
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from agent_gym.env import INFO_KEYS, Info, Task, TextEnv
from agent_gym.envs.walks import MakeEnv, check_fork, follow, follower, opened, record, sample_tasks, walk
from agent_gym.errors import AgentGymError, EpisodeEnded, UnknownIdError
from agent_gym.misfits import tasks_of

BAD_ACTIONS = {
    "empty": "",
    "blank": " \t\n",
    "100 kB": "go " * 33_334,
    "NUL": "look\x00",
    "unicode": "öffne den Kühlschrank 🧊 \u202e",
    "lone surrogate": "look \ud800",
    "many lines": "look\nlook\nlook",
    "braces": "{0} %s \\ ' \" ;",
}
"""Actions that no environment understands, by what is bad about them."""
_PATIENT_TURNS = 1000
"""Turns that an expert may take; its task is then solvable, though perhaps not before the environment's own limit."""
_SEEDS = (0, 1, 2)
_LIBRARIES = tuple(sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib"))
_COMPARED_TASKS = 1000
"""So many ids of each split are compared with each other."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    passed: bool | None
    """None where the environment has nothing to check."""
    detail: str
    """What was found."""
    seconds: float


class NotApplicableError(Exception):
    """Raised by a check that has nothing to check in this environment; says why."""


def conform(
    make: MakeEnv, *, only: str | None = None, more: Mapping[str, Callable[[MakeEnv], str]] | None = None
) -> Iterator[Check]:
    """Run the checks, one after the other.

    Args:
        make: Makes a new environment each time it is called.
        only: Run only the check of this name.
        more: Checks to run after those for every environment, by name; see `agent_gym.envs.manifest`.

    Raises:
        UnknownIdError: There is no check of that name.
    """
    with opened(make) as (held,):
        # What the environments of a process share (imports, makers of games) lives on from check to check.
        with contextlib.suppress(Exception):
            held.reset(seed=0)
        own = {name: _imported(entry_point) for name, entry_point in held.unwrapped.checks.items()}
        checks = {**CHECKS, **(more or {}), **own}
        if only is not None and only not in checks:
            raise UnknownIdError.of("check", only, checks)
        for name, check in checks.items():
            if only in (None, name):
                yield _run(name, check, make)


def _imported(entry_point: str) -> Callable[[MakeEnv], str]:
    module, _, name = entry_point.partition(":")
    check: Callable[[MakeEnv], str] = getattr(importlib.import_module(module), name)
    return check


def _run(name: str, check: Callable[[MakeEnv], str], make: MakeEnv) -> Check:
    started = time.perf_counter()
    passed: bool | None = True
    try:
        detail = check(make)
    except NotApplicableError as nothing:
        passed, detail = None, str(nothing)
    except AssertionError as error:
        passed, detail = False, str(error) or "an assertion failed"
    except Exception as error:  # noqa: BLE001 - whatever an environment raises where it must not is what is checked
        passed, detail = False, _told(error)
    return Check(name, passed, detail, time.perf_counter() - started)


def _told(error: BaseException) -> str:
    """Return what was raised and where, unless the sentence of one of our own errors says enough."""
    if isinstance(error, AgentGymError):
        return str(error)
    callers = str(Path(__file__).parents[1]), str(Path(gymnasium.__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(callers)]
    # What a library raises is told where it was called from, if that can be told from the libraries.
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)] or frames
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"raised {type(error).__name__}: {error}{where}"


# -- the checks: each returns what it found, or fails an assertion with a sentence ----------------------------------


def _gymnasium(make: MakeEnv) -> str:
    with opened(make) as (env,), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It reads the infos of all turns at the end; where a value is lazy, that may be too late by then.
        env.reset, env.step = _read_at_once(env.reset), _read_at_once(env.step)
        check_env(env, skip_render_check=True)
    return "gymnasium's own check_env passes"


def _read_at_once(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        answer = method(*args, **kwargs)
        answer[-1].copy()
        return answer

    return call


def _info(make: MakeEnv) -> str:
    with opened(make) as (env,):
        _, info = env.reset(seed=0)
        _check_info(info, env, turn=0)
        keys = set(info)
        for turn, answer in enumerate(walk(env, info, random.Random(0)), 1):
            info = answer[4]
            longest = env.observation_space.max_length
            assert len(answer[0]) <= longest, f"the observation at turn {turn} is longer than {longest:,} characters"
            _check_info(info, env, turn=turn)
            assert set(info) == keys, f"info has other keys at turn {turn}: {sorted(set(info) ^ keys)}"
    return f"{len(keys)} keys at every turn"


def _tasks(make: MakeEnv) -> str:
    counts = {}
    with opened(make) as (env,):
        for split in env.splits:
            tasks = tasks_of(env, split)
            counts[split] = len(tasks)
            [(commonest, times)] = Counter(task.id for task in islice(tasks, _COMPARED_TASKS)).most_common(1) or [
                ("", 0)
            ]
            assert times <= 1, f"{times} tasks are called {commonest!r}"
            for task in [tasks[0], tasks[-1]] if counts[split] else []:
                _, info = env.reset(seed=0, options={"task": task.id})
                assert info["task_id"] == task.id, f"asked for task {task.id!r}, got {info['task_id']!r}"
        assert counts[env.split], f"its split {env.split!r} has no tasks"
        try:
            env.reset(options={"task": "no such task"})
        except UnknownIdError:
            pass
        else:
            raise AssertionError("an unknown task is not refused with UnknownIdError")
    return ", ".join(f"{split} {count:,}" for split, count in counts.items() if count)


def _determinism(make: MakeEnv) -> str:
    turns = 0
    for seed in _SEEDS:
        with opened(make, 2) as (one, two):
            actions = record(one, seed)
            turns += len(actions) - 1
            follow(two, seed, actions, "a second environment")
    return f"{len(_SEEDS)} episodes of {turns} turns came out the same twice"


def _hygiene(make: MakeEnv) -> str:
    with opened(make, 2) as (used, fresh):
        for seed in _SEEDS:
            record(used, seed + 100)
            used.reset(seed=seed + 200)
        follow(used, 0, record(fresh, 0), "an environment that was used before")
    return "nothing of earlier episodes is left"


def _interleaved(make: MakeEnv) -> str:
    with opened(make, 4) as (one, two, left, right):
        expected = record(one, 0), record(two, 1)
        walkers = [follower(left, 0, expected[0]), follower(right, 1, expected[1])]
        while walkers:
            walkers = [walker for walker in walkers if next(walker, None) is not None]
    return "two episodes at a time do not disturb each other"


def _globals(make: MakeEnv) -> str:
    random.seed(0)
    before = _global_state()
    with opened(make) as (env,):
        record(env, 0)
        with contextlib.suppress(NotImplementedError):
            env.fork().close()
    changed = [name for name, value in _global_state().items() if value != before[name]]
    assert not changed, f"an episode changed {', '.join(changed)} of the whole process"
    return "random, numpy.random, the working directory, sys.argv and the environment variables stay"


def _fork(make: MakeEnv) -> str:
    forks = 0
    with opened(make, 2) as (parent, reference):
        for seed in _SEEDS:
            moments = record(reference, seed)
            for at in sorted({0, len(moments) // 2, max(len(moments) - 2, 0)}):
                check_fork(parent, seed, moments, at)
                forks += 1
    return f"{forks} forks went their own way and left their parents alone"


def _bad_actions(make: MakeEnv) -> str:
    with opened(make) as (env,):
        for what, action in BAD_ACTIONS.items():
            env.reset(seed=0)
            try:
                env.step(action)
            except AgentGymError:
                raise
            except Exception as error:
                raise AssertionError(f"an action that is {what} {_told(error)}") from error
    return f"{len(BAD_ACTIONS)} kinds are observations"


def _after_the_end(make: MakeEnv) -> str:
    with opened(make) as (env,):
        _expect_ended(env, "a step before the first reset")
        env.max_turns = 2
        _, info = env.reset(seed=0)
        *_, last = walk(env, info, random.Random(0), turns=2)
        assert last[2] or last[3], "max_turns does not end the episode"
        assert not (last[2] and last[3]), "an episode is terminated and truncated at once"
        _expect_ended(env, "a step after the end")
        env.reset(seed=0)
        env.step("look")
    return "a step outside an episode is refused, and reset begins anew"


def _oracle(make: MakeEnv) -> str:
    needed: dict[str, int] = {}
    with opened(make) as (env,):
        limit, env.max_turns = env.max_turns, max(env.max_turns, _PATIENT_TURNS)
        for task in sample_tasks(env):
            env.reset(seed=0, options={"task": task.id})
            actions = env.expert()
            if actions is None:
                raise NotApplicableError("it has no expert")
            needed[task.id] = _solve(env, task, actions)
    found = f"the expert solves {len(needed)} of {len(needed)} tasks, in {sum(needed.values()) / len(needed):.1f} turns"
    late = [f"{task} takes {turns}" for task, turns in needed.items() if turns > limit]
    return f"{found}; max_turns is {limit}, but {', '.join(late)}" if late else found


def _solve(env: TextEnv, task: Task, actions: Iterator[str]) -> int:
    """Let the expert act; return how many turns it took."""
    for turns, action in enumerate(actions, 1):
        *_, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            assert info["success"], f"the expert ends task {task.id!r} after {turns} turns, and it is not solved"
            return turns
    raise AssertionError(f"the expert does not solve task {task.id!r}")


CHECKS: dict[str, Callable[[MakeEnv], str]] = {
    "gymnasium": _gymnasium,
    "info": _info,
    "tasks": _tasks,
    "determinism": _determinism,
    "hygiene": _hygiene,
    "interleaved": _interleaved,
    "globals": _globals,
    "fork": _fork,
    "bad actions": _bad_actions,
    "after the end": _after_the_end,
    "oracle": _oracle,
}
"""By name, in the order in which they run."""


def _check_info(info: Info, env: TextEnv, *, turn: int) -> None:
    missing = [key for key in INFO_KEYS if key not in info]
    assert not missing, f"info lacks {missing} at turn {turn}"
    assert info["turn"] == turn, f"info['turn'] is {info['turn']} at turn {turn}"
    kinds = {"task_id": str, "goal": str, "success": bool, "invalid_action": bool}
    for key, kind in kinds.items():
        assert isinstance(info[key], kind), f"info[{key!r}] is {info[key]!r} at turn {turn}, not a {kind.__name__}"
    assert 0 <= info["score"] <= 1, f"info['score'] is {info['score']} at turn {turn}, outside [0, 1]"
    admissible = info["admissible_actions"]
    assert admissible is None or all(isinstance(action, str) for action in admissible), (
        "admissible actions are no texts"
    )
    assert env.task is not None and info["task_id"] == env.task.id


def _expect_ended(env: TextEnv, what: str) -> None:
    try:
        env.step("look")
    except EpisodeEnded:
        return
    raise AssertionError(f"{what} does not raise EpisodeEnded")


def _global_state() -> dict[str, Any]:
    state = {
        "random's generator": random.getstate(),
        "numpy's global generator": repr(np.random.get_state()),  # noqa: NPY002 - to see that nobody touches it
        "the working directory": os.getcwd(),  # noqa: PTH109
        "sys.argv": copy.copy(sys.argv),
        "the environment variables": dict(os.environ),
    }
    if "torch" in sys.modules:
        state["torch's global generator"] = sys.modules["torch"].get_rng_state().tolist()
    return state
