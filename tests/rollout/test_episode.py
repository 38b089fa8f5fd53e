"""Episodes: tokens exactly as the engine received and returned them, forks, failures, truncation."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers import CountEnv, RecordingEngine, WordEnv, run, small_llama

from agent_gym.engines.base import Completion, Sampling, Usage
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.rollout.actions import tagged
from agent_gym.rollout.chat import ByteChat, TemplateChat
from agent_gym.rollout.episode import Episode, EpisodeSettings
from agent_gym.trainers.batch import make_batch
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trajectory import Trajectory

LONG = EpisodeSettings(Sampling(max_tokens=99))


class LossyChat(TemplateChat):
    """Its text says less than its tokens: encoding what it decoded would give other tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return "up" if sum(token_ids) % 2 else "down"


def scripted(answers: Any, settings: EpisodeSettings = LONG, env: Any = None, **values: Any) -> Episode:
    return Episode(env or CountEnv(), ScriptedEngine(answers), ByteChat(), settings, **values)


def text_of(trajectory: Trajectory) -> str:
    return ByteChat().decode(trajectory.token_ids)


# -- the record --------------------------------------------------------------------------------------------------------


def test_an_episode_is_recorded_turn_by_turn() -> None:
    trajectory = run(scripted(["up", "fly", "up", "up"], task_id="count 2", seed=4).run())
    assert (trajectory.task_id, trajectory.goal, trajectory.seed) == ("count 2", "count to 3", 4)
    assert [turn.action for turn in trajectory.turns] == ["up", "fly", "up", "up"]
    assert [turn.invalid_action for turn in trajectory.turns] == [False, True, False, False]
    assert [turn.reward for turn in trajectory.turns] == [0, 0, 0, 1]
    assert (trajectory.success, trajectory.score, trajectory.reward) == (True, 1.0, 1.0)
    assert (trajectory.terminated, trajectory.truncated, trajectory.error) == (True, False, None)
    assert trajectory.final_observation.startswith("the number is 3")
    env = CountEnv()
    seen = [env.reset(seed=4, options={"task": "count 2"})[0], *(env.step(a)[0] for a in ("up", "fly", "up"))]
    assert [turn.observation for turn in trajectory.turns] == seen


def test_generated_tokens_and_nothing_else_have_mask_1() -> None:
    trajectory = run(scripted(["up"]).run())
    for position, mask in enumerate(trajectory.action_mask):
        assert mask == any(turn.start <= position < turn.end for turn in trajectory.turns)
    for turn in trajectory.turns:
        assert ByteChat().decode(trajectory.token_ids[turn.start : turn.end]) == turn.text == "up"


@pytest.mark.parametrize(
    "costs, sum_of", [([1.0, 2.0, 4.0], "7.0"), ([1.0, None, 4.0], None), ([None, 2.0, 4.0], None)]
)
def test_an_episode_costs_what_its_turns_cost_where_that_is_known_of_all(
    costs: list[float | None], sum_of: str | None
) -> None:
    left = iter(costs)

    class Paid(ScriptedEngine):
        async def generate(self, *values: Any) -> Completion:
            completion = await super().generate(*values)
            completion.usage = Usage(1, 1, next(left))
            return completion

    episode = Episode(CountEnv(), Paid(["up"] * 3), ByteChat(), LONG, "count 0", 7)
    assert len(run(episode.run()).turns) == 3 and episode.trajectory.metadata.get("cost") == sum_of


