"""Sampling that runs ahead: as far as it may, never further, and on weights of one version a turn."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers import small_llama
from sampling_ahead import LIMIT, Watched, sampling, settings, turns
from waiting import until
from wavering import Wavering

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.choice import make_engine
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.rollout.chat import ByteChat, TemplateChat
from agent_gym.sections import EngineSection
from agent_gym.trainers.sampling import Sampler
from agent_gym.trainers.weights import named_weights
from agent_gym.trajectory import Group


@pytest.mark.parametrize("max_lag", [1, 2, 5])
def test_steps_begin_as_early_as_they_may_and_nothing_trained_on_is_older_than_that(max_lag: int) -> None:
    with sampling(max_lag) as sampler:
        watched = sampler.rollout
        for step in range(8):
            groups = sampler.groups(step)
            furthest = min(step + max_lag, 7)
            # All that may be played is played, with no update in between.
            assert watched.ended[furthest].wait(LIMIT)
            assert max(watched.begun) == furthest
            ages = [step - turn.engine_version for turn in turns(groups)]
            assert ages and max(ages) == sampler.metrics()["lag_max"] == min(step, max_lag)
            sampler.updated(None, step + 1)
        assert watched.begun == {step: max(0, step - max_lag) for step in range(8)}


def played(sampler: Sampler, steps: int) -> list[list[int]]:
    groups = [group for step in range(steps) for group in sampler.groups(step)]
    return [member.token_ids for group in groups for member in group.trajectories]


def test_the_episodes_are_those_of_sampling_in_turns() -> None:
    with sampling(2, steps=3) as sampler:
        ahead = played(sampler, 3)
    with Sampler(settings(0, steps=3), Wavering(["up"]), ByteChat(), Watched()) as plain:
        assert played(plain, 3) == ahead


def test_in_turns_nothing_lags_and_versions_count_the_steps_also_after_a_pause() -> None:
    with Sampler(settings(0), Wavering(["up"]), ByteChat(), Watched()) as sampler:
        sampler.updated(None, 5)
        for step in (5, 6):
            assert {turn.engine_version for turn in turns(sampler.groups(step))} == {step}
            assert (sampler.metrics()["lag_mean"], sampler.metrics()["lag_max"]) == (0, 0)
            assert set(sampler.seconds()) == {"rollout"}
            sampler.updated(None, step + 1)
            assert set(sampler.seconds()) == {"rollout", "sync"}


def test_what_a_strategy_says_is_that_of_the_step_and_not_of_the_one_played_last() -> None:
    class Told(Watched):
        def metrics(self) -> dict[str, float]:
            return {"played": float(max(self.begun))}  # type: ignore[attr-defined]

    with sampling(2, rollout=Told()) as sampler:
        for step in range(3):
            sampler.groups(step)
            assert sampler.rollout.ended[step + 2].wait(LIMIT)
            assert sampler.metrics()["played"] == step
            assert set(sampler.seconds()) == {"rollout", "waiting", "sampling_idle"}
            sampler.updated(None, step + 1)
        assert sampler.seconds()["sync"] >= 0


class Paused(TransformersEngine):
    """Begins no turn after the first of an episode before it is told to."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.reached = threading.Event()
        self.go_on = asyncio.Event()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        if session is not None and session.cached:
            self.reached.set()
            await self.go_on.wait()
        return await super().generate(prompt_ids, sampling, session)


def test_an_episode_goes_on_with_new_weights_at_its_next_turn_and_its_numbers_are_those_of_each(
    tokenizer: Any,
) -> None:
    old, new = small_llama(len(tokenizer)), small_llama(len(tokenizer), seed=1)
    trained = small_llama(len(tokenizer))
    engine = Paused(trained, tokenizer, stop_token_ids=[])
    with sampling(1, engine, TemplateChat(tokenizer), steps=1, tasks=1) as sampler:
        result: list[list[Group]] = []
        reader = threading.Thread(target=lambda: result.append(sampler.groups(0)))
        reader.start()
        assert engine.reached.wait(LIMIT)
        sampler.updated(named_weights(new), 1)
        sampler.call(_set(engine.go_on))
        reader.join(LIMIT)
    played = [member for group in result[0] for member in group.trajectories]
    assert played and all(member.error is None for member in played)
    for member in played:
        versions = [turn.engine_version for turn in member.turns]
        assert versions[0] == 0 and set(versions[1:]) == {1} and len(versions) > 1
        for turn in member.turns:
            ids = torch.tensor([member.token_ids[: turn.end]])
            with torch.no_grad():
                logits = (new if turn.engine_version else old)(input_ids=ids).logits[0, turn.start - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, ids[0, turn.start :].unsqueeze(1)).squeeze(1)
            said = torch.tensor(member.logprobs[turn.start : turn.end])
            torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)


async def _set(event: asyncio.Event) -> None:
    event.set()


def test_the_engines_copy_shares_nothing_with_the_model_that_is_trained(tokenizer: Any) -> None:
    model = small_llama(len(tokenizer))
    engine = make_engine(EngineSection(), model=model, tokenizer=tokenizer, max_batch=4, shared=False)
    assert isinstance(engine, TransformersEngine)
    asyncio.run(engine.sync(named_weights(model)))
    # Which attention runs is written into the configuration, while both models run.
    assert engine.model.config is not model.config
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in engine.model.parameters()}
    for name, weight in engine.model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


class Held(Wavering):
    """Keeps its first answer back until it is told to go on; counts what it is asked for at once."""

    def __init__(self) -> None:
        super().__init__(["up"])
        self.go_on, self.holds = asyncio.Event(), False
        self.asked = self.most = 0

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        self.asked += 1
        self.most = max(self.most, self.asked)
        first, self.holds = not self.holds, True
        await (self.go_on.wait() if first else asyncio.sleep(0))
        self.asked -= 1
        return await super().generate(prompt_ids, sampling, session)


class Deciding:
    """A strategy that is asked of its last collection."""

    def __init__(self) -> None:
        self.inner = Watched()
        self.begun: dict[int, int] = self.inner.begun  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("strategy", [Watched, Deciding])
def test_one_long_episode_holds_up_no_other_unless_a_strategy_decides_by_what_has_ended(strategy: Any) -> None:
    engine, rollout = Held(), strategy()
    with (
        sampling(2, engine, rollout=rollout, steps=3, concurrency=2) as sampler,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(sampler.groups, 0)
        if strategy is Watched:
            assert rollout.ended[1].wait(LIMIT) and rollout.ended[2].wait(LIMIT)
        else:
            assert until(lambda: engine.holds and engine.asked == 1)
            assert set(rollout.begun) == {0}
        assert not first.done() and not rollout.ended[0].is_set()
        sampler.call(_set(engine.go_on))
        ahead = [*first.result(LIMIT), *sampler.groups(1), *sampler.groups(2)]
        assert engine.most == 2
        assert set(rollout.begun.values()) == {0} and sampler.seconds()["sampling_idle"] >= 0
    with Sampler(settings(0, steps=3), Wavering(["up"]), ByteChat(), Watched()) as plain:
        expected = [group for step in range(3) for group in plain.groups(step)]
    assert [[m.token_ids for m in g.trajectories] for g in ahead] == [
        [m.token_ids for m in g.trajectories] for g in expected
    ]
