"""A server that misbehaves, and what becomes of the episodes and of secrets."""

import re
import traceback
from urllib.parse import quote

import pytest
from helpers import CountEnv, run
from openai_asked import PLAIN, Waits, asking, failure_of, in_turn, once, play
from openai_server import MODEL, Asked, Reply, chat, models, refused

from agent_gym.engines.openai import ChatEngine
from agent_gym.engines.retrying import Patience
from agent_gym.engines.server import Server
from agent_gym.errors import ContextLengthError, EngineError, RefusedError
from agent_gym.rollout.chat import MessageChat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.tools.web import Retries
from agent_gym.trajectory import Trajectory

# -- a server in trouble -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        refused(429, "slow down"),
        refused(500, "oops"),
        Reply(b"<html>bad gateway", 502),
        refused(503, "loading"),
        Reply({"choices": []}, cut=True),
        Reply({"error": {"message": "overloaded", "code": 529}}),
    ],
    ids=lambda reply: f"{reply.status}{' cut' * reply.cut}",
)
def test_trouble_that_passes_is_waited_for_and_counted(trouble: Reply) -> None:
    with asking(in_turn(trouble, trouble, chat("up"))) as (server, engine, waits):
        trajectory = play(engine)
    assert trajectory.success and len(server.asked) == 5
    assert waits.seconds == [0.5, 1.0]
    assert trajectory.metadata["request_retries"] == "2" and engine.server.retries == 2


def test_the_server_says_how_long_to_wait() -> None:
    busy = refused(429, "slow down", headers={"Retry-After": "7"})
    with asking(in_turn(busy, chat("hi"))) as (_, engine, waits):
        once(engine)
    assert waits.seconds == [7.0]
    tomorrow = refused(429, "come back tomorrow", headers={"Retry-After": "86400"})
    with asking(in_turn(tomorrow)) as (server, engine, waits):
        assert re.search(r"come back tomorrow. Given up after one try", failure_of(engine))
    assert waits.seconds == [] and len(server.asked) == 1


def test_tries_and_time_are_bounded_and_the_sentence_names_server_and_remedy() -> None:
    with asking(in_turn(refused(500, "oops"))) as (server, engine, _):
        failure = failure_of(engine)
    assert re.search(r"\(500\): oops. Given up after 4 tries: .*rollout.concurrency", failure)
    assert server.url in failure and len(server.asked) == 4
    clock = iter(range(0, 1000, 30))
    waits = Waits()
    patience = Patience(Retries(tries=99), total=100.0, sleep=waits, clock=lambda: next(clock))
    given_up = pytest.raises(EngineError, match="Given up after 4 tries")
    with asking(in_turn(refused(500, "oops")), patience=patience) as (_, engine, _), given_up:
        once(engine)


def test_a_server_that_hangs_is_given_up_after_the_time_out() -> None:
    waits = Waits()
    patience = Patience(Retries(tries=2), request=0.1, sleep=waits)
    with asking(in_turn(Reply(hangs=True)), patience=patience) as (_, engine, _):
        assert re.search(r"(imeout|no answer within 0.1 s).*after 2 tries", failure_of(engine))
    assert len(waits.seconds) == 1


def test_a_server_that_is_gone_is_given_up_and_its_episodes_are_data() -> None:
    waits = Waits()
    patience = Patience(Retries(tries=3), sleep=waits)
    engine = ChatEngine(Server("http://127.0.0.1:9/v1", patience=patience), MODEL)
    trajectory = play(engine)
    assert trajectory.error is not None and "could not be reached" in trajectory.error and len(waits.seconds) == 2


@pytest.mark.parametrize(
    "reply, said",
    [
        (refused(401, "Incorrect API key: sk-secret."), r"refuses the key \(401\): .*: \*\*\*; set .*--api-key-env"),
        (refused(403, "no"), "refuses the key"),
        (refused(404, "The model `x` does not exist", code="model_not_found"), "--model-name"),
        (refused(400, "Unknown model: x"), "it has small-model, other"),
        (Reply({"detail": "Not Found"}, 404), "up to its version"),
        (Reply(b"", 301, {"Location": "https://else.where/v1"}), "redirects to https://else.where/v1"),
        (refused(429, "You exceeded your current quota", code="insufficient_quota"), "nothing left"),
        (refused(402, "Insufficient credits"), "nothing left"),
    ],
)  # fmt: skip
def test_what_no_request_can_mend_ends_all_episodes_at_once_with_one_sentence(reply: Reply, said: str) -> None:
    ended: list[Trajectory] = []
    with asking(in_turn(reply), key="sk-secret", listed=models(MODEL, "other")) as (server, engine, waits):
        engine.server.list_models()

        async def work() -> None:
            collector = Collector(CountEnv, engine, MessageChat(), EpisodeSettings(PLAIN), concurrency=2)
            try:
                await collector.stream([Job(str(n), "", "count 1", n) for n in range(50)], ended.append)
            finally:
                collector.close()
                await engine.disconnect()

        with pytest.raises(RefusedError, match=said) as caught:
            run(work())
    assert ended == [] and len(server.asked) <= 2 and waits.seconds == []
    assert "sk-secret" not in str(caught.value)
    assert server.asked[0].headers["authorization"] == "Bearer sk-secret"


