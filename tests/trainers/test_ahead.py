"""Sampling that runs ahead: as far as it may, never further, on weights of one version a turn, and easy to end."""

import asyncio
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import any_word, small_llama
from small_envs import CountEnv, WordEnv
from wavering import Wavering

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.base import Completion, Engine, Sampling
from agent_gym.engines.choice import make_engine
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import EngineError, StoreError
from agent_gym.rollout.chat import ByteChat, Chat, TemplateChat
from agent_gym.sections import EngineSection
from agent_gym.store.run import RunFolder
from agent_gym.trainers.ahead import AheadSampler
from agent_gym.trainers.algorithm import IndependentRollouts, Progress
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.listening import Silence
from agent_gym.trainers.sampling import Sampler
from agent_gym.trainers.trainer import train
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trainers.warmstart import CloneSettings, clone
from agent_gym.trainers.weights import named_weights
from agent_gym.trajectory import Group, Turn

LIMIT = 20.0
"""Seconds after which a test that waits for another thread has failed."""


class Watched(IndependentRollouts):
    """Notes with which weights each step began, and lets tests wait for its end."""

    def __init__(self) -> None:
        super().__init__(2)
        object.__setattr__(self, "begun", {})
        object.__setattr__(self, "ended", [threading.Event() for _ in range(20)])

    async def collect(self, collector: Any, *arguments: Any, **values: Any) -> list[Group]:
        step = int(values["prefix"].split("/")[1]) - 1
        self.begun[step] = collector.engine.version  # type: ignore[attr-defined]
        groups = await super().collect(collector, *arguments, **values)
        self.ended[step].set()  # type: ignore[attr-defined]
        return groups


def settings(max_lag: int, *, steps: int = 8, env: type = CountEnv, tasks: int = 2, **rollout: Any) -> TrainConfig:
    return build(
        TrainConfig,
        {
            "env": {"id": f"small_envs:{env.__name__}", "options": {"max_turns": 4}},
            "rollout": {"tasks": tasks, "max_tokens": 8, "max_lag": max_lag, **rollout},
            "steps": steps,
        },
    )


@contextmanager
def sampling(
    max_lag: int, engine: Engine | None = None, chat: Chat | None = None, rollout: Any = None, **values: Any
) -> Iterator[AheadSampler]:
    """Open a sampler; nothing of it may be left when it is closed."""
    rollout = rollout or Watched()
    sampler = AheadSampler(settings(max_lag, **values), engine or Wavering(["up"]), chat or ByteChat(), rollout)
    with sampler:
        sampler.updated(None, 0)
        assert sampling_threads()
        yield sampler
    assert not sampling_threads()


def sampling_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sampling"]


def turns(groups: Sequence[Group]) -> list[Turn]:
    return [turn for group in groups for member in group.trajectories for turn in member.turns]


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


# -- several processes -------------------------------------------------------------------------------------------------


class Side:
    """One of two processes, which are threads here; `came` is set when it waits for the other."""

    def __init__(self, barrier: threading.Barrier, met: list[Exception | None], rank: int) -> None:
        self.barrier, self.met, self.rank = barrier, met, rank
        self.came = threading.Event()

    def mine(self, count: int) -> list[int]:
        raise AssertionError

    def gather(self, items: Any) -> list[Any]:
        raise AssertionError

    def agree(self, error: Exception | None) -> None:
        self.met[self.rank] = error
        self.came.set()
        self.barrier.wait()
        first = next(filter(None, self.met), None)
        self.barrier.wait()
        if first is not None:
            raise first


class Pushing(Wavering):
    """Hands weights to servers, slowly, as the first of several processes does."""

    def __init__(self) -> None:
        super().__init__(["up"])
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def sync(self, weights: Any = None) -> None:
        await asyncio.to_thread(self.gate.wait, LIMIT)
        if self.error is not None:
            raise self.error
        await super().sync(weights)


@contextmanager
def two_processes() -> Iterator[tuple[list[AheadSampler], list[Side], Pushing]]:
    """Open the samplers of two processes, of which the first pushes; steps 0 and 1 have been played by the second."""
    barrier, met, pushing = threading.Barrier(2, timeout=LIMIT), [None, None], Pushing()
    sides = [Side(barrier, met, rank) for rank in range(2)]  # type: ignore[arg-type]
    samplers = [
        AheadSampler(settings(1), engine, ByteChat(), Watched(), share=side)
        for engine, side in zip([pushing, Wavering(["up"])], sides, strict=True)
    ]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda sampler: sampler.updated(None, 0), samplers))
        samplers[1].groups(0)
        assert samplers[1].rollout.ended[1].wait(LIMIT)  # type: ignore[attr-defined]
        sides[1].came.clear()
        yield samplers, sides, pushing
    finally:
        for sampler in samplers:
            sampler.close()
    assert not sampling_threads()


