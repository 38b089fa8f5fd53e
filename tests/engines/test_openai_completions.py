"""Completions of a server by token ids; one client for many episodes, and how it reaches its address."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import CountEnv, run
from openai_asked import ASK, PLAIN, asking, failure_of, in_turn, once, play
from openai_server import MODEL, FakeServer, Reply, chat, completion, models, serving

from agent_gym.engines.openai import ChatEngine, CompletionsEngine
from agent_gym.engines.retrying import Patience
from agent_gym.engines.scripted import END
from agent_gym.engines.server import Server
from agent_gym.errors import EngineError
from agent_gym.rollout.chat import MessageChat, TemplateChat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.tools.web import Retries
from agent_gym.trajectory import Trajectory

# -- completions -------------------------------------------------------------------------------------------------------


@contextmanager
def completing(
    tokenizer: Any, answers: Callable[[Any], Reply], listed: Reply | None = None
) -> Iterator[tuple[FakeServer, CompletionsEngine]]:
    with serving(lambda asked, number: answers(asked.body), listed) as server:
        reached = Server(server.url, patience=Patience(Retries(tries=1)))
        reached.list_models()
        yield server, CompletionsEngine(reached, MODEL, tokenizer)


def test_completions_send_the_ids_of_the_template_and_take_those_that_were_sampled(tokenizer: Any) -> None:
    chat_ = TemplateChat(tokenizer, system_prompt="Count.")
    ids = list(chat_.answer("up"))
    logprobs = {
        "tokens": [f"t{n}" for n in ids],
        "token_logprobs": [math.log(0.5)] * len(ids),
        "top_logprobs": [{f"t{n}": math.log(0.5), "other": math.log(0.5)} for n in ids],
    }
    with completing(tokenizer, lambda body: completion("up", token_ids=ids, logprobs=logprobs)) as (server, engine):
        trajectory = play(engine, chat_)
    assert trajectory.success
    last = trajectory.turns[-1]
    assert server.asked[-1].body["prompt"] == trajectory.token_ids[: last.start]
    assert server.asked[-1].body["return_token_ids"] is True and server.asked[-1].body["logprobs"] == 5
    assert trajectory.token_ids[last.start : last.end] == ids
    assert trajectory.entropies[last.start : last.end] == pytest.approx([math.log(2)] * len(ids))
    assert "token_ids" not in trajectory.metadata and trajectory.metadata["entropies"].startswith("estimated")


def test_of_a_server_without_token_ids_the_text_is_encoded_again_and_the_episode_says_so(tokenizer: Any) -> None:
    chat_ = TemplateChat(tokenizer)
    with completing(tokenizer, lambda body: completion("up")) as (_, engine):
        trajectory = play(engine, chat_)
    turn = trajectory.turns[0]
    assert trajectory.token_ids[turn.start : turn.end] == list(chat_.answer("up"))
    assert trajectory.success and trajectory.metadata["token_ids"] == "encoded again from text"
    assert trajectory.metadata["entropies"] == "none"


@pytest.mark.parametrize(
    "choice, said",
    [
        ({"token_ids": [1, 2, 3], "logprobs": {"token_logprobs": [-1.0, -1.0]}}, "3 tokens and 2 log-probabilities"),
        ({"token_ids": [1], "logprobs": {"token_logprobs": [math.nan]}}, "nan as a log-probability"),
        ({"token_ids": [1], "logprobs": {"token_logprobs": [None]}}, "None as a log-probability"),
        ({"token_ids": [10**6]}, "token ids that the tokenizer does not have"),
        ({"token_ids": "abc"}, "token ids that the tokenizer does not have"),
        ({"token_ids": [1] * 17}, "17 tokens where at most 16 were asked for"),
        ({"text": None}, "without a text"),
    ],
)
def test_a_wrong_completion_is_named(tokenizer: Any, choice: dict[str, Any], said: str) -> None:
    with completing(tokenizer, lambda body: completion(**{"text": "up", **choice})) as (_, engine):
        assert re.search(said, failure_of(engine, TemplateChat(tokenizer).begin("hello")))


def test_the_context_that_the_server_lists_truncates_before_it_is_asked(tokenizer: Any) -> None:
    with completing(tokenizer, lambda body: completion("up"), models(MODEL, max_model_len=20)) as (server, engine):
        trajectory = play(engine, TemplateChat(tokenizer))
    assert engine.max_context == 20 and trajectory.metadata["truncated_by"] == "tokens" and server.asked == []


# -- one engine for many episodes --------------------------------------------------------------------------------------


def test_64_episodes_share_one_client_and_no_more_requests_are_in_flight_than_allowed() -> None:
    def play_all(connections: int) -> tuple[list[Trajectory], FakeServer]:
        with asking(in_turn(chat("up")), connections=connections) as (server, engine, _):

            async def work() -> list[Trajectory]:
                collector = Collector(CountEnv, engine, MessageChat(), EpisodeSettings(PLAIN), concurrency=64)
                try:
                    return await collector.play([Job(str(n), "", "count 1", n) for n in range(64)])
                finally:
                    collector.close()
                    await engine.disconnect()

            played: list[Trajectory] = run(work())
            return played, server

    trajectories, server = play_all(8)
    assert all(trajectory.success for trajectory in trajectories) and len(server.asked) == 192
    assert server.most_in_flight <= 8 and server.connections <= 8


def test_an_engine_serves_one_event_loop_after_the_other() -> None:
    with asking(in_turn(chat("hi"))) as (server, engine, _):
        for _ in range(2):
            run(engine.generate(ASK, PLAIN))
        assert once(engine).token_ids == [*b"hi", END]
    assert server.connections == 3


def test_a_server_takes_no_weights() -> None:
    with pytest.raises(EngineError, match="cannot take new weights"):
        run(ChatEngine(Server("http://localhost/v1"), MODEL).sync())


@pytest.mark.parametrize(
    "url, said",
    [
        ("localhost:8000", "no address of a server"),
        ("http://", "no address of a server"),
        ("http://user:secret@host/v1", "neither a password"),
        ("http://host/v1?key=secret", "nor a query"),
    ],
)
def test_an_address_that_is_none_or_carries_a_secret_is_refused(url: str, said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        Server(url)
    assert "secret" not in str(caught.value)


def test_a_proxy_that_the_environment_names_is_used_where_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(in_turn(chat("hi"))) as server:
        monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert once(ChatEngine(Server("http://model.invalid/v1"), MODEL)).token_ids == [*b"hi", END]
        assert server.asked[-1].headers["host"] == "model.invalid"
        once(ChatEngine(Server(server.url), MODEL))
    assert [asked.path for asked in server.asked] == [
        "http://model.invalid/v1/chat/completions",
        "/chat/completions",
    ]
