"""Puts the last few turns into each observation, for agents that see one observation at a time."""

from collections import deque
from typing import Self

from agent_gym.env import Info, TextEnv
from agent_gym.envs.wrappers.base import TextWrapper


class HistoryWindow(TextWrapper):
    """Shows the last turns above each observation after the first.

    An agent whose prompt holds one observation only (one training row a turn, as in EPO and GiGPO) needs it; one that
    reads the whole conversation does not.

    Args:
        env: The environment.
        turns: How many of the last turns are shown (at least 1).

    Raises:
        ValueError: `turns` is below 1.
    """

    def __init__(self, env: TextEnv, *, turns: int = 2) -> None:
        super().__init__(env)
        if turns < 1:
            raise ValueError(f"A history window must hold at least 1 turn, not {turns}.")
        self.turns = turns
        self._past: deque[tuple[str, str]] = deque(maxlen=turns)
        """Observations and the actions that answered them."""
        self._action = ""
        self._before = ""

    def action(self, action: str) -> str:
        """Remember the action."""
        self._action = action
        return action

    def observation(self, observation: str, info: Info) -> str:
        """Return the observation with the last turns above it."""
        if info["turn"] > 0:
            self._past.append((self._before, self._action))
        self._before = observation
        if not self._past:
            return observation
        number = info["turn"] - len(self._past)
        told = [f"[{number + i}] {seen}\n> {done}" for i, (seen, done) in enumerate(self._past)]
        return "\n".join([f"Goal: {info['goal']}.", "Earlier:", *told, f"[{info['turn']}] {observation}"])

    def _begin(self) -> None:
        self._past.clear()

    def _fork_memory(self, parent: Self) -> None:
        self._past = parent._past.copy()
