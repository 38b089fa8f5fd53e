"""What the pages ask of a run's episodes: lists, groups, one group, one episode. Each answer is plain values."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

from agent_gym.errors import UnknownIdError
from agent_gym.store.episodes import EpisodeFilter, EpisodeRow, GroupRow, Order
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.viewer.episode import branch_view, outline, signal_names, turn_list, turns_view
from agent_gym.viewer.runs import Run

Json = dict[str, Any]

COUNTED = 5_000
"""Matching episodes are counted up to here; "more than" is as good an answer, and is there at once."""

MEMBERS = 128
"""Episodes of one group that are shown."""

Rewards = Literal["any", "differ", "equal", "won", "lost"]
"""Groups by what they teach: whose rewards differ, or are all equal, which teaches nothing; and of those, all of whose
attempts succeeded, or none."""

REWARDS: tuple[Rewards, ...] = ("any", "differ", "equal", "won", "lost")

SEARCHED = 3_000
"""Groups that one answer looks through for those that are wanted, at most."""

SECONDS = 0.15
"""How long it looks, at most, beyond the first `_AT_ONCE` of them: on a slow machine a page is there in time, too."""

_AT_ONCE = 500

ORDERS: tuple[Order, ...] = ("newest", "oldest", "reward", "-reward", "turns", "-turns")
_REVERSED: dict[Order, Order] = {
    "newest": "oldest",
    "oldest": "newest",
    "reward": "-reward",
    "-reward": "reward",
    "turns": "-turns",
    "-turns": "turns",
}
_NOTHING = "No episode has been stored yet."


def episode_list(run: Run, wanted: EpisodeFilter, *, order: Order, limit: int, after: str | None) -> Json:
    """Return a page of episodes, and how many there are."""
    with run.store() as store:
        if store is None:
            return {"episodes": [], "next": None, "total": 0, "total_is_exact": True, "note": _NOTHING}
        total, exact = _total(run, store, wanted)
        # Where nothing matches, that was found out by looking at everything: once is enough.
        rows, following = _page(store, wanted, order, limit, after) if total else ([], None)
    return {"episodes": [_row(row) for row in rows], "next": following, "total": total, "total_is_exact": exact}


def _row(row: EpisodeRow) -> Json:
    # A browser rounds whole numbers beyond 2**53, and seeds have 64 bits.
    return {**asdict(row), "seed": str(row.seed)}


def _page(
    store: TrajectoryStore, wanted: EpisodeFilter, order: Order, limit: int, after: str | None
) -> tuple[list[EpisodeRow], str | None]:
    rows = store.episodes(wanted, order=order, limit=limit + 1, after=after)
    return rows[:limit], rows[limit - 1].cursor(order) if len(rows) > limit else None


def _total(run: Run, store: TrajectoryStore, wanted: EpisodeFilter) -> tuple[int, bool]:
    """Return how many episodes match, and whether that was counted to the end."""
    if wanted == EpisodeFilter():
        return run.cached(("count",), store.count), True
    count = run.cached(("count", wanted), lambda: store.count_matching(wanted, at_most=COUNTED))
    return count, count < COUNTED


def facets(run: Run) -> Json:
    """Return what there is to choose from when filtering."""
    with run.store() as store:
        if store is None:
            return {"phases": [], "suites": [], "types": [], "steps": {"min": 0, "max": 0}}
        kinds, (first, last) = store.kinds(), store.steps()
    return {
        "phases": list(dict.fromkeys(phase for phase, _, _ in kinds)),
        "suites": sorted({suite for _, suite, _ in kinds} - {""}),
        "types": sorted({kind for _, _, kind in kinds} - {""}),
        "steps": {"min": first, "max": last},
    }


def group_list(run: Run, wanted: EpisodeFilter, *, rewards: Rewards = "any", limit: int, after: str | None) -> Json:
    """Return a page of groups.

    Args:
        run: Where they are stored.
        wanted: A group is listed where one of its episodes matches.
        rewards: How the rewards of a group compare. No index knows: groups are looked through, `SEARCHED` at most, for
            `SECONDS`.
        limit: Groups of a page, at most; fewer where no more were found among those.
        after: The `next` of the page before.
    """
    with run.store() as store:
        if store is None:
            return {"groups": [], "next": None, "total": 0, "total_is_exact": True, "note": _NOTHING}
        if rewards != "any":
            return _chosen_groups(store, wanted, rewards, limit, after)
        rows = store.groups(wanted, limit=limit + 1, after=after)
        count = run.cached(("groups", wanted), lambda: store.count_groups(wanted, at_most=COUNTED))
    following = str(rows[limit - 1].number) if len(rows) > limit else None
    shown = [_group(row) for row in rows[:limit]]
    return {"groups": shown, "next": following, "total": count, "total_is_exact": count < COUNTED}


def _chosen_groups(
    store: TrajectoryStore, wanted: EpisodeFilter, rewards: Rewards, limit: int, after: str | None
) -> Json:
    found: list[Json] = []
    searched, cursor, until = 0, after, time.monotonic() + SECONDS
    while searched == 0 or (searched < SEARCHED and time.monotonic() < until):
        rows = store.groups(wanted, limit=_AT_ONCE, after=cursor)
        for row in rows:
            searched, cursor = searched + 1, str(row.number)
            if _CHOICES[rewards](row):
                found.append(_group(row))
                if len(found) == limit:
                    return {"groups": found, "next": cursor, "searched": searched}
        if len(rows) < _AT_ONCE:
            return {"groups": found, "next": None, "searched": searched}
    return {"groups": found, "next": cursor, "searched": searched}


def _differ(row: GroupRow) -> bool:
    return row.reward_max - row.reward_min > 1e-9  # of NaN, where all failed, this is False


_CHOICES: dict[Rewards, Callable[[GroupRow], bool]] = {
    "differ": _differ,
    "equal": lambda row: not _differ(row),
    "won": lambda row: row.successes == row.count,
    "lost": lambda row: row.successes == 0,
}


def _group(row: GroupRow) -> Json:
    return {**asdict(row), "spread": row.reward_max - row.reward_min}


def group(run: Run, id: str) -> Json:
    """Return the episodes of a group, with their turns in few words and where each branched off.

    Raises:
        UnknownIdError: There is no such group.
    """
    with run.store() as store:
        wanted = EpisodeFilter(group_id=id)
        rows = store.episodes(wanted, order="oldest", limit=MEMBERS + 1) if store is not None else []
        if store is None or not rows:
            raise UnknownIdError(f"There is no group {id!r} in this run (any more).")
        members = [_member(store, row) for row in rows[:MEMBERS]]
        first = rows[0]
        count = len(rows) if len(rows) <= MEMBERS else store.count_matching(wanted)
    return {
        "group_id": id,
        "task_id": first.task_id,
        "task_type": first.task_type,
        "goal": first.goal,
        "step": first.step,
        "phase": first.phase,
        "suite": first.suite,
        "episodes": members,
        "count": count,
        "cut": f"Shown are {MEMBERS} of {count:,} episodes." if count > len(members) else None,
    }


def _member(store: TrajectoryStore, row: EpisodeRow) -> Json:
    trajectory = store.get(row.id)
    signals = store.signals(row.id)
    turns = list(turn_list(trajectory, signals))
    return {**_row(row), "turn_list": turns, "branch": branch_view(trajectory)}


def episode(
    run: Run,
    id: str,
    *,
    wanted: EpisodeFilter | None = None,
    order: Order = "newest",
    with_tokens: bool = True,
    first: int = 0,
    limit: int | None = None,
    budget: int | None = None,
) -> Json:
    """Return one episode.

    Args:
        run: Where it is stored.
        id: Its id.
        wanted: The list that it is looked at in, which decides the previous and the next one; None is its phase.
        order: Of that list.
        with_tokens: Whether tokens and their values are wanted, besides the text.
        first: The first turn.
        limit: Turns, at most.
        budget: Tokens, at most.

    Raises:
        UnknownIdError: There is no such episode.
    """
    with run.store() as store:
        if store is None:
            raise UnknownIdError(f"There is no episode {id!r}: none has been stored yet.")
        row, trajectory, signals = store.row(id), store.get(id), store.signals(id)
        listed = wanted or EpisodeFilter(phase=row.phase)
        neighbours = [
            store.episodes(listed, order=way, limit=1, after=row.cursor(way)) for way in (_REVERSED[order], order)
        ]
        family = store.episodes(EpisodeFilter(group_id=row.group_id), order="oldest", limit=MEMBERS)
    previous, following = (rows[0].id if rows else None for rows in neighbours)
    shown = turns_view(
        trajectory,
        signals,
        run.texts(),
        with_tokens=with_tokens,
        first=first,
        limit=limit,
        **({} if budget is None else {"budget": budget}),
    )
    return {
        "episode": _row(row),
        "metadata": trajectory.metadata,
        "final_observation": trajectory.final_observation,
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        "previous": previous,
        "next": following,
        "signals": signal_names(signals),
        "branch": branch_view(trajectory),
        "branches": _branches(family, id),
        "shared_turns": trajectory.branch_turn or 0,
        # Those who ask for further turns have it already.
        "outline": outline(trajectory, signals) if not first else None,
        **shown,
    }


def _branches(family: Sequence[EpisodeRow], id: str) -> list[Json]:
    """Return the episodes that left this one."""
    return [
        {"id": row.id, "turn": row.branch_turn, "success": row.success, "reward": row.reward}
        for row in family
        if row.parent_id == id
    ]
