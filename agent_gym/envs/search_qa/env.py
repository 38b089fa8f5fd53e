"""Questions that are answered by searching and reading, hop by hop; a generated world, or the usual data sets.

Sources: Yang et al., "HotpotQA", 2018; Ho et al., "2WikiMultihopQA", 2020; Trivedi et al., "MuSiQue", 2022; Press et
al., "Measuring and Narrowing the Compositionality Gap" (Bamboogle), 2023; Wei et al., "SimpleQA", 2024; Wu et al.,
"WebWalker", 2025.
"""

import random
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from agent_gym.env import State, Task
from agent_gym.envs.questions import Loaded, Source, exact_match, f1_score
from agent_gym.envs.questions.answers import normalise
from agent_gym.envs.questions.env import QuestionEnv
from agent_gym.envs.questions.sources import Data
from agent_gym.envs.search_qa.asking import understand
from agent_gym.envs.search_qa.corpus import Corpus, context_index, corpus_tools, open_corpus, search_instead
from agent_gym.envs.search_qa.demonstrator import find_out
from agent_gym.envs.search_qa.generated import Worlds
from agent_gym.envs.search_qa.loading import KNOWN, Question, read_question
from agent_gym.envs.search_qa.reward import BROKEN_FORMAT, arpo_reward, format_problem
from agent_gym.envs.search_qa.world import MOST_PEOPLE
from agent_gym.envs.tool_env import AnyTool, Grade
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.search import LocalIndex, SearchBackend
from agent_gym.tools.syntax.arpo import boxed

REWARDS: Final = ("exact_match", "f1", "arpo")
_ASKED: Final = re.compile(r"^Question: (.+)$", re.MULTILINE)


