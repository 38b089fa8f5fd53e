"""Rate limit, retries, and calls that are made once."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from agent_gym.errors import ConfigError
from agent_gym.tools.web import RateLimit, Retries, SingleFlight, retry_after


class Time:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


def test_a_rate_limit_lets_a_burst_through_and_spaces_the_rest() -> None:
    time = Time()
    limit = RateLimit(4, burst=3, clock=time, sleep=time.sleep)
    assert all(limit.wait() for _ in range(5))
    assert time.slept == [0.25, 0.25]
    time.now += 10
    time.slept.clear()
    assert all(limit.wait() for _ in range(4))
    assert time.slept == [0.25]


def test_turns_of_many_threads_are_spaced_too() -> None:
    slept: list[float] = []
    limit = RateLimit(2, clock=lambda: 0.0, sleep=slept.append)
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: limit.wait(), range(8)))
    assert sorted(slept) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


def test_a_turn_that_is_too_far_away_is_not_taken() -> None:
    slept: list[float] = []
    limit = RateLimit(1, clock=lambda: 0.0, sleep=slept.append)
    assert limit.wait() and limit.wait(longest=1.0)
    assert not limit.wait(longest=1.5)
    assert limit.wait(longest=2.0) and slept == [1.0, 2.0]


def test_waits_double_and_are_shortened_by_chance() -> None:
    longest, shortest = Retries(tries=9, random=lambda: 1.0), Retries(tries=9, random=lambda: 0.0)
    assert [longest.wait_before(retry, None) for retry in (1, 2, 3, 7)] == [0.5, 1.0, 2.0, 20.0]
    assert [shortest.wait_before(retry, None) for retry in (1, 2)] == [0.25, 0.5]
    assert Retries(tries=10_000).wait_before(9_000, None) is not None


def test_retries_end_and_follow_what_the_server_asks_for() -> None:
    retries = Retries(tries=3, longest_wait=20)
    assert retries.wait_before(2, 7.0) == 7.0
    assert retries.wait_before(3, 7.0) is None
    assert retries.wait_before(1, 21.0) is None


def test_what_several_ask_for_at_once_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Semaphore(0)

    class Telling(Future[object]):
        def result(self, timeout: float | None = None) -> object:
            waiting.release()
            return super().result(timeout)

    monkeypatch.setattr("agent_gym.tools.web.Future", Telling)
    flights: SingleFlight[object] = SingleFlight()
    begun, go_on = threading.Event(), threading.Event()

    def call() -> object:
        begun.set()
        assert go_on.wait(30)
        return object()

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(flights.do, "k", call)
        assert begun.wait(30)
        others = [threads.submit(flights.do, "k", object) for _ in range(3)]
        assert flights.do("another", lambda: 8) == 8
        assert all(waiting.acquire(timeout=30) for _ in range(4))
        go_on.set()
        assert len({first.result(30), *(each.result(30) for each in others)}) == 1
    assert flights.do("k", lambda: 9) == 9


def test_an_error_reaches_all_that_wait_and_is_not_kept() -> None:
    flights: SingleFlight[int] = SingleFlight()

    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        flights.do("k", fail)
    assert flights.do("k", lambda: 1) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0), ("0.5", 0.5), (None, None), ("soon", None), ("-3", None), ("inf", None), ("nan", None), ("", None),
        ("Wed, 25 Nov 2026 08:00:30 GMT", 30.0), ("Wed, 25 Nov 2026 07:00:00 GMT", 0.0),
        ("Wed, 25 Nov 2026 08:00:30 -0000", 30.0), ("Wed, 99 Nov 2026 08:00:30 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, lambda: datetime(2026, 11, 25, 8, 0, 0, tzinfo=UTC)) == seconds


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in (lambda: RateLimit(0), lambda: RateLimit(1, burst=0), lambda: Retries(tries=0)):
        with pytest.raises(ConfigError):
            wrong()