@pytest.mark.parametrize("chat_class", [TemplateChat, LossyChat])
def test_tokens_are_exactly_what_the_engine_received_and_returned(
    tokenizer: Any, model: Any, chat_class: type[TemplateChat]
) -> None:
    engine = RecordingEngine(TransformersEngine(model, tokenizer))
    chat = chat_class(tokenizer)
    trajectory = run(Episode(CountEnv(max_turns=6), engine, chat, EpisodeSettings(Sampling(5)), seed=3).run())
    assert trajectory.error is None and len(trajectory.turns) == len(engine.calls) > 1
    for turn, (prompt, completion) in zip(trajectory.turns, engine.calls, strict=True):
        assert trajectory.token_ids[: turn.start] == prompt
        assert trajectory.token_ids[turn.start : turn.end] == completion.token_ids
        assert trajectory.logprobs[turn.start : turn.end] == completion.logprobs
        assert trajectory.entropies[turn.start : turn.end] == completion.entropies
    context = [i for i, mask in enumerate(trajectory.action_mask) if not mask]
    assert all(trajectory.logprobs[i] == trajectory.entropies[i] == 0 for i in context)


@torch.no_grad()
def test_recorded_numbers_equal_those_of_the_trainer_whatever_the_batch_and_its_padding(
    tokenizer: Any, model: Any
) -> None:
    engine, chat = TransformersEngine(model, tokenizer), LossyChat(tokenizer)
    settings = EpisodeSettings(Sampling(6))
    episodes = [Episode(CountEnv(max_turns=2 + seed), engine, chat, settings, seed=seed) for seed in range(4)]
    trajectories = [run(episode.run()) for episode in episodes]
    batch = make_batch(trajectories, [0.0] * 4, [0] * 4)
    scorer = TokenScorer(model.eval())
    logprobs, entropies = scorer(batch.input_ids, batch.mask)
    assert batch.mask.sum() > 20
    torch.testing.assert_close(logprobs, batch.old_logprobs, atol=1e-4, rtol=0)
    torch.testing.assert_close(entropies, batch.entropies, atol=1e-4, rtol=0)
    for row, trajectory in enumerate(trajectories):
        alone = make_batch([trajectory], [0.0], [0])
        own, _ = scorer(alone.input_ids, alone.mask)
        torch.testing.assert_close(own[0], logprobs[row, : own.shape[1]], atol=1e-5, rtol=0)


def test_training_evaluation_and_play_see_the_same_prompt(tokenizer: Any) -> None:
    prompts = []
    for use in range(3):
        engine = RecordingEngine(TransformersEngine(small_llama(len(tokenizer)), tokenizer))
        settings = EpisodeSettings(Sampling(4, temperature=0.0), show_admissible=True, restate_goal=True)
        env = CountEnv(max_turns=4)
        env.reset(seed=use)
        run(Episode(env, engine, TemplateChat(tokenizer, system_prompt="rules"), settings, "count 1", 5).run())
        prompts.append([prompt for prompt, _ in engine.calls])
    assert prompts[0] == prompts[1] == prompts[2] and len(prompts[0]) == 4


def test_the_seed_of_an_episode_decides_everything(tokenizer: Any, model: Any) -> None:
    engine, chat = TransformersEngine(model, tokenizer), TemplateChat(tokenizer)

    def play(**seeds: int) -> Trajectory:
        env, settings = CountEnv(max_turns=3), EpisodeSettings(Sampling(5))
        done: Trajectory = run(Episode(env, engine, chat, settings, **seeds).run())
        return done

    assert play(seed=1).token_ids == play(seed=1).token_ids != play(seed=2).token_ids
    one, two = play(seed=1, env_seed=9), play(seed=2, env_seed=9)
    assert one.turns[0].observation == two.turns[0].observation and one.task_id == two.task_id
    assert one.turns[0].text != two.turns[0].text and one.metadata["env_seed"] == "9"


# -- what the agent is shown -------------------------------------------------------------------------------------------


def test_goal_and_admissible_actions_are_shown_where_the_settings_say_so() -> None:
    settings = EpisodeSettings(Sampling(99), show_admissible=True, restate_goal=True)
    trajectory = run(scripted(["up"], settings).run())
    text = text_of(trajectory)
    assert text.count("Admissible actions: up, down, stop ") == 3 and "up, down, stop 2" in text
    assert text.count("Goal: count to 3.") == 2 and not text[: text.index("Admissible")].count("Goal")
    plain = text_of(run(scripted(["up"]).run()))
    assert "Goal" not in plain and "Admissible" not in plain


