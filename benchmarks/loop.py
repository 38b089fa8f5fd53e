"""Measures the agent loop: microseconds a turn around two lengths of episode, with everything recorded.

The model is scripted and the environment trivial, so that what is left is the loop itself: rendering, bookkeeping,
scheduling. It must not grow with the length of the episode.
"""

import asyncio
import gc
import random
import time
from collections.abc import Sequence
from typing import Any, Self

from agent_gym.engines.base import Completion, Engine, Sampling
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.engines.tiny import train_tokenizer
from agent_gym.env import State, Task, TextEnv
from agent_gym.rollout.chat import ByteChat, Chat, TemplateChat
from agent_gym.rollout.episode import Episode, EpisodeSettings

EPISODES = 64
WINDOW = 20
REPEATS = 5
OBSERVATION = "You arrive at cabinet {}. On the cabinet {}, you see a mug 2."


class TrivialEnv(TextEnv):
    """Every action is right and nothing ends."""

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the only task."""
        return [Task("only", split)]

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        return self._act("")

    def _act(self, action: str) -> tuple[str, State]:
        number = self.turn % 20
        return OBSERVATION.format(number, number), State(goal="none", admissible=lambda: ["go on"])

    def _copy(self) -> Self:
        raise NotImplementedError


class FixedEngine(Engine):
    """Answers with the same token ids each time."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.token_ids = list(token_ids)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        """Return the answer."""
        zeros = [0.0] * len(self.token_ids)
        return Completion(list(self.token_ids), zeros, list(zeros), "stop")


def main() -> None:
    """Print one line a chat: the best of some repeats, around turn 50 and around turn 800."""
    tokenizer = train_tokenizer([OBSERVATION.format(i, i) + " go to cabinet " + str(i) for i in range(20)] * 4)
    template = TemplateChat(tokenizer, system_prompt="Solve the task.")
    kinds: list[tuple[str, Chat, Engine]] = [
        ("bytes", ByteChat(), ScriptedEngine(["go to cabinet 1"])),
        ("template, tiny tokenizer", template, FixedEngine(template.answer("go to cabinet 1"))),
    ]
    for name, chat, engine in kinds:
        early, late = zip(*(asyncio.run(measure(chat, engine)) for _ in range(REPEATS)), strict=True)
        print(f"{name:26} turn 50: {min(early):6.1f} us    turn 800: {min(late):6.1f} us")


async def measure(chat: Chat, engine: Engine) -> tuple[float, float]:
    """Return the microseconds a turn around turn 50 and around turn 800."""
    settings = EpisodeSettings(Sampling(max_tokens=64))
    episodes = [Episode(TrivialEnv(max_turns=10**6), engine, chat, settings, seed=seed) for seed in range(EPISODES)]
    for episode in episodes:
        await episode.start()
    gc.collect()
    await play(episodes, 50 - WINDOW // 2)
    early = await timed(episodes)
    await play(episodes, 800 - 50 - WINDOW)
    late = await timed(episodes)
    assert all(len(episode.trajectory.turns) == 800 + WINDOW // 2 for episode in episodes)
    return early, late


async def timed(episodes: Sequence[Episode]) -> float:
    """Play a window of turns; return the microseconds that one took."""
    started = time.perf_counter()
    await play(episodes, WINDOW)
    return 1e6 * (time.perf_counter() - started) / (WINDOW * len(episodes))


async def play(episodes: Sequence[Episode], turns: int) -> None:
    """Take turns in all episodes, in flight together."""

    async def one(episode: Episode) -> None:
        for _ in range(turns):
            await episode.take_turn()
            await asyncio.sleep(0)

    await asyncio.gather(*map(one, episodes))


if __name__ == "__main__":
    main()
