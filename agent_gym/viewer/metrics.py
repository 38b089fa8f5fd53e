"""metrics.jsonl as it grows: read once, answered from where a page has read to, and thinned where it is long."""

import json
import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POINTS = 1000
"""Values of one key that an answer holds, at most: as many as a screen shows side by side."""

FRESH = 500
"""Records that may follow a thinned curve as they are, before it is thinned anew."""

Record = dict[str, Any]


@dataclass(slots=True)
class _Column:
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """An answer."""

    records: list[Record]
    since: int
    """The line from which they are: 0 although a later one was asked for where the file was written anew."""
    next: int
    """The line to ask for next time."""
    generation: str
    """Another one where the file was written anew."""
    thinned: bool
    """Whether records were left out, or only hold the keys whose smallest or largest value they are."""


class MetricsLog:
    """One file of metrics.

    Numbers are kept in memory, 16 bytes each; everything else is read again when asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._rewritten = 0
        self._forget()

    def page(self, since: int = 0, generation: str | None = None, *, points: int = POINTS) -> MetricsPage:
        """Return what stands in the file from line `since` on.

        Args:
            since: The `next` of the answer before.
            generation: The `generation` of the answer before; None does not care.
            points: Values of one key that the answer holds, at most.
        """
        with self._lock:
            self._refresh()
            count = len(self._starts)
            if since > count or (generation is not None and generation != self._generation):
                since = 0
            thinned, records = False, []
            for phase, lines in self._phases.items():
                if len(lines) - _place(lines, since) > points:
                    thinned = True
                    begin, kept = self._thinned(phase, since, points)
                    records += [*kept, *self._read(lines[_place(lines, begin) :])]
                else:
                    records += self._read(lines[_place(lines, since) :])
            records.sort(key=lambda record: record[0])
            return MetricsPage([record for _, record in records], since, count, self._generation, thinned)

    def last_step(self) -> int:
        """Return the last step that anything was recorded at; 0 where nothing was."""
        with self._lock:
            self._refresh()
            steps = [columns[("step",)].values[-1] for columns in self._columns.values() if ("step",) in columns]
            return int(max(steps, default=0))

    # -- reading ---------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._starts = array("q")
        self._end = 0
        self._last = b""
        self._inode = 0
        self._phases: dict[str, array[int]] = {}
        self._columns: dict[str, dict[tuple[str, ...], _Column]] = {}
        self._curves: dict[tuple[str, int, int], tuple[int, list[tuple[int, Record]]]] = {}

    @property
    def _generation(self) -> str:
        return f"{self._inode:x}.{self._rewritten}"

    def _refresh(self) -> None:
        """Read the lines that were added; all of them where the file is another one now, as after --resume."""
        try:
            file = self.path.open("rb")
        except OSError:
            if self._starts:
                self._rewritten += 1
            self._forget()
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            file.seek(self._end - len(self._last))
            if self._starts and (inode != self._inode or file.read(len(self._last)) != self._last):
                self._rewritten += 1
                self._forget()
                file.seek(0)
            self._inode = inode
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._add(line)

    def _add(self, line: bytes) -> None:
        number = len(self._starts)
        self._starts.append(self._end)
        self._end += len(line)
        self._last = line
        record = _parse(line)
        if record is None:
            return
        phase = str(record.get("phase", ""))
        self._phases.setdefault(phase, array("q")).append(number)
        columns = self._columns.setdefault(phase, {})
        for key, value in _numbers(record):
            column = columns.setdefault(key, _Column())
            column.lines.append(number)
            column.values.append(value)

    def _read(self, lines: Sequence[int]) -> Iterator[tuple[int, Record]]:
        if not lines:
            return
        try:
            with self.path.open("rb") as file:
                for number in lines:
                    file.seek(self._starts[number])
                    record = _parse(file.readline())
                    if record is not None:
                        yield number, record
        except OSError:
            return

    # -- thinning --------------------------------------------------------------------------------------------------

    def _thinned(self, phase: str, since: int, points: int) -> tuple[int, list[tuple[int, Record]]]:
        """Return thinned records from line `since` on, and the line that they go up to; as before if few are new."""
        key = (phase, since, points)
        end = len(self._starts)
        begin, kept = self._curves.get(key, (since, []))
        if not kept or end - begin > FRESH:
            begin, kept = end, list(self._thin(phase, since, points))
            # A page begins at the start, or where it was broken off: what others asked for is not worth keeping.
            self._curves = {known: curve for known, curve in self._curves.items() if known[1] == 0}
            self._curves[key] = (begin, kept)
        return begin, kept

    def _thin(self, phase: str, since: int, points: int) -> Iterator[tuple[int, Record]]:
        """Yield records that hold a key only where it has the smallest or largest value among its neighbours."""
        columns = self._columns[phase]
        kept: dict[int, Record] = {}
        for key, column in columns.items():
            if key == ("step",):
                continue
            for number, value in _extremes(column, since, points):
                # Six digits: a curve shows no more, and the answer is half as large.
                _put(kept.setdefault(number, {}), key, float(f"{value:.6g}"))
        steps = columns.get(("step",), _Column())
        step_of = dict(zip(steps.lines, steps.values, strict=True)) if kept else {}
        for number, record in kept.items():
            yield number, {"phase": phase, "step": int(step_of.get(number, 0)), **record}


def _extremes(column: _Column, since: int, points: int) -> list[tuple[int, float]]:
    """Return the first value, the last, and the smallest and largest of each stretch, with their lines."""
    import numpy as np

    lines, values = np.asarray(column.lines), np.asarray(column.values)
    begin = int(np.searchsorted(lines, since))
    lines, values = lines[begin:], values[begin:]
    if len(values) > points:
        stretches = max((points - 2) // 2, 1)
        width = -(-len(values) // stretches)
        padded = np.resize(values, -(-len(values) // width) * width)
        # What is repeated at the end is no extreme that the last stretch does not have.
        padded[len(values) :] = values[-1]
        rows = padded.reshape(-1, width)
        firsts = np.arange(len(rows)) * width
        places = [0, len(values) - 1, *(rows.argmin(axis=1) + firsts), *(rows.argmax(axis=1) + firsts)]
        chosen = np.unique(np.minimum(places, len(values) - 1))
        lines, values = lines[chosen], values[chosen]
    return list(zip(lines.tolist(), values.tolist(), strict=True))


def _place(lines: "array[int]", since: int) -> int:
    """Return the place of the first line from `since` on."""
    return bisect_left(lines, since)


def _parse(line: bytes) -> Record | None:
    """Return the record of a line; None where it is none, as where a run was killed while it wrote."""
    try:
        record = json.loads(line, parse_constant=_nothing)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _nothing(name: str) -> None:
    """Read NaN and infinities, which no browser reads, as nothing."""


def _numbers(record: Record, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _numbers(value, (*path, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, key), float(value)


def _put(record: Record, path: tuple[str, ...], value: float) -> None:
    for key in path[:-1]:
        record = record.setdefault(key, {})
    record[path[-1]] = value
