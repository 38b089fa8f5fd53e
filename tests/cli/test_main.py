"""What happens before any command runs."""

import pytest
import typer
from rich.text import Text

from agent_gym.cli import _let_threads_sleep
from agent_gym.cli.app import app


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "30000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_spin_briefly_unless_the_user_has_decided(given: dict[str, str], expected: str | None) -> None:
    environment = dict(given)
    _let_threads_sleep(environment)
    assert environment.get("GOMP_SPINCOUNT") == expected


def _options() -> list[tuple[str, str]]:
    """Return the place and the help of every option of every command."""
    found = []
    pending = [("agent-gym", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop()
        found += [(f"{name} {each.name}", getattr(each, "help", None) or "") for each in command.params]
        pending += [(f"{name} {each}", inner) for each, inner in getattr(command, "commands", {}).items()]
    return found


def test_no_option_loses_words_of_its_help_to_markup() -> None:
    options = _options()
    assert len(options) > 50
    for place, told in options:
        assert Text.from_markup(told).plain == told.replace("\\[", "["), place
