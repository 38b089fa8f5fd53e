"""What happens before any command runs."""

import pytest

from agent_gym.cli import _let_threads_sleep


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "30000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_spin_briefly_unless_the_user_has_decided(given: dict[str, str], expected: str | None) -> None:
    environment = dict(given)
    _let_threads_sleep(environment)
    assert environment.get("GOMP_SPINCOUNT") == expected
