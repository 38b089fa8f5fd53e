"""Behaviour cloning: right demonstrations, what is cloned in them, and a loss that falls."""

import copy
from typing import Any

import pytest
import torch
from helpers import WORDS, CountEnv, WordEnv, run, small_llama

from agent_gym.engines.base import Sampling
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.envs.alfworld import AlfworldEnv
from agent_gym.errors import ConfigError, TrainingError
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.chat import ByteChat, TemplateChat
from agent_gym.rollout.episode import Episode, EpisodeSettings
from agent_gym.trainers.warmstart import CloneSettings, DemonstrationSettings, clone, demonstrations
from agent_gym.trajectory import Trajectory

PLAIN = syntax("plain")


class Mixed(CountEnv):
    """What others say is often wrong here: the way to 3 is called up or left, depending on the task."""

    def _act(self, action: str) -> Any:
        assert self.task is not None
        right, wrong = ("left", "up") if self.task.id[-1] in "13" else ("up", "left")
        return super()._act({right: "up", wrong: "nonsense"}.get(action, action))

    def expert(self) -> Any:
        assert self.task is not None
        return iter(["left"] * 3 if self.task.id[-1] in "13" else ["up"] * 3)


def demonstrate(
    env: Any, chat: Any = None, seed: int = 0, episode: EpisodeSettings | None = None, **values: Any
) -> list[Trajectory]:
    settings = DemonstrationSettings(**{"count": 20, **values})
    return list(demonstrations(env, chat or ByteChat(), PLAIN, episode or EpisodeSettings(), settings, seed=seed))


def test_demonstrations_are_solved_and_their_tokens_are_those_of_an_episode(tokenizer: Any) -> None:
    chat = TemplateChat(tokenizer, system_prompt="rules")
    settings = EpisodeSettings(restate_goal=True, show_admissible=True)
    made = demonstrate(CountEnv(), chat, episode=settings)
    assert len(made) == 20 and all(trajectory.success and trajectory.reward == 1 for trajectory in made)
    for trajectory in made:
        for turn in trajectory.turns:
            assert trajectory.token_ids[turn.start : turn.end] == list(chat.answer(turn.action))
            assert all(trajectory.action_mask[turn.start : turn.end]) and not turn.invalid_action
        assert sum(trajectory.action_mask) == sum(turn.end - turn.start for turn in trajectory.turns)
        assert trajectory.token_ids[: trajectory.turns[0].start] == list(
            chat.begin(trajectory.turns[0].observation + "\nAdmissible actions: up, down, stop 0")
        )


def test_the_seed_decides_the_demonstrations() -> None:
    one, two, other = (demonstrate(Mixed(), seed=seed, mistakes=0.5) for seed in (1, 1, 2))
    assert [t.token_ids for t in one] == [t.token_ids for t in two] != [t.token_ids for t in other]


def test_mistakes_are_marked_invalid_and_not_cloned() -> None:
    made = demonstrate(Mixed(), mistakes=0.4, count=60)
    turns = [(trajectory, turn) for trajectory in made for turn in trajectory.turns]
    wrong = [(trajectory, turn) for trajectory, turn in turns if turn.invalid_action]
    assert all(trajectory.success for trajectory in made) and len(wrong) > 10
    for trajectory, turn in turns:
        kept = set(trajectory.action_mask[turn.start : turn.end])
        assert kept == ({0} if turn.invalid_action else {1})


def test_without_mistakes_there_are_none() -> None:
    assert not any(turn.invalid_action for trajectory in demonstrate(Mixed()) for turn in trajectory.turns)


def test_failures_are_left_out_unless_they_are_asked_for() -> None:
    assert demonstrate(CountEnv(max_turns=2)) == []
    kept = demonstrate(CountEnv(max_turns=2), keep_failures=True)
    assert len(kept) == 20 and all(trajectory.truncated and len(trajectory.turns) == 2 for trajectory in kept)


def test_an_environment_without_a_demonstrator_says_so() -> None:
    class Clueless(CountEnv):
        def expert(self) -> None:
            return None

    with pytest.raises(ConfigError, match="Clueless has no demonstrator"):
        demonstrate(Clueless())


@pytest.mark.parametrize("observation_weight", [0.0, 0.1])
def test_cloning_lowers_the_loss_until_the_clone_acts_like_the_demonstrator(
    tokenizer: Any, model: Any, observation_weight: float
) -> None:
    chat, losses = TemplateChat(tokenizer), []
    made = demonstrate(WordEnv(), chat, count=40)
    settings = CloneSettings(epochs=8, learning_rate=1e-2, warmup_steps=5, observation_weight=observation_weight)
    last = clone(model, made, settings, seed=0, on_step=lambda step, steps, loss: losses.append((step, steps, loss)))
    assert [step for step, _, _ in losses] == list(range(1, 81)) and {steps for _, steps, _ in losses} == {80}
    if not observation_weight:
        assert last < 0.1 < 1 < losses[0][2]
    engine = TransformersEngine(model.eval(), tokenizer)
    greedy = EpisodeSettings(Sampling(max_tokens=6, temperature=0.0))
    for word in WORDS:
        assert run(Episode(WordEnv(), engine, chat, greedy, word).run()).success


def test_observations_do_not_count_unless_they_have_a_weight(tokenizer: Any) -> None:
    made = demonstrate(WordEnv(), TemplateChat(tokenizer), count=8)
    settings = CloneSettings(batch_size=8, learning_rate=1e-9)
    spoilt = copy.deepcopy(made)
    for trajectory in spoilt:
        trajectory.append_context([7, 8, 9])
    one, two = (clone(small_llama(len(tokenizer)), part, settings, seed=0) for part in (made, spoilt))
    assert one == pytest.approx(two, abs=1e-6)
    weighted = CloneSettings(batch_size=8, learning_rate=1e-9, observation_weight=1.0)
    assert clone(small_llama(len(tokenizer)), made, weighted, seed=0) > one + 1


def test_cloning_is_repeatable_and_nothing_is_an_error(tokenizer: Any) -> None:
    made = demonstrate(WordEnv(), TemplateChat(tokenizer), count=12)
    models = [small_llama(len(tokenizer)) for _ in range(2)]
    for model in models:
        clone(model, made, CloneSettings(), seed=3)
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(TrainingError, match="no demonstrations"):
        clone(models[0], [], CloneSettings(), seed=0)


def test_distractions_are_put_in_and_cloned(tokenizer: Any) -> None:
    env = AlfworldEnv(size="tiny")
    settings = DemonstrationSettings(count=20, distractions=("look",), distracted=0.5)
    played = list(demonstrations(env, TemplateChat(tokenizer), syntax("plain"), EpisodeSettings(), settings, seed=0))
    turns = [turn for trajectory in played for turn in trajectory.turns]
    looks = [turn for turn in turns if turn.action == "look"]
    assert 0.35 < len(looks) / len(turns) < 0.65
    cloned = [trajectory.action_mask[turn.start] for trajectory in played for turn in trajectory.turns]
    assert set(cloned) == {1}
