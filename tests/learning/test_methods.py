"""Each paper's method, with its defaults, teaches a model with random weights to answer two questions in a row."""

import copy
import itertools
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import pytest
from helpers import WORDS, run, small_llama

from agent_gym.engines.base import Sampling
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.env import State, Task, TextEnv
from agent_gym.rollout.chat import TemplateChat
from agent_gym.rollout.collect import Collector
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trainers.warmstart import CloneSettings, clone
from agent_gym.trajectory import Trajectory

STEPS = 12


class TwoWords(TextEnv):
    """Shows a word, then another; saying the word that is shown is worth a half each time."""

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(f"{one} {WORDS[(number + 1) % 4]}", split) for number, one in enumerate(WORDS)]

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        self.left, self.right = task.id.split(), 0
        return f"say {self.left[0]}", State(goal="repeat")

    def _act(self, action: str) -> tuple[str, State]:
        right = action == self.left.pop(0)
        self.right += right
        observation = f"say {self.left[0]}" if self.left else "done"
        ended = not self.left
        return observation, State("repeat", reward=right / 2, terminated=ended, success=ended and self.right == 2)

    def _copy(self) -> Self:
        twin = copy.copy(self)
        twin.left = [*self.left]
        return twin


def some_words(chat: TemplateChat) -> list[Trajectory]:
    """Return demonstrations of answering with some word each time, right or wrong alike."""
    made = []
    for number, (shown, said) in enumerate(itertools.product(WORDS, WORDS)):
        trajectory = Trajectory(shown)
        trajectory.append_context(chat.begin(f"say {shown}"))
        for answer, following in ((said, WORDS[number // 2 % 4]), (WORDS[(number + number // 4) % 4], None)):
            ids = chat.answer(answer)
            trajectory.append_action(ids, [0.0] * len(ids), [0.0] * len(ids))
            if following:
                trajectory.append_context(chat.extend(f"say {following}", ended=True))
        made.append(trajectory)
    return made


@pytest.mark.parametrize(
    ("name", "layout"),
    [("arpo", "trajectory"), ("aepo", "trajectory"), ("epo+empg+spear", "trajectory"), ("gigpo+epo+spear", "turn")],
)
def test_a_method_learns_from_chance(tokenizer: Any, name: str, layout: str) -> None:
    chat, model = TemplateChat(tokenizer), small_llama(len(tokenizer))
    clone(model, some_words(chat), CloneSettings(epochs=60, batch_size=16, learning_rate=1e-2, warmup_steps=5), seed=0)
    engine = TransformersEngine(model, tokenizer)
    settings = EpisodeSettings(Sampling(max_tokens=6))
    settings = replace(settings, window=1) if layout == "turn" else settings
    collector = Collector(TwoWords, engine, chat, settings, concurrency=64)
    options = {"warmup": 8, "tool_reward": "none", "normalize_replay": True} if "spear" in name else {}
    algorithm = make_algorithm(name, options)
    learner = Learner(model, algorithm, UpdateSettings(learning_rate=2e-3, updates_per_step=2))
    tasks = [task.id for task in TwoWords().tasks("train")] * 2
    rewards = []
    for step in range(STEPS):
        groups = run(algorithm.rollout.collect(collector, tasks, seed=step, prefix=f"{step}/", on_episode=None))
        rewards.append(statistics.fmean(member.reward for group in groups for member in group.valid))
        learner.learn(groups, Progress(step, STEPS))
        run(engine.sync())
    collector.close()
    # 64 episodes a step: chance moves their mean by 0.04.
    assert statistics.fmean(rewards[-3:]) > statistics.fmean(rewards[:2]) + 0.1, rewards
