"""Writing a run's episodes in another format, each file as a whole or not at all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from agent_gym.errors import ConfigError
from agent_gym.evaluation.exchange.inspect_export import write_logs
from agent_gym.evaluation.exchange.jsonl import write_jsonl
from agent_gym.evaluation.exchange.parquet import write_parquet
from agent_gym.evaluation.exchange.reading import Selection, Stored, SystemPrompts, stored_episodes
from agent_gym.evaluation.exchange.records import as_conversation, as_record
from agent_gym.files import replacing
from agent_gym.store.atomic import writing
from agent_gym.store.run import RunFolder
from agent_gym.store.trajectories import TrajectoryStore

Format = Literal["jsonl", "parquet", "inspect"]
FORMATS: Final = get_args(Format)

OnEpisode = Callable[[Stored], None]


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written."""

    path: Path
    episodes: int


def export(
    run: Path,
    kind: Format,
    out: Path | None = None,
    *,
    selection: Selection = Selection(),  # noqa: B008 - it cannot be changed
    messages: bool = False,
    tokens: bool = False,
    on_episode: OnEpisode | None = None,
) -> list[Written]:
    """Write the episodes of a run; never more than a few are in memory.

    Args:
        run: A run folder.
        kind: "jsonl" and "parquet" hold one episode a line or row; "inspect" makes logs of inspect_ai, one for each
            suite (else environment and split) and phase.
        out: The file, or for "inspect" also a folder; by default one named after the run in the working directory,
            for "inspect" the folder `inspect` in the run.
        selection: Which episodes.
        messages: Write each episode as a chat, for fine-tuning elsewhere; not for "inspect".
        tokens: Also write token ids, action mask, log-probabilities, entropies and signals; not for "inspect", and not
            with `messages`.
        on_episode: Called after each episode.

    Raises:
        ConfigError: The options do not go together, or no episode is selected.
        MissingExtraError: pyarrow is not installed, for "parquet".
        StoreError: There is no such run, or the file cannot be written.
    """
    folder = RunFolder.open(run)
    if kind == "inspect" and (messages or tokens):
        raise ConfigError("inspect_ai's logs hold chats, and no tokens: leave out --messages and --tokens.")
    if messages and tokens:
        raise ConfigError("A chat has no tokens: leave out --messages or --tokens.")
    episodes = stored_episodes(run, selection, signals=tokens)
    if kind == "inspect":
        counts = write_logs(folder, _heard(episodes, on_episode), out or run / "inspect")
        if not counts:
            raise _nothing(run)
        return [Written(path, count) for path, count in counts.items()]
    path = out or Path(f"{run.resolve().name}.{kind}")
    prompts = SystemPrompts(folder)
    records = (
        as_conversation(stored, system_prompt=prompts.of(stored)) if messages else as_record(stored, tokens=tokens)
        for stored in _heard(episodes, on_episode)
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            if kind == "jsonl":
                count = write_jsonl(partial, records)
            else:
                count = write_parquet(partial, records, messages=messages, tokens=tokens)
            if count == 0:
                raise _nothing(run)
    return [Written(path, count)]


def _heard(episodes: Iterator[Stored], on_episode: OnEpisode | None) -> Iterator[Stored]:
    for stored in episodes:
        yield stored
        if on_episode is not None:
            on_episode(stored)


def _nothing(run: Path) -> ConfigError:
    with TrajectoryStore.reading(run / "trajectories.sqlite") as store:
        phases = ", ".join(store.phases())
    return ConfigError(
        f"No episode of {run} is among those asked for; it has the phases {phases or '(none)'}: give another --phase, "
        "another --suite, or leave them out."
    )
