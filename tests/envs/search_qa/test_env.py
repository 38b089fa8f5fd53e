"""SearchQAEnv: what it asks, how it rewards, and real questions over real pages."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.conformance import conform
from agent_gym.envs.search_qa import SearchQAEnv
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.search import Hit

SHARED = Path(__file__).parents[4] / "shared/data"
PAGES = [["Rome", ["Rome is the capital of Italy."]], ["Tiber", ["The Tiber flows through Rome."]]]
ROWS = [
    {"_id": "a", "question": "Which river flows through the capital of Italy?", "answer": "Tiber", "context": PAGES},
    {"_id": "b", "question": "Is Rome the capital of Italy?", "answer": "yes", "context": PAGES},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(ROWS))
    return path


def search(query: str) -> ToolCall:
    return ToolCall("search", {"query": query})


def play(env: SearchQAEnv, *actions: str, **reset: Any) -> tuple[str, float, dict[str, Any]]:
    """Play actions; return the last observation, the rewards' sum and the last info."""
    observation, info = env.reset(**reset)
    total = 0.0
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        total += reward
    return observation, total, dict(info)


@pytest.mark.parametrize(
    "options", [{}, {"syntax": "arpo", "reward": "arpo"}, {"hops": 1, "people": 20, "worlds": 7, "instructions": False}]
)
def test_it_conforms(options: dict[str, Any]) -> None:
    found = {check.name: check.detail for check in conform(lambda: SearchQAEnv(**options)) if not check.passed}
    assert found == {}


def test_data_of_ones_own_conforms(data: Path) -> None:
    found = {check.name: check.detail for check in conform(lambda: SearchQAEnv(data)) if not check.passed}
    assert found == {}


def test_a_turn_fits_into_a_small_context() -> None:
    env = SearchQAEnv(instructions=False, hits=2, hit_characters=150)
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert len(observation) < 150
        for action in list(env.expert() or ())[:-1]:
            assert len(env.step(action)[0]) < 450


def test_the_pages_that_came_with_the_questions_are_searched_and_read(data: Path) -> None:
    env = SearchQAEnv(data, split="valid")
    observation, _, _ = play(env, env.write(search("river Rome")), options={"task": "valid/a"})
    assert "1. Tiber\n   The Tiber flows through Rome." in observation
    observation, *_ = env.step(env.write(ToolCall("browse", {"url": "Rome"})))
    assert "Rome is the capital of Italy." in observation
    assert env.step(env.write_answer("the Tiber"))[1] == 1.0
    assert env.held_out_split == "valid" and list(env.data_files()) == ["valid"]


def test_each_reward_pays_as_it_says(data: Path) -> None:
    answer = "<answer>river Tiber</answer>"
    task = {"options": {"task": "train/a"}}
    assert play(SearchQAEnv(data), answer, **task)[1] == 0.0
    _, reward, info = play(SearchQAEnv(data, reward="f1"), answer, **task)
    assert reward == pytest.approx(2 / 3) == info["score"] and not info["success"]
    assert play(SearchQAEnv(data, reward="f1"), "<answer>Tiber!</answer>", **task)[2]["success"]


def arpo(data: Path, **options: Any) -> SearchQAEnv:
    return SearchQAEnv(data, reward="arpo", syntax="arpo", tools=["calculator"], **options)


def test_the_reward_of_arpo_is_of_the_whole_episode(data: Path) -> None:
    env, task = arpo(data), {"options": {"task": "train/a"}}
    look, right = env.write(search("river Rome")), env.write_answer("Tiber")
    _, reward, info = play(env, look, right, **task)
    assert (reward, info["score"], info["success"]) == (1.0, 1.0, True)
    assert play(env, look, "<think> <think> hm </think> <answer> \\boxed{Tiber} </answer>", **task)[1] == -1.0
    observation, reward, info = play(env, look.replace("</think>", ""), right, **task)
    assert (reward, info["score"], info["success"]) == (-1.0, 0.0, False)
    assert observation == "The think tags do not come in pairs."
    assert play(env, look, "<think> hm </think> <answer> Tiber </answer>", **task)[1] == -1.0