def test_no_process_begins_a_step_before_another_has_handed_the_weights_to_the_servers() -> None:
    with two_processes() as (samplers, sides, pushing), ThreadPoolExecutor(2) as pool:
        pushing.gate.clear()
        updates = [pool.submit(sampler.updated, None, 1) for sampler in samplers]
        assert sides[1].came.wait(LIMIT)
        assert max(samplers[1].rollout.begun) == 1  # type: ignore[attr-defined]
        pushing.gate.set()
        for update in updates:
            update.result(LIMIT)
        assert samplers[1].rollout.ended[2].wait(LIMIT)  # type: ignore[attr-defined]
        assert samplers[1].rollout.begun[2] == 1  # type: ignore[attr-defined]


def test_where_one_process_cannot_hand_them_over_no_process_begins_and_all_read_the_weights_to_their_end() -> None:
    with two_processes() as (samplers, _, pushing), ThreadPoolExecutor(2) as pool:
        pushing.error = EngineError("The server does not take them.")
        weights = [iter([("a", torch.zeros(1)), ("b", torch.zeros(1))]) for _ in samplers]
        updates = [pool.submit(sampler.updated, given, 1) for sampler, given in zip(samplers, weights, strict=True)]
        for update in updates:
            with pytest.raises(EngineError, match="does not take them"):
                update.result(LIMIT)
        assert [list(given) for given in weights] == [[], []]
        assert max(samplers[1].rollout.begun) == 1  # type: ignore[attr-defined]


# -- errors and ends ---------------------------------------------------------------------------------------------------


def test_what_fails_while_sampling_ahead_is_raised_where_the_step_is_asked_for() -> None:
    class Failing(Watched):
        async def collect(self, collector: Any, *arguments: Any, **values: Any) -> list[Group]:
            groups = await super().collect(collector, *arguments, **values)
            if values["prefix"] == "train/2/":
                raise EngineError("The server is gone.")
            return groups

    with sampling(2, rollout=Failing()) as sampler:
        assert sampler.groups(0)
        assert sampler.rollout.ended[1].wait(LIMIT)
        with pytest.raises(EngineError, match="The server is gone"):
            sampler.groups(1)


def test_weights_that_do_not_fit_are_an_error_of_the_trainers(tokenizer: Any) -> None:
    engine = TransformersEngine(small_llama(len(tokenizer)), tokenizer)
    with sampling(1, engine, TemplateChat(tokenizer)) as sampler:
        with pytest.raises(EngineError, match="do not fit"):
            sampler.updated(named_weights(small_llama(8)), 1)
        assert sampler.engine.version == 0


class Silent(Wavering):
    """Never answers, and tells that it was asked."""

    def __init__(self, asked: Callable[[], None]) -> None:
        super().__init__(["up"])
        self.asked = asked

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        self.asked()
        await asyncio.Event().wait()
        raise AssertionError


def test_closing_ends_what_is_being_played_and_its_environments() -> None:
    asked, ended = threading.Event(), threading.Event()

    def wait(sampler: AheadSampler) -> None:
        try:
            sampler.groups(0)
        except CancelledError:
            ended.set()

    with sampling(1, Silent(asked.set)) as sampler:
        waiting = threading.Thread(target=wait, args=(sampler,), daemon=True)
        waiting.start()
        assert asked.wait(LIMIT)
        envs = list(sampler._training._workers._lent.values())  # type: ignore[union-attr]
        assert envs and not any(env.closed for env in envs)  # type: ignore[attr-defined]
        sampler.close()
        waiting.join(LIMIT)
    assert ended.is_set() and all(env.closed for env in envs)  # type: ignore[attr-defined]


