"""Listing, filtering and counting episodes, without reading what is large about them.

Every question walks along one index, and an answer is cut into pages by where the last one ended, so that the first
page and the thousandth cost the same, however many episodes there are.
"""

import hashlib
import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from agent_gym.errors import StoreError
from agent_gym.store.schema import has_search
from agent_gym.trajectory import Trajectory

Order = Literal["newest", "oldest", "reward", "-reward", "turns", "-turns"]
"""In which order episodes are listed: as they were stored, or by a number, the smallest or ("-") the largest first."""

_FEW = 500
"""Episodes with a text in them that are looked up one by one; of more, the newest are soon found on the way."""

_SEARCHED = 2000
"""Characters of each text that are searched; of a longer one its beginning."""


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """An episode as lists and statistics see it; one field for each column of the table `episodes`."""

    number: int
    """Counts up in the order in which episodes were stored; where one page ends and the next begins."""
    id: str
    step: int
    phase: str
    suite: str
    """Empty where it belongs to none; likewise `split` and `task_type`."""
    split: str
    env_id: str
    group_id: str
    task_id: str
    task_type: str
    attempt: int
    seed: int
    goal: str
    success: bool
    score: float
    reward: float
    error: str | None
    """Why the episode failed, if it did."""
    turns: int
    """What a branch shares with its parent included, here and in all that is counted over turns and tokens."""
    generated_tokens: int
    prompt_tokens: int
    """The whole prompt counts in each turn: that is what a server charges for."""
    tool_calls: int
    invalid_actions: int
    entropy: float
    """Mean over the generated tokens, in nats."""
    seconds: float
    """Spent by engine and environment on its turns."""
    cost: float | None
    """In dollars, where the price is known."""
    answer: str | None
    """What the environment graded, where it grades answers."""
    parent_id: str | None
    branch_turn: int | None
    branch_offset: int | None
    truncated_by: str | None
    retried: str | None
    """Why it was played once more, if it was."""

    def cursor(self, order: Order = "newest") -> str:
        """Return what to hand to `after` for the page that begins below this row."""
        column = order.removeprefix("-")
        return str(self.number) if column not in _SORTED else f"{getattr(self, column)!r}:{self.number}"


@dataclass(frozen=True, slots=True)
class EpisodeFilter:
    """Which episodes; None asks for nothing, and what is asked for must all hold."""

    phase: str | None = None
    suite: str | None = None
    step: int | None = None
    group_id: str | None = None
    task_id: str | None = None
    task_type: str | None = None
    success: bool | None = None
    failed: bool | None = None
    """Whether the episode broke off with an error."""
    text: str | None = None
    """Words, each of which must occur in the task's id, the goal, the error or the answer, in any case of letters."""
    min_reward: float | None = None
    max_reward: float | None = None
    min_turns: int | None = None
    max_turns: int | None = None


@dataclass(frozen=True, slots=True)
class GroupRow:
    """The episodes that are compared with each other, summed up."""

    number: int
    """Of its newest episode that was asked for; where one page ends and the next begins."""
    group_id: str
    task_id: str
    goal: str
    step: int
    phase: str
    count: int
    successes: int
    failed: int
    """Failed episodes; they count, but enter no mean."""
    reward_mean: float
    """NaN where all failed."""
    reward_min: float
    reward_max: float


NAMES = tuple(field.name for field in fields(EpisodeRow))
COLUMNS = ", ".join(NAMES)
_SORTED = ("reward", "turns")
_COMPARISONS = {
    **dict.fromkeys(("phase", "suite", "step", "group_id", "task_id", "task_type", "success", "failed"), "="),
    **{"min_reward": ">=", "max_reward": "<=", "min_turns": ">=", "max_turns": "<="},
}
_INSERT = (
    f"INSERT INTO episodes ({', '.join(NAMES[1:])}, failed, task_text, outcome_text) "
    f"VALUES ({', '.join('?' * len(NAMES))}, "
    "(SELECT number FROM texts WHERE digest = ?), (SELECT number FROM texts WHERE digest = ?))"
)


