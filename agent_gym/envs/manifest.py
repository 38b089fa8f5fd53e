"""Manifests: what an environment said when it was recorded, so that it is noticed when it says something else.

A manifest is a small JSON file with a few recorded episodes, and the versions and data they were recorded with. It is
kept beside the environment: in my_env.manifest.json for a module my_env.py, and in manifest.json for one called env.py.
"""

import hashlib
import importlib.metadata
import inspect
import json
import platform
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

import agent_gym
from agent_gym.env import Info, TextEnv
from agent_gym.envs.conformance import NotApplicableError
from agent_gym.envs.walks import sample_tasks, show_difference
from agent_gym.errors import ManifestError
from agent_gym.registry import find_spec, make, resolve

_OWN_NAME: Final = "agent-gym"
_PYTHON: Final = "python"
_WANDERED: Final = 12
"""Turns of an episode that is recorded without an expert."""
_LONGEST_LIST: Final = 50
"""Admissible actions that are written out; of more, only a digest is kept."""
_SHOWN: Final = 3
"""Actions that are named where some are missing or new."""


# -- the file ----------------------------------------------------------------------------------------------------------


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(_Part):
    """An action and what it was answered; the first turn has no action."""

    action: str
    observation: str
    """In full: an environment that lists things in any order needs all of it to compare."""
    reward: float
    ended: bool


class Episode(_Part):
    """A recorded episode."""

    task: str
    seed: int
    player: Literal["expert", "chance", "hand"]
    """Who chose the actions: the environment's expert, chance where it has none, or whoever recorded it."""
    admissible: tuple[str, ...] | str | None
    """The admissible actions of the first turn, sorted; a digest of them where they are many."""
    turns: tuple[Turn, ...]


class Recording(_Part):
    """Episodes that were recorded on one environment."""

    options: dict[str, Any]
    """What the environment was made with."""
    episodes: tuple[Episode, ...]


