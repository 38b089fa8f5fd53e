"""Generated tasks: the solution gives the expected results, and the statement tells what it does."""

import pytest

from agent_gym.envs.code.tasks import CodeTask, all_operations, generate

TASKS = [generate(f"train/{number}") for number in range(150)]


def test_the_solution_alone_gives_every_expected_result() -> None:
    for task in TASKS:
        namespace: dict[str, object] = {}
        exec(task.solution, namespace)
        solve = namespace[task.function]
        assert callable(solve)
        assert [solve(*test.arguments) for test in task.tests] == [test.expected for test in task.tests], task


def test_the_examples_of_the_statement_hold_and_are_no_hidden_tests() -> None:
    for task in TASKS:
        namespace: dict[str, object] = {}
        exec(task.solution, namespace)
        examples = task.statement.partition("Examples:\n")[2].split("\n")
        assert len(examples) == 2 and task.example == examples[0].partition(" == ")[0]
        for example in examples:
            assert eval(example, namespace) is True, task
        hidden = {f"solve({test.arguments[0]!r})" for test in task.tests}
        assert not hidden & {example.partition(" == ")[0] for example in examples}


def test_no_task_can_be_guessed() -> None:
    for task in TASKS:
        assert len(task.tests) == 12
        assert len({repr(test.expected) for test in task.tests}) >= 4


def test_tasks_differ_and_the_seed_decides_them() -> None:
    assert len({task.statement for task in TASKS}) == len(TASKS)
    assert generate("train/7") == TASKS[7] != generate("valid/7")


def test_every_step_is_told_and_used() -> None:
    used = "".join(task.solution for task in [*TASKS, *(generate(f"test/{number}") for number in range(400))])
    for operation in all_operations():
        assert operation.told(4).endswith(".") and "{k}" not in operation.told(4)
        assert f"def {operation.name}(" in used
    assert len(all_operations()) > 50


@pytest.mark.parametrize(
    ("seed", "lengths", "steps"), [("a", (1,), 1), ("b", (2,), 2), ("c", (3,), 3), ("d", (1, 3), None)]
)
def test_the_number_of_steps_can_be_chosen(seed: str, lengths: tuple[int, ...], steps: int | None) -> None:
    for number in range(10):
        task = generate(f"{seed}/{number}", lengths)
        count = task.solution.count("def ") - 1
        assert count == steps or (steps is None and count in (1, 3))


def test_parameters_stand_in_statement_and_solution() -> None:
    task = next(task for task in TASKS if "rotate_left" in task.solution)
    places = task.statement.partition("to the left by ")[2].partition(" ")[0]
    assert f", {places})" in task.solution and "{k}" not in task.solution
    ordinals = [operation.told(2) for operation in all_operations() if operation.name == "every_kth"]
    assert ordinals == ["Keep only the first number and every 2nd one after it."]


def test_a_task_can_be_judged_by_what_it_holds_alone() -> None:
    assert isinstance(TASKS[0], CodeTask) and TASKS[0].check == ()