# -- writing -----------------------------------------------------------------------------------------------------------


def insert(connection: sqlite3.Connection, trajectories: Sequence[Trajectory], step: int, phase: str) -> None:
    """Put episodes into the narrow table; their ids must be new."""
    rows: list[tuple[object, ...]] = []
    texts: dict[bytes, str] = {}
    for trajectory in trajectories:
        error, answer = trajectory.error, trajectory.metadata.get("answer")
        task, outcome = _joined(trajectory.task_id, trajectory.goal), _joined(error, answer)
        digests = [_digest(text) if text is not None else None for text in (task, outcome)]
        texts.update({digest: text for digest, text in zip(digests, (task, outcome), strict=True) if digest and text})
        rows.append((*_values(trajectory, step, phase), error is not None, *digests))
    connection.executemany("INSERT OR IGNORE INTO texts (digest, text) VALUES (?, ?)", texts.items())
    connection.executemany(_INSERT, rows)


def _values(trajectory: Trajectory, step: int, phase: str) -> tuple[object, ...]:
    """Return the columns from `id` on."""
    about, turns = trajectory.metadata, trajectory.turns
    return (
        trajectory.id,
        step,
        phase,
        about.get("suite", ""),
        about.get("split", ""),
        trajectory.env_id,
        trajectory.group_id,
        trajectory.task_id,
        about.get("task_type", ""),
        _integer(about.get("attempt", "0")),
        trajectory.seed,
        trajectory.goal,
        trajectory.success,
        trajectory.score,
        trajectory.reward,
        trajectory.error,
        len(turns),
        sum(turn.generated_tokens or turn.end - turn.start for turn in turns),
        sum(turn.prompt_tokens or turn.start - turn.context_start for turn in turns),
        sum(turn.tool_calls for turn in turns),
        sum(turn.invalid_action for turn in turns),
        trajectory.entropy,
        sum(turn.engine_seconds + turn.env_seconds for turn in turns),
        _finite(about.get("cost")),
        about.get("answer"),
        trajectory.parent_id,
        trajectory.branch_turn,
        trajectory.branch_offset,
        about.get("truncated_by"),
        about.get("retried"),
    )


def _integer(text: str) -> int:
    """Read a number of the metadata, where anything may stand; 0 where it is none that a column can hold."""
    try:
        number = int(text)
    except ValueError:
        return 0
    return number if abs(number) < 2**63 else 0