class Manifest(_Part):
    """What an environment said, and what it was made of at that time."""

    format: Literal[1] = 1
    env: str
    """Its id, without folders."""
    versions: dict[str, str]
    """Of the distributions that decide what it says."""
    data: dict[str, str]
    """SHA-256 of each file or folder that decides what it says."""
    recordings: tuple[Recording, ...]

    @classmethod
    def load(cls, path: Path, env_id: str | None = None) -> Self:
        """Read a manifest, which must be of that environment if one is named.

        Raises:
            ManifestError: It is missing, damaged, or of another environment.
        """
        if not path.is_file():
            raise ManifestError(f"There is no manifest {path}: record one with --record {path}.")
        try:
            manifest = cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise ManifestError(
                f"{path} cannot be read as a manifest ({_reason(error)}): restore it, or delete it and record another "
                "with --record."
            ) from error
        if env_id is not None and manifest.env != _name(env_id):
            raise ManifestError(f"{path} is of {manifest.env!r}, not of {_name(env_id)!r}: choose another manifest.")
        return manifest

    def text(self) -> str:
        """Return what is written to a file: sorted, a value a line, so that two versions can be compared."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def find_manifest(env_id: str) -> Manifest | None:
    """Return the manifest that is kept beside an environment's module; None where there is none of it.

    Raises:
        ManifestError: It is damaged.
    """
    path = manifest_path(env_id)
    manifest = Manifest.load(path) if path is not None and path.is_file() else None
    # A module can have more environments than one; the manifest is of one of them.
    return manifest if manifest is not None and manifest.env == _name(env_id) else None


def manifest_path(env_id: str) -> Path | None:
    """Return where the manifest of an environment is kept, be it there or not; None where its class has no file."""
    entry_point = find_spec(env_id).entry_point
    module, _, _ = entry_point.rpartition(":") if isinstance(entry_point, str) else ("", "", "")
    try:
        file = Path(module if module.endswith(".py") else inspect.getfile(resolve(entry_point)))
    except (TypeError, OSError):
        return None
    return file.with_name("manifest.json" if file.stem == "env" else f"{file.stem}.manifest.json")


def _name(env_id: str) -> str:
    """Return an id that is the same wherever the file lies that it may name, and for all ids of an environment."""
    known = find_spec(env_id).id
    module, colon, name = known.rpartition(":")
    return f"{Path(module).name}{colon}{name}" if module.endswith(".py") else known


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join([".".join(map(str, first["loc"])) or "as a whole", first["msg"]])
    return str(error) or type(error).__name__


# -- recording ---------------------------------------------------------------------------------------------------------


def record(
    env_id: str,
    options: Mapping[str, Any] | None = None,
    *,
    tasks: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    onto: Manifest | None = None,
) -> Manifest:
    """Record what an environment says today.

    Args:
        env_id: See `agent_gym.make`.
        options: What it is made with.
        tasks: Ids of the tasks to play, as the expert does, or with the actions to take in each; the first, a middle
            and the last one of its split if None.
        onto: A manifest that is renewed: its tasks are played again with its options, and those given are added to
            them, unless it has them or there are no options.
    """
    data: dict[str, str] = {}
    recordings = []
    for made_with, plans in _planned(dict(options or {}), tasks, onto):
        with closing(make(env_id, **made_with)) as env:
            data |= _data_hashes(env)
            wanted = plans or [_Plan(task.id, seed) for seed, task in enumerate(sample_tasks(env))]
            episodes = tuple(_record_episode(env, plan) for plan in wanted)
            recordings.append(Recording(options=made_with, episodes=episodes))
    requirements = getattr(resolve(find_spec(env_id).entry_point), "requirements", ())
    names = {_OWN_NAME, _PYTHON, *requirements, *(onto.versions if onto else ())}
    versions = {name: _version(name) for name in names}
    return Manifest(env=_name(env_id), versions=versions, data=data, recordings=tuple(recordings))


@dataclass(frozen=True, slots=True)
class _Plan:
    """An episode to be recorded."""

    task: str
    seed: int
    actions: Sequence[str] | None = None
    """None leaves them to the expert, or to chance where there is none."""

    @classmethod
    def again(cls, episode: Episode) -> Self:
        """Plan the same episode once more."""
        by_hand = episode.player == "hand"
        return cls(episode.task, episode.seed, [turn.action for turn in episode.turns[1:]] if by_hand else None)


def _planned(
    options: dict[str, Any], tasks: Sequence[str] | Mapping[str, Sequence[str]] | None, onto: Manifest | None
) -> list[tuple[dict[str, Any], list[_Plan]]]:
    """Return what to record on which environments; no episodes where they are to be sampled."""
    planned = [
        (recording.options, [_Plan.again(episode) for episode in recording.episodes])
        for recording in (onto.recordings if onto is not None else ())
    ]
    if not planned or (options and options not in [known for known, _ in planned]):
        actions = tasks if isinstance(tasks, Mapping) else {}
        planned.append((options, [_Plan(task, seed, actions.get(task)) for seed, task in enumerate(tasks or ())]))
    return planned


def _record_episode(env: TextEnv, plan: _Plan) -> Episode:
    observation, info = env.reset(seed=plan.seed, options={"task": plan.task})
    beginning = Turn(action="", observation=observation, reward=0.0, ended=False)
    admissible = _listed(info["admissible_actions"])
    player: Literal["expert", "chance", "hand"] = "hand"
    actions = plan.actions
    if actions is None and (expert := env.expert()) is not None:
        player, actions = "expert", list(expert)
    if actions is None:
        player, turns = "chance", list(_wandered(env, info, random.Random(plan.seed)))
    else:
        turns = list(_followed(env, actions))
    return Episode(task=plan.task, seed=plan.seed, player=player, admissible=admissible, turns=(beginning, *turns))


def _followed(env: TextEnv, actions: Sequence[str]) -> Iterator[Turn]:
    """Play actions until they or the episode end."""
    for action in actions:
        turn, _ = _take(env, action)
        yield turn
        if turn.ended:
            return


def _wandered(env: TextEnv, info: Info, rng: random.Random) -> Iterator[Turn]:
    """Play at random where the environment says what can be done, else in vain."""
    for _ in range(_WANDERED):
        admissible = info["admissible_actions"]
        turn, info = _take(env, rng.choice(admissible) if admissible else "look")
        yield turn
        if turn.ended:
            return


def _take(env: TextEnv, action: str) -> tuple[Turn, Info]:
    observation, reward, terminated, truncated, info = env.step(action)
    return Turn(action=action, observation=observation, reward=float(reward), ended=terminated or truncated), info


def _listed(admissible: Sequence[str] | None) -> tuple[str, ...] | str | None:
    if admissible is None:
        return None
    actions = sorted(admissible)
    if len(actions) <= _LONGEST_LIST:
        return tuple(actions)
    return f"{len(actions)} with the digest {hashlib.sha256(json.dumps(actions).encode()).hexdigest()[:16]}"


# -- checking ----------------------------------------------------------------------------------------------------------


def check_manifest(env_id: str, manifest: Manifest | None) -> str:
    """Play the recorded episodes and demand the same answers.

    Args:
        env_id: The environment to check; it is made with the options in the manifest.
        manifest: What to hold it to.

    Returns:
        What was found, with a remark where versions or data are others than they were.

    Raises:
        AssertionError: Something has changed: a sentence with the task, the turn, and the versions.
        NotApplicableError: There is no manifest.
    """
    if manifest is None:
        path = manifest_path(env_id)
        raise NotApplicableError(f"it has no manifest; --record {path.name if path else 'manifest.json'} makes one")
    data: dict[str, str] = {}
    turns = episodes = 0
    for recording in manifest.recordings:
        with closing(make(env_id, **recording.options)) as env:
            data |= _data_hashes(env)
            for episode in recording.episodes:
                difference = first_difference(env, episode)
                where = f"task {episode.task!r}{_spelled(recording.options)}"
                assert difference is None, f"{where}, {difference}; {_circumstances(manifest, data)}"
                turns += len(episode.turns) - 1
                episodes += 1
    return f"{episodes} episodes of {turns} turns are as recorded; {_circumstances(manifest, data)}"


def first_difference(env: TextEnv, episode: Episode) -> str | None:
    """Play a recorded episode; return the first turn that differs and how, or None where all is as it was."""
    turn = 0
    try:
        for turn, recorded in enumerate(episode.turns):
            if turn == 0:
                observation, info = env.reset(seed=episode.seed, options={"task": episode.task})
                found = Turn(action="", observation=observation, reward=0.0, ended=False)
                change = _change(env, recorded, found) or _change_of_list(
                    episode.admissible, _listed(info["admissible_actions"])
                )
            else:
                change = _change(env, recorded, _take(env, recorded.action)[0])
            if change is not None:
                return f"turn {turn}: {change}"
    except Exception as error:  # noqa: BLE001 - whatever an environment raises now that it did not raise then
        return f"turn {turn}: it raises {type(error).__name__}: {error}"
    return None


def _change(env: TextEnv, recorded: Turn, found: Turn) -> str | None:
    if not env.same_observation(recorded.observation, found.observation):
        return f"the observation has {show_difference(recorded.observation, found.observation)}"
    if recorded.reward != found.reward:
        return f"the reward is {found.reward} instead of {recorded.reward}"
    if recorded.ended != found.ended:
        return f"the episode {'ends' if found.ended else 'goes on'}, which it did not"
    return None


def _change_of_list(recorded: tuple[str, ...] | str | None, found: tuple[str, ...] | str | None) -> str | None:
    """Say how the admissible actions differ."""
    if recorded == found:
        return None
    if not isinstance(recorded, tuple) or not isinstance(found, tuple):
        return f"the admissible actions are {_counted(found)} instead of {_counted(recorded)}"
    missing = [action for action in recorded if action not in found]
    added = [action for action in found if action not in recorded]
    parts = [f"{verb} {_enumerated(actions)}" for verb, actions in (("lack", missing), ("add", added)) if actions]
    return f"the admissible actions {' and '.join(parts) or 'are listed another number of times'}"


def _counted(actions: tuple[str, ...] | str | None) -> str:
    if actions is None:
        return "not listed"
    return actions if isinstance(actions, str) else str(len(actions))


def _enumerated(actions: Sequence[str]) -> str:
    more = [f"{len(actions) - _SHOWN} more"] if len(actions) > _SHOWN else []
    return ", ".join([*map(repr, actions[:_SHOWN]), *more])


def _spelled(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name}={value}' for name, value in options.items())})" if options else ""


# -- what an environment is made of ------------------------------------------------------------------------------------


def _circumstances(manifest: Manifest, data: Mapping[str, str]) -> str:
    """Say which versions and data are not those of the recording."""
    changes = [
        f"recorded with {name} {version}, here {_version(name)}"
        for name, version in sorted(manifest.versions.items())
        if _version(name) != version
    ]
    for name in sorted(manifest.data.keys() | data.keys()):
        before, now = manifest.data.get(name, "none"), data.get(name, "none")
        if before != now:
            changes.append(f"recorded with {name} of hash {before[:12]}, here {now[:12]}")
    return "; ".join(changes) or "same versions and data"


def _version(name: str) -> str:
    if name == _OWN_NAME:
        return agent_gym.__version__
    if name == _PYTHON:
        # What random draws from a seed may change with a minor version, and not with a smaller one.
        return ".".join(platform.python_version_tuple()[:2])
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _data_hashes(env: TextEnv) -> dict[str, str]:
    """Return the hash of each file that the environment says its text depends on."""
    innermost = env.unwrapped
    assert isinstance(innermost, TextEnv)
    return {name: _hash(path) for name, path in innermost.data_files().items()}


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files below a folder."""
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    total = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        total.update(f"{file.relative_to(path).as_posix()} {_hash(file)}\n".encode())
    return total.hexdigest()
