"""Models behind a server: what is sent, what is made of the answers, and what becomes of a server that misbehaves."""

import math
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from helpers import CountEnv, run
from openai_server import MODEL, Answers, Asked, FakeServer, Reply, answered, chat, completion, models, refused, serving

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.messages import SPOKEN
from agent_gym.engines.openai import ChatEngine, CompletionsEngine
from agent_gym.engines.prices import Price
from agent_gym.engines.retrying import Patience
from agent_gym.engines.scripted import END
from agent_gym.engines.server import BadRequestError, Server
from agent_gym.errors import ContextLengthError, EngineError, RefusedError
from agent_gym.rollout.chat import MessageChat, TemplateChat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import Episode, EpisodeSettings
from agent_gym.tools.web import Retries
from agent_gym.trajectory import Trajectory

ASK = MessageChat().begin("hello")
PLAIN = Sampling(max_tokens=16)


@dataclass
class Waits:
    """The waits of a client, which take no time."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@contextmanager
def asking(
    answers: Answers, *, patience: Patience | None = None, listed: Reply | None = None, key: str | None = None,
    connections: int = 64, **options: Any,
) -> Iterator[tuple[FakeServer, ChatEngine, Waits]]:  # fmt: skip
    waits = Waits()
    quick = patience or Patience(Retries(tries=4, longest_wait=30.0, random=lambda: 1.0), sleep=waits)
    with serving(answers, listed) as server:
        reached = Server(server.url, key=key, patience=quick, connections=connections)
        yield server, ChatEngine(reached, MODEL, **options), waits


def said_by(answers: Answers, sampling: Sampling = PLAIN, **options: Any) -> Completion:
    with asking(answers, **options) as (_, engine, _):
        return once(engine, sampling)


def once(engine: Any, sampling: Sampling = PLAIN, prompt: Any = ASK) -> Completion:
    async def work() -> Completion:
        try:
            return await engine.generate(prompt, sampling)
        finally:
            await engine.disconnect()

    completion: Completion = run(work())
    return completion


def failure_of(engine: Any, prompt: Any = ASK) -> str:
    with pytest.raises(EngineError) as caught:
        once(engine, prompt=prompt)
    return str(caught.value)


def in_turn(*replies: Reply) -> Answers:
    return lambda asked, number: replies[min(number, len(replies) - 1)]


def play(engine: Any, used: Any = None, **settings: Any) -> Trajectory:
    async def work() -> Trajectory:
        episode = Episode(CountEnv(), engine, used or MessageChat(), EpisodeSettings(PLAIN, **settings), "count 2", 7)
        try:
            return await episode.run()
        finally:
            await engine.disconnect()

    trajectory: Trajectory = run(work())
    return trajectory


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_an_episode_sends_the_conversation_and_records_what_the_server_says() -> None:
    with asking(in_turn(chat("up", usage=(20, 4))), price=Price(1.0, 10.0)) as (server, engine, _):
        trajectory = play(engine, MessageChat(system_prompt="Count."))
    assert trajectory.success and [turn.text for turn in trajectory.turns] == ["up"] * 3
    observations = [turn.observation for turn in trajectory.turns]
    expected = [{"role": "system", "content": "Count."}]
    for observation in observations[:-1]:
        expected += [{"role": "user", "content": observation}, {"role": "assistant", "content": "up"}]
    assert server.asked[-1].body["messages"] == [*expected, {"role": "user", "content": observations[-1]}]
    assert [(turn.prompt_tokens, turn.generated_tokens) for turn in trajectory.turns] == [(20, 4)] * 3
    assert trajectory.metadata["model"] == MODEL + "-served"
    assert float(trajectory.metadata["cost"]) == pytest.approx(3 * (20 * 1.0 + 4 * 10.0) / 1e6)
    assert len({asked.body["seed"] for asked in server.asked}) == 3 and server.connections == 1


def test_a_chat_server_gets_the_messages_that_the_local_template_is_rendered_from(tokenizer: Any) -> None:
    with asking(in_turn(chat("up"))) as (server, engine, _):
        remote = play(engine, MessageChat(system_prompt="Count to three."))
    template = TemplateChat(tokenizer, system_prompt="Count to three.")

    class Up(CompletionsEngine):
        """Says up, in the tokens of the tokenizer, and writes down what it was asked."""

        prompts: list[list[int]] = []  # noqa: RUF012

        def __init__(self) -> None:
            self.vocabulary, self.max_context = len(tokenizer), 10_000

        async def generate(self, prompt_ids: Any, sampling: Any, session: Any = None) -> Completion:
            self.prompts.append(list(prompt_ids))
            ids = list(template.answer("up"))
            return Completion(ids, [0.0] * len(ids), [0.0] * len(ids), "stop")

        async def disconnect(self) -> None:
            pass

    local = play(Up(), template)
    assert [turn.observation for turn in local.turns] == [turn.observation for turn in remote.turns]
    for prompt, asked in zip(Up.prompts, server.asked, strict=True):
        rendered = tokenizer.apply_chat_template(asked.body["messages"], tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(prompt) == tokenizer.decode(tokenizer.encode(rendered, add_special_tokens=False))


def test_only_parameters_that_matter_are_sent_and_the_seed_fits_32_bits() -> None:
    with asking(in_turn(chat("hi")), top_logprobs=0) as (server, engine, _):
        once(engine, Sampling(max_tokens=9, temperature=0.5, seed=2**62 + 5))
        once(engine, Sampling(max_tokens=9, top_p=0.9, top_k=3, stop=("\n",)))
    plain, full = (asked.body for asked in server.asked)
    assert plain == {"messages": [{"role": "user", "content": "hello"}], "model": MODEL, "max_tokens": 9,
                     "temperature": 0.5, "seed": 5}  # fmt: skip
    assert (full["top_p"], full["top_k"], full["stop"]) == (0.9, 3, ["\n"])


def test_a_prompt_of_its_own_each_turn_and_a_fork_are_sent_whole() -> None:
    with asking(in_turn(chat("up"))) as (server, engine, _):
        play(engine, window=1)
        assert [len(asked.body["messages"]) for asked in server.asked] == [1, 1, 1]

        async def forked() -> None:
            session = engine.session()
            completion = await engine.generate(ASK, PLAIN, session)
            longer = [*ASK, *completion.token_ids, *MessageChat().extend("more", ended=True)]
            await engine.generate(longer, PLAIN, session.fork())
            await engine.generate(longer, PLAIN, session)
            await engine.disconnect()

        run(forked())
    first, second = (asked.body["messages"] for asked in server.asked[-2:])
    assert first == second and [message["content"] for message in first] == ["hello", "up", "more"]


def test_a_parameter_that_the_server_refuses_is_left_out_from_then_on_and_said() -> None:
    def answers(asked: Asked, number: int) -> Reply:
        body = asked.body
        if "max_tokens" in body:
            return refused(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                           "'max_completion_tokens' instead.", code="unsupported_parameter")  # fmt: skip
        if "temperature" in body:
            return refused(400, "Unsupported value: does not support 0.5.", param="temperature")
        if "logprobs" in body or "top_logprobs" in body:
            return refused(403, "You are not allowed to request logprobs from this model.")
        return chat("hi")

    with asking(answers) as (server, engine, _):
        completion = once(engine, Sampling(max_tokens=9, temperature=0.5))
        once(engine, Sampling(max_tokens=9, temperature=0.5))
    assert len(server.asked) == 5
    assert set(server.asked[-1].body) == {"messages", "model", "max_completion_tokens", "seed"}
    assert completion.notes == {"model": MODEL + "-served", "entropies": "none", "not_sent": "temperature"}


def test_a_parameter_of_a_wrong_value_is_not_left_out() -> None:
    said = pytest.raises(BadRequestError, match=r"refused a request \(400\): temperature must be at most 2")
    with asking(in_turn(refused(400, "temperature must be at most 2"))) as (server, engine, _), said:
        once(engine, Sampling(temperature=3.0))
    assert len(server.asked) == 1


# -- what is made of an answer -----------------------------------------------------------------------------------------


def test_the_ids_are_the_answer_and_an_end_unless_it_was_cut_off() -> None:
    whole, cut = said_by(in_turn(chat("näh"))), said_by(in_turn(chat("nä", finish="length")))
    assert (whole.token_ids, whole.finish_reason) == ([*"näh".encode(), END], "stop")
    assert (cut.token_ids, cut.finish_reason) == ([*"nä".encode()], "length")
    assert said_by(in_turn(chat(None, finish="content_filter"))).finish_reason == "content_filter"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert MessageChat().decode(said_by(in_turn(chat(parts))).token_ids) == "ab"  # type: ignore[arg-type]
    assert MessageChat().decode(said_by(in_turn(chat(None, refusal="I will not"))).token_ids) == "I will not"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_thought_is_in_the_ids_and_neither_in_the_action_nor_sent_back(name: str) -> None:
    with asking(in_turn(chat("up", **{name: "I think"}))) as (server, engine, _):
        trajectory = play(engine)
    turn = trajectory.turns[0]
    assert trajectory.token_ids[turn.start : turn.end] == [*b"I think", SPOKEN, *b"up", END]
    assert turn.text == turn.action == "up"
    assert server.asked[-1].body["messages"][1] == {"role": "assistant", "content": "up"}


def test_calls_that_the_server_has_read_are_written_as_the_environment_reads_them() -> None:
    call = {"id": "7", "type": "function", "function": {"name": "search", "arguments": '{"query": "Rome"}'}}
    broken = {"function": {"name": "search", "arguments": '{"query"'}}
    reply = chat("Now.", finish="tool_calls", tool_calls=[call, broken])
    text = MessageChat().decode(said_by(in_turn(reply)).token_ids)
    assert text.startswith('Now.\n<tool_call>\n{"name": "search", "arguments": {"query": "Rome"}}\n</tool_call>')
    assert text.endswith('search({"query")')
    own = said_by(in_turn(reply), write_call=lambda call: f"[{call.name} {call.arguments['query']}]")
    assert "[search Rome]" in MessageChat().decode(own.token_ids)


def test_entropies_are_estimated_from_the_likeliest_tokens_and_lie_on_the_bytes_of_theirs() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    content = [
        {"token": "go", "logprob": half, "bytes": [103, 111],
         "top_logprobs": [{"token": "go", "logprob": half}, {"token": "no", "logprob": quarter}]},
        {"token": " é", "logprob": 0.0, "top_logprobs": [{"token": " é", "logprob": 0.0}]},
        {"token": "<|end|>", "logprob": quarter, "top_logprobs": [{"token": "x", "logprob": quarter}]},
    ]  # fmt: skip
    completion = said_by(in_turn(chat("go é", logprobs={"content": content})))
    expected = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert completion.entropies == pytest.approx([expected, expected, 0, 0, 0, 0])
    assert completion.logprobs == pytest.approx([half, 0, 0, 0, 0, 0])
    assert not completion.exact_entropy and completion.notes["entropies"] == "estimated from the 5 likeliest tokens"


def test_without_log_probabilities_or_usage_the_episode_says_so() -> None:
    completion = said_by(in_turn(chat("12345678", usage=None)), price=Price(1.0, 1.0))
    assert completion.notes["entropies"] == "none" and completion.logprobs == [0.0] * 9
    assert completion.notes["token_counts"] == "estimated from bytes" and completion.usage is not None
    assert (completion.usage.generated_tokens, completion.usage.cost) == (3, None)
    assert "cost" not in said_by(in_turn(chat("hi"))).notes


@pytest.mark.parametrize(
    "reply, said",
    [
        (Reply({"object": "list"}), "without choices"),
        (Reply({"choices": []}), "without choices"),
        (Reply({"choices": ["hello"]}), "without choices"),
        (answered({"text": "hello"}), "without a message"),
        (Reply(b"<html>Welcome to the proxy"), "no JSON .*Welcome to the proxy"),
        (Reply([1, 2]), "JSON that is no object"),
        (chat("hi", usage=(3, -1)), "-1 as a number of tokens"),
        (chat("hi", usage=(3.5, 1)), "3.5 as a number of tokens"),  # type: ignore[arg-type]
        (chat("hi", logprobs={"content": [{"token": "hi", "logprob": math.nan}]}), "nan as a log-probability"),
        (chat("hi", logprobs={"content": [{"token": "hi", "logprob": 2.0}]}), "2.0 as a log-probability"),
        (chat("hi", logprobs={"content": [{"logprob": 2.0}]}), "have no tokens"),
        (chat("hi", logprobs={"content": 5}), "in another form"),
        (chat("hi", tool_calls=[{"function": {}}]), "a call of a tool that has no name"),
        (Reply({"error": {"message": "no capacity for you", "code": 400}}), "no capacity for you"),
    ],
)
def test_a_wrong_answer_is_named_and_costs_the_episode(reply: Reply, said: str) -> None:
    with asking(in_turn(reply)) as (server, engine, _):
        with pytest.raises(EngineError, match=said) as caught:
            once(engine)
        assert server.url in str(caught.value)
        trajectory = play(engine)
    assert trajectory.error is not None and trajectory.turns == []


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
    patience = Patience(Retries(tries=2), request=0.1, sleep=Waits())
    with asking(in_turn(Reply(hangs=True)), patience=patience) as (server, engine, _):
        assert re.search(r"(imeout|no answer within 0.1 s).*after 2 tries", failure_of(engine))
    assert len(server.asked) == 2


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
