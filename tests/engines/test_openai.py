"""Models behind a server: what is sent, and what is made of the answers."""

import math
from typing import Any

import pytest
from helpers import run
from openai_asked import ASK, PLAIN, asking, in_turn, once, play, said_by
from openai_server import MODEL, Asked, Reply, answered, chat, refused

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.messages import SPOKEN
from agent_gym.engines.openai import CompletionsEngine
from agent_gym.engines.prices import Price
from agent_gym.engines.scripted import END
from agent_gym.engines.server import BadRequestError
from agent_gym.errors import EngineError
from agent_gym.rollout.chat import MessageChat, TemplateChat

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
        once(engine, sampling=Sampling(max_tokens=9, temperature=0.5, seed=2**62 + 5))
        once(engine, sampling=Sampling(max_tokens=9, top_p=0.9, top_k=3, stop=("\n",)))
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
        completion = once(engine, sampling=Sampling(max_tokens=9, temperature=0.5))
        once(engine, sampling=Sampling(max_tokens=9, temperature=0.5))
    assert len(server.asked) == 5
    assert set(server.asked[-1].body) == {"messages", "model", "max_completion_tokens", "seed"}
    assert completion.notes == {"model": MODEL + "-served", "entropies": "none", "not_sent": "temperature"}


def test_a_parameter_of_a_wrong_value_is_not_left_out() -> None:
    said = pytest.raises(BadRequestError, match=r"refused a request \(400\): temperature must be at most 2")
    with asking(in_turn(refused(400, "temperature must be at most 2"))) as (server, engine, _), said:
        once(engine, sampling=Sampling(temperature=3.0))
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
