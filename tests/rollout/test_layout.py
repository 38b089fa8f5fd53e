"""The layout "turn": each turn has a prompt of its own, which shows the last turns, and is a row of its own."""

import random
from typing import Any

import torch
from helpers import CountEnv, RecordingEngine, run

from agent_gym.engines.base import Sampling
from agent_gym.engines.scripted import END, ScriptedEngine
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.chat import ByteChat, TemplateChat
from agent_gym.rollout.episode import Episode, EpisodeSettings, episode_settings
from agent_gym.rollout.player import Move, play
from agent_gym.sections import RolloutSection
from agent_gym.trainers.batch import make_batch
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trajectory import Trajectory


def settings(window: int, **values: Any) -> EpisodeSettings:
    return EpisodeSettings(Sampling(max_tokens=9), window=window, **values)


def prompts(trajectory: Trajectory) -> list[str]:
    """Return the text that each turn was generated from, in the order of the turns."""
    rows = [trajectory.token_ids[turn.context_start : turn.start] for turn in trajectory.turns]
    assert all(row[-1] == END for row in rows)
    return [ByteChat().decode(row[:-1]) for row in rows]


def test_each_prompt_shows_the_beginning_the_last_turns_and_the_present() -> None:
    chat, answers = ByteChat(), ["up", "fly", "hop", "up"]
    # Each prompt is the first of its session, so that a list would be begun anew each time.
    engine = RecordingEngine(ScriptedEngine(lambda text: answers.pop(0)))
    trajectory = run(Episode(CountEnv(max_turns=4), engine, chat, settings(2), "count 2").run())
    seen = prompts(trajectory)
    first, *_ = observations = [turn.observation for turn in trajectory.turns]
    assert seen[0] == first
    assert seen[1] == f"{first}\nTurns so far: 1.\nAction 1: up\nNow: {observations[1]}"
    assert seen[3] == (
        f"{first}\nTurns so far: 3.\nObservation 2: {observations[1]}\nAction 2: fly\n"
        f"Observation 3: {observations[2]}\nAction 3: hop\nNow: {observations[3]}"
    )
    assert [prompt for prompt, _ in engine.calls] == [
        trajectory.token_ids[turn.context_start : turn.start] for turn in trajectory.turns
    ]


def test_a_window_of_0_shows_no_earlier_turn() -> None:
    trajectory = run(Episode(CountEnv(max_turns=3), ScriptedEngine(["up"]), ByteChat(), settings(0), "count 2").run())
    assert "Action" not in prompts(trajectory)[2] and "Turns so far: 2." in prompts(trajectory)[2]


def test_the_length_of_a_prompt_does_not_grow_with_the_number_of_turns() -> None:
    env = CountEnv(max_turns=60)
    trajectory = run(Episode(env, ScriptedEngine(["down"]), ByteChat(), settings(2), "count 2").run())
    lengths = [turn.end - turn.context_start for turn in trajectory.turns]
    assert len(lengths) == 60 and max(lengths[30:]) <= max(lengths[5:30]) + 8


@torch.no_grad()
def test_rows_are_scored_by_the_trainer_as_the_engine_scored_them(tokenizer: Any, model: Any) -> None:
    engine, chat = TransformersEngine(model, tokenizer), TemplateChat(tokenizer)
    made = [run(Episode(CountEnv(max_turns=3 + n), engine, chat, settings(1), seed=n).run()) for n in range(2)]
    assert not any(trajectory.error for trajectory in made) and not engine._sessions
    batch = make_batch(made, [0.0, 1.0], [0, 0])
    assert batch.trajectories.tolist() == [0] * len(made[0].turns) + [1] * len(made[1].turns)
    logprobs, entropies = TokenScorer(model.eval())(batch.input_ids, batch.mask)
    assert batch.mask.sum() > 10
    torch.testing.assert_close(logprobs, batch.old_logprobs, atol=1e-4, rtol=0)
    torch.testing.assert_close(entropies, batch.entropies, atol=1e-4, rtol=0)


def test_the_limit_of_tokens_is_one_of_the_prompt() -> None:
    env = CountEnv(max_turns=30)
    episode = Episode(env, ScriptedEngine(["down"]), ByteChat(), settings(1, max_tokens=400), "count 2")
    trajectory = run(episode.run())
    assert len(trajectory.token_ids) > 400 and trajectory.metadata["truncated_by"] == "turns"


def test_a_branch_goes_on_from_the_same_prompt(tokenizer: Any, model: Any) -> None:
    engine, chat = TransformersEngine(model, tokenizer), TemplateChat(tokenizer)

    async def scene() -> tuple[Trajectory, Trajectory]:
        parent = Episode(CountEnv(max_turns=4), engine, chat, settings(1), seed=3)
        await parent.start()
        await parent.take_turn()
        child = await parent.fork()
        return await parent.run(), await child.run()

    parent, child = run(scene())
    assert child.token_ids == parent.token_ids
    assert [turn.context_start for turn in child.turns] == [turn.context_start for turn in parent.turns]


def test_demonstrations_have_the_prompts_of_episodes() -> None:
    def up(env: Any, observation: str, info: Any, rng: random.Random) -> Any:
        while True:
            yield Move("up")

    env, chat = CountEnv(max_turns=4), ByteChat()
    shown = play(env, up, chat, syntax("plain"), settings(2), seed=3, task_id="count 3")
    acted = run(Episode(CountEnv(max_turns=4), ScriptedEngine(["up"]), chat, settings(2), "count 3", 3).run())
    assert prompts(shown) == prompts(acted)
    assert [(turn.context_start, turn.start) for turn in shown.turns] == [
        (turn.context_start, turn.start) for turn in acted.turns
    ]


def test_the_configuration_chooses_the_layout() -> None:
    assert episode_settings(RolloutSection(layout="turn", window=3), 1.0).window == 3
    assert episode_settings(RolloutSection(), 1.0).window is None
