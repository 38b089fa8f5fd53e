"""Questions of HotpotQA, 2WikiMultihopQA, MuSiQue, Bamboogle, SimpleQA, WebWalkerQA and others in their own forms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent_gym.envs.questions import HubData
from agent_gym.envs.questions.files import Row

KNOWN: Final = {
    "hotpotqa": HubData("hotpotqa/hotpot_qa", {"train": "train", "valid": "validation"}, "distractor"),
    "2wikimultihopqa": HubData("framolfese/2WikiMultihopQA", {"train": "train", "valid": "validation"}),
    "musique": HubData("dgslibisey/MuSiQue", {"train": "train", "valid": "validation"}),
    "bamboogle": HubData("chiayewken/bamboogle", {"test": "test"}),
    "simpleqa": HubData("basicv8vc/SimpleQA", {"test": "test"}),
    "webwalkerqa": HubData("callanwu/WebWalkerQA", {"test": "main"}),
}
"""Data sets of the hub by short name."""

_QUESTION_FIELDS: Final = ("question", "problem", "query", "prompt")
_ANSWER_FIELDS: Final = ("answer", "answers", "golden_answers", "answer_aliases", "final answer", "final_answer")
_ID_FIELDS: Final = ("_id", "id")
_KIND_FIELDS: Final = ("type", "topic", "category", "level")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the answers that are right."""

    text: str
    answers: tuple[str, ...]
    context: tuple[tuple[str, str], ...] = ()
    """Title and text of the pages that came with it."""
    lookups: tuple[str, ...] = ()
    """What to search for on the way to the answer, where that is known."""
    kind: str = ""
    """What kind of question it is, where the data says so."""


def read_question(row: Row) -> tuple[str, Question] | None:
    """Make a question of a row in any of the known forms; return the row's own id, too.

    None for a row of ARPO's training data that is about mathematics.

    A row has a question ("question", "problem", "query" or "prompt") and answers ("answer", "answers",
    "golden_answers", "answer_aliases" and "final answer" together, each a text or a list), in small or capital letters;
    or is a row of ARPO's training data.
    Pages in "context" (HotpotQA, 2WikiMultihopQA) or "paragraphs" (MuSiQue) come along.

    Raises:
        ValueError: There is no question, or no answer.
    """
    if row.get("ability") == "math":
        return None
    fields = {name.lower(): value for name, value in row.items()}
    text = next((fields[name] for name in _QUESTION_FIELDS if isinstance(fields.get(name), str)), None)
    answers = [answer for name in _ANSWER_FIELDS for answer in _texts(fields.get(name))]
    if isinstance(fields.get("reward_model"), Mapping):
        text = fields["extra_info"]["question"]
        answers = _texts(fields["reward_model"]["ground_truth"])
    if text is None:
        raise ValueError(f"it has none of {', '.join(_QUESTION_FIELDS)}")
    if not answers:
        raise ValueError(f"it has an answer under none of {', '.join(_ANSWER_FIELDS)}")
    own_id = next((str(fields[name]) for name in _ID_FIELDS if fields.get(name) not in (None, "")), "")
    kind = next((str(fields[name]) for name in _KIND_FIELDS if isinstance(fields.get(name), str | int)), "")
    return own_id, Question(text, tuple(dict.fromkeys(answers)), tuple(_context(fields)), kind=kind)


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str | int | float):
        return [str(value)] if str(value).strip() else []
    return [text for each in value for text in _texts(each)]


def _context(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for paragraph in fields.get("paragraphs") or []:
        yield str(paragraph["title"]), str(paragraph["paragraph_text"])
    context = fields.get("context") or []
    # The hub has two columns where the authors' files have pairs.
    pairs = zip(context["title"], _sentences(context), strict=True) if isinstance(context, Mapping) else context
    for title, sentences in pairs:
        yield str(title), "".join(sentences).strip() if not isinstance(sentences, str) else sentences


def _sentences(context: Mapping[str, Any]) -> Sequence[Any]:
    found: Sequence[Any] = context["sentences"] if "sentences" in context else context["content"]
    return found
