"""Our logs as inspect_ai itself reads them, and as we do."""

import json
import math
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from exchange_runs import PROMPT, episode, episodes, make_run

from agent_gym.errors import ConfigError
from agent_gym.evaluation.exchange.exporting import export
from agent_gym.evaluation.exchange.importing import import_file
from agent_gym.evaluation.exchange.reading import Selection, stored_episodes
from agent_gym.store.run import RunFolder

ROOT = Path(__file__).parents[3]
PACKAGES = Path(os.environ.get("INSPECT_PACKAGES", ROOT / "build" / "inspect" / "site-packages"))
"""Where `make inspect` puts inspect_ai."""


def read_by_inspect(paths: list[Path]) -> list[dict[str, Any]]:
    """Return what inspect_ai finds in logs."""
    if find_spec("inspect_ai") is None and not (PACKAGES / "inspect_ai").is_dir():
        if os.environ.get("REQUIRE_INSPECT"):
            pytest.fail(f"inspect_ai is neither installed nor in {PACKAGES}: run make inspect.")
        pytest.skip("inspect_ai is not here: run make inspect")
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "INSPECT_DISPLAY": "none"}
    script = ROOT / "tests" / "inspect_reading.py"
    result = subprocess.run(
        [sys.executable, "-P", str(script), *map(str, paths)], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_inspect_ai_finds_in_a_log_what_the_run_holds(run: Path, tmp_path: Path) -> None:
    many = [
        episode(f"task {number}", attempt, ["go"], success=(number * 7 + attempt) % 3 == 0)
        for number in range(7)
        for attempt in range(3)
    ]
    steps = [episode("same", 0, ["go"]) for _ in range(4)]
    for step, made in enumerate(steps):
        made.id = f"train/{step}"
    trained = make_run(tmp_path / "trained", [])
    with RunFolder.open(trained).trajectories() as store:
        for step, made in enumerate(steps):
            store.add([made], step=step, phase="train")
    logs = [export(path, "inspect")[0].path for path in (run, make_run(tmp_path / "even", many), trained)]
    small, even, training = read_by_inspect(logs)
    assert [log["listed"] for log in (small, even, training)] == [1, 1, 1]

    assert (small["status"], small["task"], small["model"]) == ("success", "shop/test", "someone/model-7b")
    assert (small["epochs"], small["completed"]) == (2, 5)
    assert small["headline"] == {"scorer": "success", "score": "success", "metric": "accuracy"}
    by_key = {(sample["id"], sample["epoch"]): sample for sample in small["samples"]}
    assert by_key.keys() == {(task, epoch) for task in ("a tea/1", "b", "ü") for epoch in (1, 2)}
    tea = by_key["a tea/1", 2]
    assert tea["messages"][:3] == [["system", PROMPT], ["user", "a tea/1: page 0 <b>é\n"], ["assistant", "look"]]
    assert (tea["messages"][-1], tea["completion"]) == (["user", "Goodbye."], "take tea")
    assert tea["scores"] == {"success": "I", "score": 0.0, "reward": -1.0}
    failed, cut = by_key["ü", 1], by_key["ü", 2]
    assert (failed["error"], failed["scores"], cut["limit"]) == ("WorkerError: it died", {}, "token")
    # Each task's attempts are averaged before the tasks are: 1/2, 1, and 0 of the one attempt that did not fail.
    assert small["written"]["success"]["accuracy"] == pytest.approx(0.5)
    for log in (small, even, training):
        assert log["computed"] == log["written"]

    rate = statistics.fmean(made.success for made in many)
    assert even["computed"]["success"]["accuracy"] == pytest.approx(rate)
    means = [statistics.fmean(made.success for made in many[start : start + 3]) for start in range(0, 21, 3)]
    assert even["computed"]["success"]["stderr"] == pytest.approx(statistics.stdev(means) / math.sqrt(7))
    usage = even["usage"]["someone/model-7b"]
    assert usage["output_tokens"] == sum(turn.end - turn.start for made in many for turn in made.turns)
    assert usage["total_cost"] == pytest.approx(0.125 * 21)
    # In training the same task is played again and again: each episode is an attempt.
    assert training["task"] == "shop/test (train)"
    assert [(sample["id"], sample["epoch"]) for sample in training["samples"]] == [("same", n) for n in range(1, 5)]


def test_a_log_comes_back_as_the_run_that_it_was(run: Path, tmp_path: Path) -> None:
    (written,) = export(run, "inspect", tmp_path / "log.eval")
    import_file(written.path, tmp_path / "second")
    before, after = (list(stored_episodes(path, Selection())) for path in (run, tmp_path / "second"))
    assert len(before) == len(after) == 6
    for original, copy in zip(before, after, strict=True):
        assert (copy.step, copy.phase) == (original.step, original.phase)
        for turn, again in zip(original.trajectory.turns, copy.trajectory.turns, strict=True):
            # Tokens that nobody counted are counted from the ids.
            turn.prompt_tokens, turn.generated_tokens = turn.start - turn.context_start, turn.end - turn.start
            assert again == turn
        original.trajectory.logprobs = copy.trajectory.logprobs
        original.trajectory.entropies = copy.trajectory.entropies
        assert copy.trajectory == original.trajectory
    config = RunFolder.open(tmp_path / "second").config
    assert (config["model"], config["rollout"]["system_prompt"]) == ("someone/model-7b", PROMPT)
    (record,) = RunFolder.open(tmp_path / "second").metrics()
    assert (record["suite"], record["episodes"], record["failed"], record["success_rate"]) == ("shop/test", 6, 1, 0.6)


def test_the_same_run_gives_the_same_file(run: Path, tmp_path: Path) -> None:
    paths = [export(run, "inspect", tmp_path / name)[0].path for name in ("a.eval", "b.eval")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_suites_and_phases_have_logs_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", episodes())
    with RunFolder.open(run).trajectories() as store:
        store.add([episode("z", 0, ["go"], suite="other")], step=0, phase="eval")
        store.add([episode("z", 1, ["go"], suite="other")], step=0, phase="after")
    with pytest.raises(ConfigError, match="'shop/test' and 'other' at least: give --suite"):
        export(run, "inspect", tmp_path / "all.eval")
    assert not list(tmp_path.glob("all*"))
    written = export(run, "inspect")
    assert sorted(each.episodes for each in written) == [1, 1, 6]
    assert sorted(path.name.split("_")[1] for path in (run / "inspect").iterdir()) == [
        "other",
        "other--after",
        "shop-test",
    ]
    (one,) = export(run, "inspect", tmp_path / "one.eval", selection=Selection(suite="other", phase="eval"))
    assert one.episodes == 1
    with pytest.raises(ConfigError, match="no tokens"):
        export(run, "inspect", tokens=True)


def test_a_log_names_no_secret_and_an_evaluation_that_was_stopped_is_none_that_succeeded(tmp_path: Path) -> None:
    from agent_gym.evaluation.exchange.archives import Archive, Limits

    run = make_run(tmp_path / "run", episodes())
    (run / "metrics.jsonl").unlink()
    config = (run / "config.yaml").read_text().replace("options: {}", "options: {api_key: hunter2, size: tiny}")
    (run / "config.yaml").write_text(config)
    (written,) = export(run, "inspect")
    with Archive(written.path, Limits()) as archive:
        header = json.loads(archive.read("header.json"))
        assert not any(b"hunter2" in archive.read(name) for name in archive.names)
    assert header["status"] == "cancelled" and header["eval"]["task_args"] == {"env": "shop", "size": "tiny"}