def test_admissible_actions_are_not_computed_unless_shown() -> None:
    def never(self: Any) -> Any:
        raise AssertionError("computed")

    class Costly(WordEnv):
        def _state(self, **values: Any) -> Any:
            state = super()._state(**values)
            state.admissible = never.__get__(self)
            return state

    assert run(scripted(["x"], env=Costly()).run()).error is None
    assert "computed" in run(scripted(["x"], EpisodeSettings(show_admissible=True), env=Costly()).run()).error


def test_a_malformed_generation_is_an_invalid_action_and_still_reaches_the_environment() -> None:
    settings = EpisodeSettings(Sampling(99), parse=tagged)
    trajectory = run(scripted(["<action>up", "<action>up</action>", "hm", "<action>stop</action>"], settings).run())
    assert [turn.action for turn in trajectory.turns] == ["up", "up", "", "stop"]
    assert [turn.invalid_action for turn in trajectory.turns] == [True, False, True, False]
    assert trajectory.score == pytest.approx(2 / 3)


def test_an_answer_stopped_by_a_string_is_still_closed_for_the_next_turn(tokenizer: Any, model: Any) -> None:
    chat = TemplateChat(tokenizer)
    engine = RecordingEngine(TransformersEngine(model, tokenizer, stop_token_ids=[]))
    everything = tuple(tokenizer.decode([i]) for i in range(5, len(tokenizer)))
    settings = EpisodeSettings(Sampling(20, stop=everything))
    trajectory = run(Episode(CountEnv(max_turns=3), engine, chat, settings, seed=1).run())
    assert {turn.finish_reason for turn in trajectory.turns} == {"stop"}
    for turn in trajectory.turns[:-1]:
        ended = trajectory.token_ids[turn.end - 1] == tokenizer.eos_token_id
        assert ended or trajectory.token_ids[turn.end] == tokenizer.eos_token_id


# -- ends --------------------------------------------------------------------------------------------------------------


def test_an_environment_that_truncates_is_truncated() -> None:
    trajectory = run(scripted(["down"], env=CountEnv(max_turns=4)).run())
    assert (trajectory.terminated, trajectory.truncated, len(trajectory.turns)) == (False, True, 4)
    assert trajectory.metadata == {"truncated_by": "turns"}
    assert trajectory.final_observation.startswith("the number is -4")


def test_an_episode_ends_before_its_tokens_exceed_the_budget() -> None:
    settings = EpisodeSettings(Sampling(max_tokens=10), max_tokens=100)
    trajectory = run(scripted(["down"], settings).run())
    assert trajectory.truncated and not trajectory.terminated and trajectory.error is None
    assert trajectory.metadata["truncated_by"] == "tokens"
    assert len(trajectory.token_ids) > 100 - 10 and trajectory.turns[-1].end <= 100


def test_the_engines_context_is_a_budget_too(tokenizer: Any, model: Any) -> None:
    engine = TransformersEngine(model, tokenizer)
    env = CountEnv(max_turns=1000)
    trajectory = run(Episode(env, engine, LossyChat(tokenizer), EpisodeSettings(Sampling(8)), seed=0).run())
    assert trajectory.error is None
    assert trajectory.success or trajectory.metadata["truncated_by"] == "tokens"


def test_a_failure_of_the_environment_is_recorded_and_the_session_closed() -> None:
    episode = scripted(["up", "crash"])
    trajectory = run(episode.run())
    assert trajectory.error == "RuntimeError: the environment broke"
    assert len(trajectory.turns) == 2 and not trajectory.success
    assert episode._session is not None and episode._session.closed


def test_an_unknown_task_is_a_failed_episode() -> None:
    assert "Unknown task 'nothing'" in run(scripted(["up"], task_id="nothing").run()).error


# -- forks -------------------------------------------------------------------------------------------------------------