ECHOES = {
    "not JSON": lambda said: Reply(f"<html>debug {said}".encode()),
    "not JSON, and long": lambda said: Reply(f"{'x' * 290}{said}".encode()),
    "an error": lambda said: refused(400, f"bad request, {said}"),
    "another shape": lambda said: Reply({"error": {"headers": {"a": said}}}, 400),
    "a code": lambda said: refused(422, "no", code=said, param=said),
    "a count": lambda said: chat("hi", usage=(said, 1)),
    "a redirect": lambda said: Reply({}, 307, {"Location": f"https://else.where/v1?k={quote(said)}"}),
    "a redirect as it is": lambda said: Reply({}, 302, {"Location": f"https://else.where/v1?k={said}"}),
}


@pytest.mark.parametrize("kind", ECHOES)
@pytest.mark.parametrize("key", ["sk-secret+1234/56==", 'sk-"secret"'])
def test_a_server_that_says_the_key_back_does_not_get_it_into_an_error(kind: str, key: str) -> None:
    def echo(asked: Asked, number: int) -> Reply:
        return ECHOES[kind](asked.headers["authorization"])

    with asking(echo, key=key) as (_, engine, _), pytest.raises(EngineError) as caught:
        once(engine)
    told = "".join(traceback.format_exception(caught.value))
    said = f"{told} {getattr(caught.value, 'problem', '')}"
    assert "***" in said and "sk-" not in said and "secret" not in said


def test_a_key_is_sent_without_the_white_space_around_it() -> None:
    with asking(in_turn(chat("go")), key=" sk-right\n") as (server, engine, _):
        once(engine)
    assert server.asked[0].headers["authorization"] == "Bearer sk-right"


@pytest.mark.parametrize("key", ["sk-sécret", "sk-sec\nret", "sk-sec\x00ret", "sk-\udcffret"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_quoted(key: str) -> None:
    with pytest.raises(EngineError, match=r"key in MY_KEY .* printable ASCII") as caught:
        Server("http://localhost:1/v1", key=key, key_name="MY_KEY")
    assert "sk-" not in str(caught.value)


def test_once_the_server_has_answered_a_forbidden_prompt_costs_its_episode_alone() -> None:
    with asking(in_turn(chat("up"), refused(403, "this prompt was blocked"))) as (_, engine, _):
        trajectory = play(engine)
    assert trajectory.error is not None and "BadRequestError" in trajectory.error and len(trajectory.turns) == 1


@pytest.mark.parametrize(
    "reply",
    [
        refused(400, "This model's maximum context length is 2048 tokens. However, you requested 3000 tokens."),
        refused(400, "too long", code="context_length_exceeded"),
        refused(400, "'max_tokens' is too large: 5. This model's maximum context length is 8 tokens"),
        refused(400, "the request exceeds the available context size"),
    ],
)
def test_a_conversation_that_became_too_long_is_truncated_not_failed(reply: Reply) -> None:
    with asking(in_turn(chat("up"), reply)) as (_server, engine, _):
        trajectory = play(engine)
        with pytest.raises(ContextLengthError, match="too long for the server"):
            once(engine)
    assert (trajectory.error, trajectory.truncated, trajectory.metadata["truncated_by"]) == (None, True, "tokens")
    assert len(trajectory.turns) == 1


def test_a_limit_of_tokens_is_meant_in_tokens_though_ids_are_bytes() -> None:
    with asking(in_turn(chat("up"))) as (_, engine, _):
        assert play(engine, max_tokens=40).metadata.get("truncated_by") is None
        assert play(engine, max_tokens=24).metadata["truncated_by"] == "tokens"
