"""The ScienceWorld task of `benchmarks/methods.py`, with a demonstrator who is quick.

The simulator's own solution takes seconds of Java for each variation, and walks. This one reads what is asked,
teleports to the room with the box, and takes something from there that has never lived.
"""

import random
import re
from collections.abc import Generator

from agent_gym.envs.scienceworld.env import ScienceWorldEnv

_ASKED = re.compile(r"the (\w+) box in the ([\w ]+?)\.")
_THINGS = ("finger painting", "painting", "picture", "drawing", "glass cup", "battery", "chair")
"""Things that do not live and can be moved, the ones that most rooms have first."""


class Errand(ScienceWorldEnv):
    """Focus on something that does not live, then move it to a box of some colour: "find-non-living-thing".

    Four turns do: teleport, look around, focus, move. To focus on something that lives ends the episode.
    """

    def demonstrate(self, observation: str, rng: random.Random) -> Generator[str, str, object] | None:
        """Return a policy that does so."""
        asked = _ASKED.search(observation)
        return _errand(asked[1], asked[2]) if asked else None


def _errand(colour: str, room: str) -> Generator[str, str, object]:
    yield f"teleport to {room}"
    seen = yield "look around"
    thing = next((name for name in _THINGS if name in seen), "air")
    yield f"focus on {thing}"
    yield f"move {thing} to {colour} box"
