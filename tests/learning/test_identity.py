"""A model that begins from random weights learns to say the word that it is shown."""

import statistics
from typing import Any

from helpers import WORDS, WordEnv, any_word, run, small_llama

from agent_gym.engines.base import Sampling
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.rollout.chat import TemplateChat
from agent_gym.rollout.collect import Collector
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trainers.warmstart import CloneSettings, clone

STEPS = 50


def test_grpo_learns_the_identity_from_chance(tokenizer: Any) -> None:
    chat, model = TemplateChat(tokenizer), small_llama(len(tokenizer))
    clone(model, any_word(chat), CloneSettings(epochs=100, batch_size=16, learning_rate=1e-2, warmup_steps=5), seed=0)
    engine = TransformersEngine(model, tokenizer)
    collector = Collector(WordEnv, engine, chat, EpisodeSettings(Sampling(max_tokens=6)), concurrency=64)
    algorithm = grpo(group_size=8)
    learner = Learner(model, algorithm, UpdateSettings(learning_rate=1e-3, updates_per_step=2))
    rewards = []
    for step in range(STEPS):
        groups = run(algorithm.rollout.collect(collector, [*WORDS] * 2, seed=step, prefix="", on_episode=None))
        rewards.append(statistics.fmean(member.reward for group in groups for member in group.valid))
        learner.learn(groups, Progress(step, STEPS))
        run(engine.sync())
    assert statistics.fmean(rewards[:2]) < 0.4
    assert statistics.fmean(rewards[-5:]) > 0.9