def test_ctrl_c_reaches_a_trainer_that_waits_for_episodes() -> None:
    presses = iter(range(1))

    def press() -> None:
        ident = threading.main_thread().ident
        assert ident is not None
        # Once, though several episodes ask: a second one would meet the closing.
        for _ in presses:
            signal.pthread_kill(ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with sampling(1, Silent(press)) as sampler, pytest.raises(KeyboardInterrupt):
            sampler.groups(0)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_sampler_that_never_sampled_leaves_no_thread() -> None:
    with AheadSampler(settings(1), Wavering(["up"]), ByteChat(), Watched()):
        pass
    assert not sampling_threads()


# -- whole runs --------------------------------------------------------------------------------------------------------


def config(**changes: Any) -> TrainConfig:
    """Return the configuration of a run of five steps."""
    small = {
        "env": {"id": "small_envs:CountEnv", "options": {"max_turns": 3}},
        "model": {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 32, "vocabulary": 600},
        "warm_start": {"episodes": 4},
        "rollout": {"tasks": 2, "concurrency": 8, "max_tokens": 6},
        "algorithm": {"options": {"group_size": 2, "entropy_coefficient": 0.01}},
        "update": {"learning_rate": 1e-3, "updates_per_step": 2},
        "measure": {"tasks": 0},
        "steps": 5,
        "checkpoint_every": 2,
        "threads": 1,
    }
    return build(TrainConfig, {**small, **changes})


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


class Interrupting(Silence):
    """Presses Ctrl-C after some steps of training."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.training = False

    def stage(self, name: str, total: int) -> None:
        self.training = name == "training"

    def advance(self, metrics: Any) -> None:
        self.left -= self.training
        if self.training and self.left == 0:
            raise KeyboardInterrupt


def test_a_run_ahead_is_interrupted_and_resumed_without_losing_what_was_kept(tmp_path: Path) -> None:
    ahead = config(
        rollout={"tasks": 2, "concurrency": 8, "max_tokens": 6, "max_lag": 2},
        update={"learning_rate": 1e-3, "updates_per_step": 2, "importance": "token"},
        measure={"tasks": 3, "split": "train", "every": 2, "interim_tasks": 2},
    )
    folder = tmp_path / "run"
    with pytest.raises(StoreError, match="--resume"):
        train(ahead, folder, listener=Interrupting(3))
    assert not sampling_threads()
    stored = RunFolder.open(folder)
    kept = [record for record in stored.metrics() if record["step"] <= stored.checkpoints()[-1]]
    result = train(ahead, folder, resume=True)
    assert not sampling_threads()
    steps = [record for record in result.metrics if record["phase"] == "train"]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5]
    assert without_times(result.metrics)[: len(kept)] == without_times(kept)
    for record in steps:
        assert 0 <= record["lag_mean"] <= record["lag_max"] <= 2
        assert record["mismatch_mean"] <= record["mismatch_max"] and 0 < record["effective_sample_size"] <= 1.000001
        assert 0 <= record["importance_truncated"] <= 1
        assert {"waiting", "sampling_idle", "sync", "throughput"} <= set(record["seconds"])
    with stored.trajectories() as store:
        episodes = list(store.select(phase="train"))
        assert len(episodes) == 5 * 2 * 2
        for episode in episodes:
            step = int(episode.id.split("/")[1]) - 1
            assert all(0 <= step - turn.engine_version <= 2 for turn in episode.turns)


def test_a_run_in_turns_says_at_every_step_that_nothing_lags_and_nothing_differs(tmp_path: Path) -> None:
    plain = config(steps=2)
    for record in train(plain, tmp_path / "run").metrics:
        if record["phase"] == "train":
            assert (record["lag_mean"], record["lag_max"]) == (0, 0)
            assert record.get("mismatch_max", 0) < 1e-4 and "importance_mean" not in record


# -- learning ----------------------------------------------------------------------------------------------------------


def test_with_weights_that_are_always_two_updates_old_correction_still_learns(tokenizer: Any) -> None:
    chat, model, steps = TemplateChat(tokenizer), small_llama(len(tokenizer)), 45
    clone(model, any_word(chat), CloneSettings(epochs=100, batch_size=16, learning_rate=1e-2, warmup_steps=5), seed=0)
    engine = make_engine(EngineSection(), model=model, tokenizer=tokenizer, max_batch=64, shared=False)
    algorithm = grpo(group_size=8)
    corrected = UpdateSettings(learning_rate=1e-3, updates_per_step=2, importance="token")
    learner = Learner(model, algorithm, corrected)
    rewards, lags = [], []
    chosen = settings(2, steps=steps, env=WordEnv, tasks=8, max_tokens=6)
    with AheadSampler(chosen, engine, chat, algorithm.rollout) as sampler:
        sampler.updated(named_weights(model), 0)
        for step in range(steps):
            groups = sampler.groups(step)
            # However fast training is here: all that may be sampled with these weights is.
            for task in list(sampler._playing.values()):
                sampler.call(_done(task))
            rewards.append(statistics.fmean(member.reward for group in groups for member in group.valid))
            lags.append(sampler.metrics()["lag_mean"])
            learner.learn(groups, Progress(step, steps))
            sampler.updated(named_weights(model), step + 1)
    assert set(lags[2:]) == {2.0}
    assert statistics.fmean(rewards[:2]) < 0.4
    assert statistics.fmean(rewards[-5:]) > 0.8


async def _done(task: "asyncio.Task[Any]") -> None:
    await asyncio.wait([task])