def _finite(text: str | None) -> float | None:
    """Read a number of the metadata; None where there is none."""
    try:
        number = float("nan" if text is None else text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _joined(*texts: str | None) -> str | None:
    """Return what is searched of two texts; None where there is none."""
    return "\n".join(text[:_SEARCHED] for text in texts if text) or None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


# -- reading -----------------------------------------------------------------------------------------------------------


def page(
    connection: sqlite3.Connection, wanted: EpisodeFilter, order: Order, limit: int, after: str | None
) -> list[EpisodeRow]:
    """Return the episodes of one page."""
    conditions, values = _conditions(connection, wanted)
    column, descending = order.removeprefix("-"), order in ("newest", "-reward", "-turns")
    direction, beyond = (" DESC", "<") if descending else ("", ">")
    if column in _SORTED:
        # What is not a number has no place in an order.
        conditions.append(f"{column} IS NOT NULL")
        ordering = f"{column}{direction}, number{direction}"
    else:
        ordering = f"number{direction}"
    if after is not None:
        bound = _cursor(after, pairs=column in _SORTED)
        conditions.append(f"({column}, number) {beyond} (?, ?)" if len(bound) == 2 else f"number {beyond} ?")
        values.extend(bound)
    # The index finds the numbers; only the rows of the page are read from the table.
    chosen = f"SELECT number FROM episodes {_index(wanted, column)}{_where(conditions)} ORDER BY {ordering} LIMIT ?"
    query = f"SELECT {COLUMNS} FROM episodes WHERE number IN ({chosen}) ORDER BY {ordering}"
    return [_episode(row) for row in connection.execute(query, [*values, limit])]


def one(connection: sqlite3.Connection, id: str) -> EpisodeRow | None:
    """Return the episode of that id, if there is one."""
    row = connection.execute(f"SELECT {COLUMNS} FROM episodes WHERE id = ?", (id,)).fetchone()
    return None if row is None else _episode(row)


def count(connection: sqlite3.Connection, wanted: EpisodeFilter, at_most: int | None) -> int:
    """Return how many episodes match; it stops counting at `at_most`."""
    conditions, values = _conditions(connection, wanted)
    inner = f"SELECT 1 FROM episodes {_index(wanted)}{_where(conditions)} LIMIT ?"
    query = f"SELECT COUNT(*) FROM ({inner})"
    return int(connection.execute(query, [*values, -1 if at_most is None else at_most]).fetchone()[0])


def groups(connection: sqlite3.Connection, wanted: EpisodeFilter, limit: int, after: str | None) -> list[GroupRow]:
    """Return the groups of one page, each as a whole, the one with the newest matching episode first."""
    conditions, values = _conditions(connection, wanted)
    others, again = _conditions(connection, wanted, table="later.")
    # A group stands where its newest matching episode does.
    later = ["later.group_id = episodes.group_id", "later.number > episodes.number", *others]
    conditions.append(f"NOT EXISTS (SELECT 1 FROM episodes later INDEXED BY episodes_by_group{_where(later)})")
    values += again
    if after is not None:
        conditions.append("number < ?")
        values += _cursor(after, pairs=False)
    heads = f"SELECT number, group_id FROM episodes {_index(wanted)}{_where(conditions)} ORDER BY number DESC LIMIT ?"
    query = f"""
        SELECT heads.number, heads.group_id, min(task_id), min(goal), min(step), min(phase), count(*),
               sum(success AND NOT failed), sum(failed), avg(CASE WHEN NOT failed THEN reward END),
               min(CASE WHEN NOT failed THEN reward END), max(CASE WHEN NOT failed THEN reward END)
        FROM ({heads}) heads JOIN episodes INDEXED BY episodes_by_group ON episodes.group_id = heads.group_id
        GROUP BY heads.number ORDER BY heads.number DESC
    """
    rows = connection.execute(query, [*values, limit])
    return [GroupRow(*row[:9], *map(_number, row[9:])) for row in rows]


def count_groups(connection: sqlite3.Connection, wanted: EpisodeFilter, at_most: int | None) -> int:
    """Return how many groups have a matching episode; it stops counting at `at_most`."""
    conditions, values = _conditions(connection, wanted)
    inner = f"SELECT DISTINCT group_id FROM episodes{_where(conditions)} LIMIT ?"
    query = f"SELECT COUNT(*) FROM ({inner})"
    return int(connection.execute(query, [*values, -1 if at_most is None else at_most]).fetchone()[0])


def stream(connection: sqlite3.Connection, wanted: EpisodeFilter) -> Iterator[EpisodeRow]:
    """Yield all matching episodes in the order in which they were stored."""
    conditions, values = _conditions(connection, wanted)
    query = f"SELECT {COLUMNS} FROM episodes {_index(wanted)}{_where(conditions)} ORDER BY number"
    for row in connection.execute(query, values):
        yield _episode(row)


def kinds(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Return the combinations of phase, suite and type of task that there are, leaping from each to the next."""
    kind = "SELECT phase, suite, task_type FROM episodes INDEXED BY episodes_by_kind"
    order = "ORDER BY phase, suite, task_type LIMIT 1"
    # The next type, else the next suite, else the next phase: one comparison of all three would read through them.
    leaps = ("phase = ? AND suite = ? AND task_type > ?", "phase = ? AND suite > ?", "phase > ?")
    found = []
    row = connection.execute(f"{kind} {order}").fetchone()
    while row is not None:
        found.append(row)
        nexts = (
            connection.execute(f"{kind} WHERE {leap} {order}", found[-1][: leap.count("?")]).fetchone()
            for leap in leaps
        )
        row = next(filter(None, nexts), None)
    return found


# -- parts -------------------------------------------------------------------------------------------------------------


def _conditions(connection: sqlite3.Connection, wanted: EpisodeFilter, table: str = "") -> tuple[list[str], list[Any]]:
    """Return what a filter asks for, in SQL, and the values of its places."""
    conditions, values = [], []
    for name, comparison in _COMPARISONS.items():
        value = getattr(wanted, name)
        if value is not None:
            column = name.removeprefix("min_").removeprefix("max_")
            conditions.append(f"{table}{column} {comparison} ?")
            values.append(value)
    searched = has_search(connection) if wanted.text else False
    for word in (wanted.text or "").split():
        found, value = _texts_with(word, searched)
        numbers = _few_with(connection, found, value)
        if numbers is None:
            conditions.append(f"({table}task_text IN ({found}) OR {table}outcome_text IN ({found}))")
            values += [value, value]
        else:
            conditions.append(f"{table}number IN ({', '.join(map(str, numbers))})" if numbers else "0")
    return conditions, values


def _few_with(connection: sqlite3.Connection, found: str, value: str) -> set[int] | None:
    """Return the numbers of the episodes with such a text where they are few: then nothing has to be read through."""
    places = (
        f"SELECT number FROM episodes INDEXED BY episodes_by_{text} WHERE {text} IN ({found})"
        for text in ("task_text", "outcome_text")
    )
    rows = connection.execute(f"{' UNION ALL '.join(places)} LIMIT ?", (value, value, _FEW + 1)).fetchall()
    return {number for (number,) in rows} if len(rows) <= _FEW else None


def _texts_with(word: str, searched: bool) -> tuple[str, str]:
    """Return the query for the texts with a word in them, and the value of its place."""
    if searched and len(word) >= 3:
        quoted = word.replace('"', '""')
        return "SELECT rowid FROM search WHERE search MATCH ?", f'"{quoted}"'
    escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return "SELECT number FROM texts WHERE text LIKE ? ESCAPE '\\'", f"%{escaped}%"


def _index(wanted: EpisodeFilter, order: str = "") -> str:
    """Return the index to walk along: we know more about the columns than SQLite does without statistics."""
    # A step of training has few episodes, and they are soon sorted; evaluations have nothing but step 0.
    if order in _SORTED and wanted.group_id is None and wanted.task_id is None and not wanted.step:
        return f"INDEXED BY episodes_by_{order}"
    choices = {"group_id": "group", "task_id": "task", "step": "step"}
    for name, index in choices.items():
        if getattr(wanted, name) is not None:
            return f"INDEXED BY episodes_by_{index}"
    return "INDEXED BY episodes_by_number"


def _where(conditions: Sequence[str]) -> str:
    return " WHERE " + " AND ".join(conditions) if conditions else ""


def _cursor(text: str, *, pairs: bool) -> list[float | int]:
    """Read what `EpisodeRow.cursor` made."""
    *value, number = text.split(":")
    try:
        if len(value) != pairs:
            raise ValueError
        return [*map(float, value), int(number)]
    except ValueError:
        raise StoreError(f"{text!r} is no end of a page in this order: ask for the first page again.") from None


def _episode(row: Sequence[Any]) -> EpisodeRow:
    values = list(row)
    for place in _BOOLEANS:
        values[place] = bool(values[place])
    for place in _NUMBERS:
        values[place] = _number(values[place])
    return EpisodeRow(*values)


def _number(value: float | None) -> float:
    """SQLite keeps what is not a number as nothing."""
    return math.nan if value is None else value


_BOOLEANS = (NAMES.index("success"),)
_NUMBERS = tuple(NAMES.index(name) for name in ("score", "reward", "entropy"))
