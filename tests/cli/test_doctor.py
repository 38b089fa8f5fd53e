"""`agent-gym doctor` tries things, and breaks on none of them."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from agent_gym.cli import doctoring
from agent_gym.cli.app import app
from agent_gym.sandbox import GUARANTEES, Probe


def looked(monkeypatch: pytest.MonkeyPatch, *, works: bool, arguments: tuple[str, ...] = ()) -> Any:
    tried: list[tuple[str, dict[str, Any]]] = []

    def probe(backend: str, **options: Any) -> Probe:
        tried.append((backend, options))
        return Probe(backend, works, "no bwrap: install it", dict.fromkeys(GUARANTEES, works))

    monkeypatch.setattr(doctoring, "probe", probe)
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    rows = json.loads(result.stdout[: result.stdout.rindex("]") + 1])
    return result, {row["what"]: row for row in rows}, tried


def test_every_row_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    result, rows, tried = looked(monkeypatch, works=True)
    assert result.exit_code == 0 and tried == [("bubblewrap", {})]
    assert rows["sandbox bubblewrap"]["works"] and "sessions fork" in rows["sandbox bubblewrap"]["detail"]
    assert rows["sandbox docker"]["works"] is None and "--image" in rows["sandbox docker"]["detail"]
    assert rows["torch"]["works"] and rows["python"]["works"]
    assert {"GPU", "java", "memory", "disk here", "control groups", "extra search"} <= rows.keys()


def test_without_isolation_it_fails_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    result, rows, tried = looked(monkeypatch, works=False, arguments=("--image", "some-image"))
    assert result.exit_code == 1 and ("docker", {"image": "some-image"}) in tried
    assert rows["sandbox bubblewrap"]["detail"] == "no bwrap: install it"


def test_what_cannot_be_looked_at_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[bool, str]:
        raise RuntimeError("driver mismatch")

    monkeypatch.setattr(doctoring, "_gpu", broken)
    _, rows, _ = looked(monkeypatch, works=True)
    assert (rows["GPU"]["works"], rows["GPU"]["detail"]) == (False, "RuntimeError: driver mismatch")
