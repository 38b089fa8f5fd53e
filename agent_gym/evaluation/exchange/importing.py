"""Making a run of what another tool has written, so that it can be compared and looked at like one of ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.errors import DataError, StoreError, suggestion
from agent_gym.evaluation.exchange.archives import Limits
from agent_gym.evaluation.exchange.inspect_read import Header, chosen_score, opened_log
from agent_gym.evaluation.exchange.inspect_samples import episode
from agent_gym.evaluation.exchange.jsonl import read_jsonl
from agent_gym.evaluation.exchange.reading import Stored
from agent_gym.evaluation.resuming import PHASE
from agent_gym.evaluation.totals import total
from agent_gym.store.atomic import new_folder
from agent_gym.store.episodes import EpisodeFilter
from agent_gym.store.run import RunFolder
from agent_gym.store.trajectories import TrajectoryStore

_BATCH: Final = 64
_LINES: Final = (".jsonl", ".ndjson")

OnEpisode = Callable[[Stored], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """A run that was made."""

    path: Path
    model: str
    episodes: int
    suites: tuple[str, ...]


def import_file(
    file: Path,
    run: Path,
    *,
    scorer: str | None = None,
    suite: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - it cannot be changed
    on_episode: OnEpisode | None = None,
) -> Imported:
    """Make a run of a file.

    Args:
        file: A log of inspect_ai (`.eval`, `.json`), or episodes that `export` has written (`.jsonl`).
        run: The folder to make.
        scorer: Of a log with several scorers the one that counts; SCORER.NAME for one that says several things.
        suite: What the suite is to be called, so that it is compared with that suite of another run.
        limits: How much is read of a file that may be malicious.
        on_episode: Called after each episode.

    Raises:
        DataError: The file is not there, is none of these, or is beyond the limits; then no run is made.
        MissingExtraError: It is packed by Zstandard, and `zstandard` is not installed.
        StoreError: There is such a run already, or it cannot be written.
    """
    if not file.is_file():
        raise DataError(f"There is no file {file}: check the path.")
    if run.exists():
        raise StoreError(f"The run folder {run} exists: choose another --name, or remove it.")
    with new_folder(run) as partial, _opened(file, scorer, limits) as (header, episodes):
        named = _named(episodes, suite)
        first = next(named, None)
        if first is None:
            raise DataError(f"{file} holds no episodes: nothing was imported.")
        model = header.model or first.model or first.trajectory.metadata.get("model", "imported")
        made = RunFolder.create(partial, _config(file, header, model, first))
        count = 0
        with made.trajectories() as store:
            for batch in _batches(chain([first], named)):
                _keep(store, batch)
                count += len(batch)
                _tell(on_episode, batch)
            suites = _score(made, store)
    return Imported(run, model, count, suites)


@contextmanager
def _opened(file: Path, scorer: str | None, limits: Limits) -> Iterator[tuple[Header, Iterator[Stored]]]:
    if file.suffix.lower() in _LINES:
        yield Header(), read_jsonl(file, longest=limits.member)
        return
    with opened_log(file, limits) as (header, samples):
        yield header, _episodes(file, header, samples, scorer)


def _episodes(file: Path, header: Header, samples: Iterator[dict[str, Any]], scorer: str | None) -> Iterator[Stored]:
    """Yield the episodes of a log; a scorer that it has not is an error at once."""
    for sample in samples:
        if scorer is not None and header.scorers and not _has(header, sample, scorer):
            raise DataError(f"{file} has no scorer {scorer!r}{suggestion(scorer, header.scorers)}")
        try:
            yield episode(sample, header, scorer)
        except DataError as error:
            name = str(sample.get("id"))[:100]
            raise DataError(f"{file}, sample {name!r}, epoch {sample.get('epoch')}: {error}.") from error


def _has(header: Header, sample: dict[str, Any], scorer: str) -> bool:
    """Whether a scorer is among those of the log, or a sample's score has it."""
    return scorer in header.scorers or not sample.get("scores") or chosen_score(sample, scorer) is not None


def _named(episodes: Iterator[Stored], suite: str | None) -> Iterator[Stored]:
    """Give episodes without an id one: suite, place of the task, attempt."""
    places: dict[str, int] = {}
    for stored in episodes:
        trajectory = stored.trajectory
        if suite is not None:
            trajectory.metadata["suite"] = suite
        if not trajectory.id:
            place = places.setdefault(trajectory.task_id, len(places))
            trajectory.group_id = f"{stored.suite or 'eval'}/{place}"
            trajectory.id = f"{trajectory.group_id}/{trajectory.metadata.get('attempt', '0')}"
        yield stored


def _batches(episodes: Iterator[Stored]) -> Iterator[list[Stored]]:
    batch: list[Stored] = []
    for stored in episodes:
        batch.append(stored)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _keep(store: TrajectoryStore, batch: list[Stored]) -> None:
    for (step, phase), same in groupby(batch, key=lambda stored: (stored.step, stored.phase)):
        members = list(same)
        store.add([stored.trajectory for stored in members], step=step, phase=phase)
        signals = {stored.trajectory.id: stored.signals for stored in members if stored.signals}
        if signals:
            store.add_signals(step, signals)


def _tell(on_episode: OnEpisode | None, batch: list[Stored]) -> None:
    if on_episode is not None:
        for stored in batch:
            on_episode(stored)


def _config(file: Path, header: Header, model: str, first: Stored) -> dict[str, Any]:
    """Return what is known of the run, in the form of an evaluation's configuration; how it was played is not."""
    about = first.trajectory.metadata
    said: dict[str, Any] = {"env": {"id": first.trajectory.env_id or "imported"}, "model": model}
    said["split"] = about.get("split")
    if header.system_prompt:
        said["rollout"] = {"system_prompt": header.system_prompt}
    source = {"file": file.name, "packages": header.spec.get("packages") or {}, "task": header.spec.get("task")}
    suites = [first.suite] if first.suite else []
    return {**build(EvalConfig, said).model_dump(mode="json", exclude_unset=True), "suites": suites, "imported": source}


def _score(run: RunFolder, store: TrajectoryStore) -> tuple[str, ...]:
    """Write the score of each suite; return their names, "" for episodes of none."""
    suites = tuple(dict.fromkeys(suite for phase, suite, _ in store.kinds() if phase == PHASE))
    for suite in suites:
        split = store.episodes(EpisodeFilter(phase=PHASE, suite=suite), limit=1)[0].split
        named = {"suite": suite} if suite else {}
        score = total(store.outcomes(PHASE, suite)).as_dict()
        run.log({"phase": PHASE, "step": 0, **named, "split": split, **score})
    return suites
