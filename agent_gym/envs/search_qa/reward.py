"""What an answer to a question is worth: exact match, F1, and the reward of ARPO with its check of the format.

Source: Dong et al., "Agentic Reinforced Policy Optimization", 2025 (the reward of their deep-research training code).
"""

import re
from collections.abc import Sequence
from typing import Final

from agent_gym.envs.questions.answers import f1_score
from agent_gym.tools.syntax.arpo import boxed

BROKEN_FORMAT: Final = -1.0
BOTH_TOOLS: Final = 0.1
_RESULT, _RESULT_END = "<result>", "</result>"
_CALLS: Final = ("search", "python")
_TEXT_COMMAND: Final = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}")


def arpo_reward(text: str, gold: Sequence[str]) -> float:
    r"""Return the reward of a whole episode, as ARPO gives it.

    -1 where the format is broken; else the F1 of the boxed answer; and 0.1 more where that is above 0 and both a search
    and a piece of Python were called. What stands in results is no part of the format: a page may say what it likes.

    Args:
        text: All that the model wrote and was shown after the question: `<think>...</think><search>...</search>
            <result>...</result>...<answer>\boxed{...}</answer>`.
        gold: The right answers.
    """
    if format_problem(text):
        return BROKEN_FORMAT
    kept = _without_results(text)
    score = f1_score(_plain(boxed(_between(kept, "answer")) or ""), gold)
    both = all(f"</{call}>" in kept for call in _CALLS)
    return score + BOTH_TOOLS if score > 0 and both else score


def format_problem(text: str) -> str:
    r"""Return what is wrong with the format of an episode's text, as a sentence; empty where nothing is.

    The rules: think tags come in pairs, and there are some; there is exactly one answer; each search and each piece of
    Python is followed by its result; the answer has a `\boxed{...}` that is closed.
    """
    text = _without_results(text)
    thoughts = text.count("<think>")
    if thoughts != text.count("</think>"):
        return "The think tags do not come in pairs."
    if thoughts == 0:
        return "There is no thought."
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return "There is not exactly one answer."
    if text.find("</answer>") < text.find("<answer>"):
        return "The answer ends before it begins."
    for call in _CALLS:
        if not _has_results(text, call):
            return f"A {call} is not followed by its result."
    if boxed(_between(text, "answer")) is None:
        return "There is no \\boxed{} in the answer, or it is not closed."
    return ""


def _without_results(text: str) -> str:
    """Take out what stands in results: the model has not written it."""
    kept, at = [], 0
    while (start := text.find(_RESULT, at)) >= 0 and (end := text.find(_RESULT_END, start)) >= 0:
        kept.append(text[at : start + len(_RESULT)])
        at = end
    return "".join([*kept, text[at:]])


def _has_results(text: str, call: str) -> bool:
    """Return whether each block of a call is closed and has a result after it."""
    at = 0
    while (at := text.find(f"<{call}>", at)) >= 0:
        for tag in (f"</{call}>", "<result>", "</result>"):
            at = text.find(tag, at)
            if at < 0:
                return False
    return True


def _between(text: str, tag: str) -> str:
    return text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]


def _plain(answer: str) -> str:
    r"""Take the text out of `\text{...}` and the like, in which models put words that stand in a formula."""
    return _TEXT_COMMAND.sub(r"\1", answer)
