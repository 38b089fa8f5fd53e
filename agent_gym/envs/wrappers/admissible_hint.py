"""Shows the agent what it can do."""

from agent_gym.env import Info, TextEnv
from agent_gym.envs.wrappers.base import TextWrapper


class AdmissibleHint(TextWrapper):
    """Appends the admissible actions to each observation; where the environment lists none, nothing changes.

    Args:
        env: The environment.
        limit: At most so many are shown, the first ones.
    """

    def __init__(self, env: TextEnv, *, limit: int = 60) -> None:
        super().__init__(env)
        self.limit = limit

    def observation(self, observation: str, info: Info) -> str:
        """Return the observation with the hint."""
        admissible = info["admissible_actions"]
        if not admissible:
            return observation
        more = ", ..." if len(admissible) > self.limit else ""
        return f"{observation}\nAdmissible actions: {', '.join(admissible[: self.limit])}{more}"
