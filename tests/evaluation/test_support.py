"""The metrics of support: the paper's numbers, and what must hold."""

import math

import pytest
from helpers import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.evaluation.support import Support, support, unseen_probability

CASES = golden("support_and_entropy")["cases"]
SOLVED = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30)


@pytest.mark.parametrize("case", [case for case in CASES if case["fn"] == "invisible_leash_metrics"])
def test_published_rates(case: dict[str, float | None]) -> None:
    counts = [int(case[name] or 0) for name in "PESO"]
    found = Support(*counts)
    for name in ("SRR", "NDR", "SDS", "NSCR"):
        value = getattr(found, name.lower())
        assert value is None if case[name] is None else value == pytest.approx(case[name])


@settings(max_examples=25, deadline=None)
@given(SOLVED)
def test_rates_stay_in_their_ranges_and_mirror_when_models_are_exchanged(solved: list[tuple[bool, bool]]) -> None:
    base, trained = [one for one, _ in solved], [other for _, other in solved]
    found, mirrored = support(base, trained), support(trained, base)
    assert found.preserved + found.expanded + found.shrunk + found.outside == len(solved)
    assert (found.expanded, found.shrunk) == (mirrored.shrunk, mirrored.expanded)
    for rate in (found.srr, found.ndr, found.sds):
        assert rate is None or 0 <= rate <= 1
    if found.nscr is not None and mirrored.nscr is not None:
        assert -1 <= found.nscr == -mirrored.nscr


@pytest.mark.parametrize("case", [case for case in CASES if case["fn"] == "invisible_leash_eps"])
def test_what_was_never_seen_may_still_be_so_likely(case: dict[str, float]) -> None:
    found = unseen_probability(int(case["k"]), doubt=case["zeta"])
    assert found == pytest.approx(case["eps"])
    # With just that probability nothing is seen in k draws about as often as the doubt says.
    assert (1 - found) ** case["k"] == pytest.approx(case["zeta"], rel=0.01)


def test_probabilities_end_at_one_and_doubt_lies_in_between() -> None:
    assert unseen_probability(1) == 1
    with pytest.raises(ValueError, match="between 0 and 1"):
        unseen_probability(10, doubt=math.e)
    with pytest.raises(ValueError, match="at least 1"):
        unseen_probability(0)