def test_parent_and_child_share_the_prefix_and_then_do_not_disturb_each_other(tokenizer: Any, model: Any) -> None:
    engine, chat = TransformersEngine(model, tokenizer), TemplateChat(tokenizer)
    alone = run(Episode(CountEnv(max_turns=9), engine, chat, EpisodeSettings(Sampling(6)), seed=3).run())

    async def scene() -> tuple[Trajectory, Trajectory, int]:
        parent = Episode(CountEnv(max_turns=9), engine, chat, EpisodeSettings(Sampling(6)), seed=3)
        parent.trajectory.id = "parent"
        await parent.start()
        await parent.take_turn()
        await parent.take_turn()
        child = await parent.fork()
        child.seed = 4
        shared = len(parent.trajectory.token_ids)
        # Interleaved, so that each could disturb the other.
        await child.take_turn()
        await parent.take_turn()
        return await parent.run(), await child.run(), shared

    parent, child, shared = run(scene())
    assert parent.token_ids == alone.token_ids
    assert (child.parent_id, child.branch_turn, child.id) == ("parent", 2, "")
    assert (parent.parent_id, parent.branch_turn, parent.id) == (None, None, "parent")
    assert child.token_ids[:shared] == parent.token_ids[:shared] and child.logprobs[:shared] == parent.logprobs[:shared]
    assert child.token_ids[shared:] != parent.token_ids[shared:]
    assert len(child.turns) == len(parent.turns) == 9
    assert child.turns[0].text == parent.turns[0].text and child.turns[0] is not parent.turns[0]
    batch = make_batch([parent, child], [0, 0], [0, 0])
    logprobs, _ = TokenScorer(model.eval())(batch.input_ids, batch.mask)
    torch.testing.assert_close(logprobs, batch.old_logprobs, atol=1e-4, rtol=0)
    assert not engine._sessions


def test_a_fork_with_the_same_seed_repeats_its_parent(tokenizer: Any, model: Any) -> None:
    engine, chat = TransformersEngine(model, tokenizer), TemplateChat(tokenizer)

    async def scene() -> tuple[Trajectory, Trajectory]:
        parent = Episode(CountEnv(max_turns=5), engine, chat, EpisodeSettings(Sampling(6)), seed=3)
        await parent.start()
        await parent.take_turn()
        child = await parent.fork()
        return await parent.run(), await child.run()

    parent, child = run(scene())
    assert child.token_ids == parent.token_ids


@pytest.mark.parametrize("window", [None, 0, 2])
def test_a_fork_of_what_is_proposed_and_not_applied_has_not_proposed_it(
    tokenizer: Any, model: Any, window: int | None
) -> None:
    engine, chat = TransformersEngine(model.eval(), tokenizer), TemplateChat(tokenizer)
    settings = EpisodeSettings(Sampling(6), window=window)

    async def scene() -> tuple[Trajectory, Trajectory, Trajectory]:
        parent = Episode(CountEnv(max_turns=5), engine, chat, settings, seed=3)
        await parent.start()
        await parent.take_turn()
        assert await parent.propose()
        proposed = parent.trajectory.turns[-1]
        twin, other = await parent.fork(), parent.branch(parent.env.fork(), seed=8)
        for child in (twin.trajectory, other.trajectory):
            assert len(child.turns) == child.branch_turn == 1
            assert len(child.token_ids) == child.branch_offset == proposed.start
        await other.take_turn()
        assert await parent.apply()
        await other.take_turn()
        return await parent.run(), await twin.run(), await other.run()

    parent, twin, other = run(scene())
    # What says the same again has read the same before; a cache that knew what was proposed would say something else.
    assert twin.token_ids == parent.token_ids and twin.logprobs == pytest.approx(parent.logprobs, abs=1e-5)
    assert [turn.observation for turn in twin.turns] == [turn.observation for turn in parent.turns]
    start = parent.turns[1].start
    assert other.token_ids[:start] == parent.token_ids[:start] and other.token_ids != parent.token_ids
    assert (other.seed, len(other.turns)) == (8, 5) and not engine._sessions
    assert [turn.context_start for turn in twin.turns] == [turn.context_start for turn in parent.turns]
