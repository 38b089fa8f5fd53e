"""Rollouts that branch: the members of a group go on in step, and some of them are forked where a rule says so."""

from collections.abc import Callable, Iterable


def choose_parents(
    active: Iterable[int], probability: Callable[[int], float], *, free: int, attempts: int, draw: Callable[[], float]
) -> list[int]:
    """Decide who branches in a round.

    Args:
        active: Numbers of the members that may branch, in their order; each is asked `attempts` times.
        probability: Probability that a member branches.
        free: Places that are left in the group; nobody is asked any more when they are taken.
        attempts: Branches of one member at most.
        draw: Returns a number in [0, 1).

    Returns:
        The members that branch, one entry a branch.
    """
    parents: list[int] = []
    for member in active:
        for _ in range(attempts):
            if len(parents) >= free:
                return parents
            if branches(draw(), probability(member)):
                parents.append(member)
    return parents


def branches(drawn: float, probability: float) -> bool:
    """Whether a draw from [0, 1) comes out as a branch: never at probability 0, always at 1."""
    return probability > 0 and drawn <= probability
