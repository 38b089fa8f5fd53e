"""Answers that are kept until something new was written, and a little longer where they took long."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Value = TypeVar("Value")

ENTRIES = 256
PATIENCE = 4.0
"""An answer that took t seconds is given for this many t more although something new was written: a run that writes
every second does not keep the viewer computing its tables."""


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    version: str | None = None
    value: Any = None
    good_until: float = 0.0


class Cache:
    """Values by key, each computed by one thread at a time.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, version: str, compute: Callable[[], Value]) -> Value:
        """Return what `compute()` came to for this version; of an earlier one where that was a moment ago.

        Args:
            key: What is asked.
            version: Of what it is asked about.
            compute: Finds the answer; what it raises is raised, and nothing is kept.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > ENTRIES:
                self._entries.popitem(last=False)
        with entry.lock:
            begun = self._clock()
            if entry.version is None or (entry.version != version and begun >= entry.good_until):
                entry.value = compute()
                entry.version = version
                ended = self._clock()
                entry.good_until = ended + PATIENCE * (ended - begun)
            value: Value = entry.value
        return value