class SearchQAEnv(QuestionEnv[Question]):
    """Find the answer to a question by searching a corpus and reading its pages.

    The default asks about generated worlds of people, books, companies and towns, one for each split, some nine
    thousand questions in each, which take one to three facts; nothing is downloaded. The tools are `search` and, where
    the corpus has pages, `browse`.

    Args:
        data: Questions to ask instead: a file (.jsonl, .json, .csv, .parquet; compressed or not), a file for each
            split, one of `loading.KNOWN` ("hotpotqa", "musique" ...), or "owner/name" of the hub.
        corpus: What to search for `data`: a file of documents, recorded searches, a saved index, the name of an
            engine, or any `SearchBackend`; the pages that came with the questions if None.
        reward: "exact_match", "f1", or "arpo" (with the syntax "arpo"; see `reward.arpo_reward`).
        split: "train", "valid" or "test".
        hops: How many facts generated questions take: some of 1, 2 and 3.
        world_seed: Another seed gives other worlds.
        worlds: How many generated worlds a split has. The same question has another answer in each, so that a
            model that could learn one world by heart must read.
        people: How many people a generated world has, from 20 to 240; its other things go with that.
        hits: Results that a search shows.
        hit_characters: Longest text that is shown of a result.
        page_characters: Characters that are shown of a page at once, at least 100.
        index_folder: Where the index of a corpus file is kept; beside it if None.
        tools: Further tools, such as "python".
        **options: See `ToolEnv`: syntax, max_calls, max_turns ...

    Raises:
        MissingExtraError: bm25s is not installed, or what reads the data.
        UnknownIdError: There is no such data set or reward.
        ConfigError: A number is out of range, or there is nothing to search.
        DataError: A file cannot be read.
    """

    requirements: ClassVar[tuple[str, ...]] = ("bm25s",)
    task_noun: ClassVar[str] = "question"

    def __init__(
        self,
        data: Data | None = None,
        *,
        corpus: Corpus | None = None,
        reward: str = "exact_match",
        split: str = "train",
        hops: int | Sequence[int] = (1, 2, 3),
        world_seed: int = 0,
        worlds: int = 1,
        people: int = MOST_PEOPLE,
        hits: int = 3,
        hit_characters: int = 200,
        page_characters: int = 1000,
        index_folder: Path | str | None = None,
        tools: Sequence[AnyTool] = (),
        syntax: str = "hermes",
        **options: Any,
    ) -> None:
        if reward not in REWARDS:
            raise UnknownIdError.of("reward", reward, REWARDS)
        if reward == "arpo" and syntax != "arpo":
            raise ConfigError('The reward "arpo" checks a format that only the syntax "arpo" has: set syntax="arpo".')
        source: Source[Question]
        self._worlds: Worlds | None = None
        if data is None and corpus is not None:
            raise ConfigError("A corpus is searched for data of your own: give data, too.")
        if data is None:
            chosen = (hops,) if isinstance(hops, int) else tuple(sorted(set(hops)))
            self._worlds = Worlds(world_seed, people, chosen, worlds)
            source = self._worlds.questions()
            # Each episode puts the pages of its world there.
            backend: SearchBackend = LocalIndex.build([])
        else:
            source = loaded = Loaded(data, split=split, known=KNOWN, read=read_question)
            backend = context_index(loaded.questions()) if corpus is None else open_corpus(corpus, index_folder)
        own = corpus_tools(backend, hits=hits, hit_characters=hit_characters, page_characters=page_characters)
        super().__init__(source, [*own, *tools], split=split, syntax=syntax, **options)
        self._corpus_file = Path(corpus) if isinstance(corpus, str | Path) and Path(corpus).is_file() else None
        self._reward = reward
        self._action = ""

    def expert(self) -> Iterator[str] | None:
        """Return searches for what leads to the answer, and the answer; the answer alone where the way is not known."""
        if self._question is None:
            return None
        question = self._question
        calls = [ToolCall("search", {"query": name}) for name in question.lookups]
        return iter([*(self.write(call) for call in calls), self.write_answer(question.answers[0])])

    def demonstrate(self, observation: str, rng: random.Random) -> Generator[str, str, object] | None:
        """Return a policy that searches and reads, and knows no more than what it has read."""
        question = _ASKED.findall(observation) if self._worlds is not None else []
        asked = understand(question[-1]) if question else None
        return super().demonstrate(observation, rng) if asked is None else find_out(asked, self)

    def data_files(self) -> Mapping[str, Path]:
        """Return the files of the questions and of the corpus."""
        corpus = {"corpus": self._corpus_file} if self._corpus_file is not None else {}
        return {**super().data_files(), **corpus}

    def _ask(self, task: Task, rng: random.Random) -> str:
        if self._worlds is not None:
            search_instead(self.toolbox, self._worlds.index(task))
        return super()._ask(task, rng)

    def _said(self, question: Question) -> Sequence[str]:
        return (question.text, *question.answers)

    def _kind(self, question: Question) -> str:
        return question.kind

    def _worded(self, question: Question) -> str:
        return f"Question: {question.text}"

    def _act(self, action: str) -> tuple[str, State]:
        self._action = action
        return super()._act(action)

    def grade(self, answer: str) -> Grade:
        """See `ToolEnv.grade`; the reward "arpo" is for the whole episode."""
        if self._reward == "arpo":
            raise ConfigError('The reward "arpo" is for a whole episode, not for an answer: give a grader of your own.')
        return super().grade(answer)

    def _grade(self, answer: str) -> Grade:
        gold = self._asked().answers
        if self._reward == "exact_match":
            score = exact_match(answer, gold)
            return Grade(score, vote=_voted(answer, gold, right=score >= 1))
        if self._reward == "f1":
            score = f1_score(answer, gold)
            return Grade(score, vote=_voted(answer, gold, right=score >= 1))
        text = "".join(part for turn in self._history[1:] for part in turn) + self._action
        reward = arpo_reward(text, gold)
        score = min(max(reward, 0.0), 1.0)
        stated = boxed(answer)
        vote = _voted(answer if stated is None else stated, gold, right=score >= 1)
        return Grade(score, reward, format_problem(text), vote)

    def _unanswered(self) -> float:
        return BROKEN_FORMAT if self._reward == "arpo" else 0.0


def _voted(answer: str, gold: Sequence[str], *, right: bool) -> str:
    """Return what an answer votes for; all right ones for the same, whichever of the right answers they give."""
    return normalise(gold[0] if right and gold else answer)