def test_the_reward_of_arpo_pays_for_both_tools(data: Path) -> None:
    def python(code: str) -> str:
        return "4"

    env = SearchQAEnv(data, reward="arpo", syntax="arpo", tools=[python])
    actions = env.write(search("river")), env.write(ToolCall("python", {"code": "2 + 2"})), env.write_answer("Tiber")
    _, reward, info = play(env, *actions, options={"task": "train/a"})
    assert reward == pytest.approx(1.1) and info["score"] == 1.0
    _, reward, _ = play(env, *actions[:2], env.write_answer("Po"), options={"task": "train/a"})
    assert reward == 0.0


def test_an_episode_of_arpo_without_an_answer_has_a_broken_format(data: Path) -> None:
    env = arpo(data, max_turns=2)
    _, reward, info = play(env, env.write(search("Rome")), env.write(search("Rome")), options={"task": "train/a"})
    assert reward == -1.0 and info["answer"] == ""


def test_the_reward_of_arpo_after_a_fork_is_that_of_the_fork(data: Path) -> None:
    env = arpo(data)
    play(env, env.write(search("Rome")), options={"task": "train/a"})
    child = env.fork()
    child.step("no thought, no call")
    child.step("</think> unpaired")
    assert child.step(child.write_answer("Tiber"))[1] == -1.0
    assert env.step(env.write_answer("Tiber"))[1] == 1.0


def test_a_fork_stays_in_its_world_when_its_parent_goes_to_another() -> None:
    env = SearchQAEnv(worlds=2, people=20)
    env.reset(options={"task": "train/0"})
    child = env.fork()
    solution = list(child.expert() or ())
    env.reset(options={"task": "valid/1"})
    for action in solution:
        *_, info = child.step(action)
    assert info["success"] and info["task_id"] == "train/0"
    assert f"1. {child._asked().lookups[0]}\n" in child._history[1][1]


def test_anything_that_searches_is_a_corpus(data: Path) -> None:
    class Oracle:
        def search(self, query: str, count: int) -> list[Hit]:
            return [Hit("Truth", "https://truth.example", f"{query}? Tiber!")]

    env = SearchQAEnv(data, corpus=Oracle())
    observation, _, _ = play(env, env.write(search("What")), options={"task": "train/a"})
    assert "What? Tiber!" in observation and env.blocking and env.toolbox.names == ("search",)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reward": "f2"}, UnknownIdError, "Unknown reward 'f2'"),
        ({"reward": "arpo"}, ConfigError, 'set syntax="arpo"'),
        ({"hops": 4}, ConfigError, "hops must be some of 1, 2 and 3"),
        ({"hops": []}, ConfigError, "hops must be some of 1, 2 and 3"),
        ({"people": 10}, ConfigError, "people must be from 20 to 240"),
        ({"worlds": 0}, ConfigError, "worlds must be at least 1"),
        ({"split": "dev"}, UnknownIdError, "Unknown split 'dev'"),
        ({"corpus": "docs.jsonl"}, ConfigError, "give data, too"),
        ({"data": "hotpot"}, UnknownIdError, "did you mean 'hotpotqa'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SearchQAEnv(**options)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("task", "query", "answer"),
    [
        ("train/214", "Andrew Jaspan co-founder not-for-profit media outlet", "The Conversation"),
        ("train/181", "Jean Vander Pyl Rosie animated sitcom premiered", "September 23, 1962"),
    ],
)
def test_real_questions_are_answered_from_real_pages(tmp_path: Path, task: str, query: str, answer: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    env = SearchQAEnv(
        SHARED / "arpo_train_10k.parquet",
        corpus=SHARED / "search_cache.json.xz",
        index_folder=tmp_path,
        reward="arpo",
        syntax="arpo",
        hit_characters=800,
    )
    observation, _, _ = play(env, env.write(search(query)), options={"task": task})
    assert answer in observation
    *_, info = env.step(env.write_answer(answer))
    assert info["success"] and info["score"] == 1.0


@pytest.mark.parametrize("reward", ["exact_match", "f1"])
def test_all_right_answers_are_one_vote_and_case_and_articles_are_none(tmp_path: Path, reward: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([ROWS[0] | {"answer": ["Tiber", "Tevere"]}]))
    env = SearchQAEnv(path, reward=reward)

    def vote(answer: str) -> str:
        return str(play(env, f"<answer>{answer}</answer>")[2]["vote"])

    assert {vote(answer) for answer in ("Tiber", "the tiber.", "Tevere")} == {"tiber"}
    assert vote("The Po!") == vote("po") == "po"
