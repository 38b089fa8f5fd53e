"""Whether an engine holds the weights that it was given: sums over all of them, on both sides.

An engine that takes weights from outside may say yes and keep its old ones. Log-probabilities of a few tokens do not
show it where an update is small; sums over all weights do.
"""

import logging
import math
from collections.abc import Sequence

from agent_gym.engines.inside_vllm.agent_gym_fingerprint import WeightSums, model_sums, tensor_sums
from agent_gym.errors import EngineError

__all__ = ["Arrival", "WeightSums", "model_sums", "same", "tensor_sums"]

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-12
"""What the order of additions in float64 may change, as a share; 1e9 weights that each move by a millionth of
themselves, up or down by chance, move the sums by 3e-11 of their scale."""


def same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two fingerprints are of the same weights.

    Args:
        one: Sum, sum of squares and number of elements; zeros that one side has put in count for nothing.
        other: The same.
    """
    squares = max(one[1], other[1])
    # The sum of magnitudes is no more than this (Cauchy and Schwarz).
    scales = math.sqrt(squares * max(one[2], other[2])), squares
    return all(
        a == b or abs(a - b) <= _TOLERANCE * scale or (math.isnan(a) and math.isnan(b))
        for a, b, scale in zip(one, other, scales, strict=False)
    )


class Arrival:
    """Compares what an engine was given with what it holds, each time that it gets weights.

    Some engines change weights as they load them, or hold them several times over (processes that share layers): then
    the two differ from the beginning, and what is asked of the engine is that its weights change whenever those that
    it is given do.

    Args:
        name: What errors call the engine.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._comparable = False
        self._before: tuple[list[float], list[float]] | None = None

    def check(self, given: Sequence[float], held: Sequence[float]) -> None:
        """Compare fingerprints after weights were handed over.

        Args:
            given: Of what was given, in the engine's type.
            held: Of what the engine has.

        Raises:
            EngineError: It does not have what it was given.
        """
        equal = same(given, held)
        before, self._before = self._before, (list(given), list(held))
        if equal:
            self._comparable = True
            return
        stale = before is not None and not same(given, before[0]) and list(held[:2]) == before[1][:2]
        if self._comparable or stale:
            raise EngineError(
                f"{self._name} has taken new weights and does not hold them: its sum is {held[0]:.15g} and not "
                f"{given[0]:.15g}, that of squares {held[1]:.15g} and not {given[1]:.15g}; see its log, restart it, or "
                "hand the weights over in another way (engine.sync)."
            )
        if before is None:
            logger.info("%s holds weights in another form than they come in: only changes are compared.", self._name)
