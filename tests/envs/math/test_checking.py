"""Whether two answers say the same, and what becomes of answers that are meant to do harm."""

import threading
from collections.abc import Iterator
from fractions import Fraction

import pytest

from agent_gym.envs.math.checking import Checker, as_number, same_number, shared_checker, stated_answer
from agent_gym.errors import MissingExtraError, WorkerError


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    made = Checker(timeout=20.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so it is \\boxed{12}.", "12"),
        ("\\boxed{1} or \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        (" 12 ", "12"),
        ("\\boxed{12", "\\boxed{12"),
    ],
)
def test_the_last_box_states_the_answer(text: str, answer: str) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("12", 12),
        ("-3", -3),
        ("\N{MINUS SIGN}3", -3),
        ("+3", 3),
        ("1,234,567", 1234567),
        ("$18.00", 18),
        ("18.", 18),
        (".5", Fraction(1, 2)),
        ("-0.25", Fraction(-1, 4)),
        ("7/2", Fraction(7, 2)),
        ("-7 / 2", Fraction(-7, 2)),
        ("\\frac{7}{2}", Fraction(7, 2)),
        ("$-\\dfrac{7}{2}$", Fraction(-7, 2)),
        ("50\\%", None),
        ("10{,}000", None),
        ("1,23", None),
        ("7/0", None),
        ("\\frac{1}{0}", None),
        ("x = 5", None),
        ("5 dollars", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        (".", None),
        ("$", None),
        ("9" * 401, None),
        ("\u0663", 3),
    ],
)
def test_plain_numbers_are_read_and_nothing_else(answer: str, number: int | Fraction | None) -> None:
    assert as_number(answer) == number


@pytest.mark.parametrize("piece", ["1", " ", ".", "$", "\\boxed{", "}", "1/", "\\["])
def test_long_answers_are_no_numbers(piece: str) -> None:
    assert not same_number(stated_answer(piece * 50_000 + "x"), "1")


def test_a_number_is_right_however_it_is_written() -> None:
    assert same_number("547.2", "2736/5") and same_number("\\frac{2736}{5}", "2736/5")
    assert not same_number("547", "2736/5") and not same_number("x", "x")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("14/3", "\\frac{14}{3}"),
        ("\\frac{36}{2}", "18"),
        ("18 \\text{ dollars}", "18"),
        ("x=5", "5"),
        ("(3,\\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("-q+p", "p - q"),
        ("\\sqrt{242}", "11\\sqrt2"),
        ("Evelyn", "\\text{Evelyn}"),
        ("2x+2", "2(x+1)"),
        ("0.5", "50\\%"),
    ],
)
def test_the_same_in_other_words_is_right(checker: Checker, answer: str, gold: str) -> None:
    assert checker.same(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("17", "18"),
        ("p+q", "p - q"),
        ("", "18"),
        ("no idea", "18"),
        ("17 or 18", "18"),
        ("17 18", "18"),
        ("(\\pi/2,3)", "(3,\\pi/2)"),
        ("{{{", "18"),
    ],
)
def test_anything_else_is_wrong(checker: Checker, answer: str, gold: str) -> None:
    assert not checker.same(answer, gold)


HOSTILE = {
    "a tower of powers": "9^{9^{9^9}}",
    "factorials": "9!!!!!",
    "braces": "{" * 390,
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_an_answer_that_would_take_for_ever_is_wrong_and_harms_nobody(answer: str) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    checker = Checker(timeout=2.0)
    try:
        assert not checker.same(answer, "x + 3")
        assert checker.same("3+x", "x + 3")
    finally:
        checker.close()


def test_long_and_unprintable_answers_are_not_even_looked_at(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checker, "_started", lambda self: pytest.fail("it was looked at"))
    assert not checker.same("x" * 401, "x") and not checker.same("x\x00", "x") and not checker.same("\ud800", "x")


def test_plain_numbers_need_no_process(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checker, "_started", lambda self: pytest.fail("it was looked at"))
    assert checker.same("1,234", "1234") and not checker.same("1,235", "1234") and checker.same(" p -q", "p - q")


def test_threads_share_one_process(checker: Checker) -> None:
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(checker.same("x+1", "1 + x"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_a_process_that_cannot_be_started_is_no_verdict(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Checker) -> None:
        raise WorkerError("No worker process could be started.")

    monkeypatch.setattr(Checker, "_started", fail)
    with pytest.raises(WorkerError):
        checker.same("x+1", "1 + x")


def test_without_math_verify_the_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shared_checker.cache_clear()
    with pytest.raises(MissingExtraError, match=r"agent-gym\[math\]"):
        shared_checker()
