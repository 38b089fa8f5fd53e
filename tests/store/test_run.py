"""The run folder."""

from pathlib import Path

import pytest

from agent_gym.errors import StoreError
from agent_gym.store.run import RunFolder


def test_metrics_are_lines_of_json_and_a_cut_off_line_is_left_out(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"seed": 1})
    run.log({"step": 1, "loss": 0.5})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.metrics() == [{"step": 1, "loss": 0.5}]


def test_rewinding_forgets_what_came_after_the_step(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    for step in range(4):
        run.log({"step": step})
    run.rewind(1)
    assert [record["step"] for record in run.metrics()] == [0, 1]


def test_the_configuration_and_the_versions_are_kept(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"seed": 7})
    assert RunFolder.open(run.path).config == {"seed": 7}
    assert "torch" in (run.path / "config.yaml").read_text()


def test_an_existing_folder_is_not_written_over(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {})
    with pytest.raises(StoreError, match="--resume"):
        RunFolder.create(tmp_path / "run", {})


def test_only_complete_checkpoints_count(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    for name in ("step-10", "step-2", "step-30.partial"):
        (run.path / "checkpoints" / name).mkdir()
    assert run.checkpoints() == [2, 10]


def test_a_folder_without_a_run_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no config\.yaml"):
        RunFolder.open(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_while_logging_names_the_file(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    run.metrics_path.symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"metrics\.jsonl cannot be written: No space left"):
        run.log({"step": 1})
