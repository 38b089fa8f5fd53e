"""From an answer to the program that is judged."""

import pytest

from agent_gym.envs.code.answers import complete, fenced_blocks, program_in
from agent_gym.envs.code.tasks import CodeTask

GOOD = "def solve(x):\n    return x\n"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        (GOOD, GOOD),
        (f"Here:\n```python\n{GOOD}```\nDone.", GOOD),
        (f"```\n{GOOD}```", GOOD),
        (f"```py\n{GOOD}```", GOOD),
        (f"```python\n{GOOD}```\nFor example:\n```python\nprint(solve(1))\n```", GOOD),
        (f"```python\ndef solve(x): pass\n```\nbetter:\n```python\n{GOOD}```", GOOD),
        ("```python\nx = 1\n```\n```python\ny = 2\n```", "y = 2\n"),
        (f"```python\n{GOOD}", f"```python\n{GOOD}"),
        ("`def solve(x): pass`", "`def solve(x): pass`"),
        ("", ""),
    ],
)
def test_the_last_block_that_defines_the_function_is_the_program(answer: str, program: str) -> None:
    assert program_in(answer, "solve") == program


def test_blocks_of_any_language_are_found() -> None:
    assert fenced_blocks("a\n```js\n1\n```\nb\n  ```\n2\n  ```") == ["1\n", "2\n"]
    assert fenced_blocks("no block ``` here") == []


@pytest.mark.parametrize("line", ["```", "```x", " ", "`", "``` ```"])
def test_long_answers_of_nothing_but_fences_are_read_in_one_pass(line: str) -> None:
    assert len(fenced_blocks(f"{line}\n" * 50_000)) == (25_000 if line == "```" else 0)


def test_a_prompt_is_gone_on_with_or_replaced() -> None:
    prompt = "from math import sqrt\n\n\ndef solve(x):\n    '''Give the root.'''\n"
    task = CodeTask("", "solve", "", preamble="from math import sqrt\n\n\n", prompt=prompt)
    assert complete("    return sqrt(x)\n", task) == f"{prompt}    return sqrt(x)\n"
    whole = "def solve(x):\n    return sqrt(x)\n"
    assert complete(whole, task) == f"from math import sqrt\n\n\n\n{whole}"
    assert complete("solve = sqrt", task).endswith("solve = sqrt")
    assert complete(GOOD, CodeTask("", "solve", "")) == GOOD
