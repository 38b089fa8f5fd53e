"""The command line as a user meets it."""

import os
import subprocess
from pathlib import Path

import forking
import pytest

MODEL = "{hidden: 16, layers: 1, heads: 2, feed_forward: 32, vocabulary: 600}"
SMALL = f"""
env: {{id: alfworld, options: {{size: tiny, max_turns: 5}}}}
model: {MODEL}
warm_start: {{episodes: 10, env_options: {{max_turns: 50}}}}
rollout: {{tasks: 1, concurrency: 8, max_tokens: 4}}
algorithm: {{options: {{group_size: 2}}}}
update: {{learning_rate: 1.0e-3}}
measure: {{tasks: 3}}
steps: 2
threads: 1
"""


def gym(*arguments: str, cwd: Path, keys: str = "") -> subprocess.CompletedProcess[str]:
    return forking.agent_gym(list(arguments), cwd, {**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}, keys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a finished run called demo in it."""
    path = tmp_path_factory.mktemp("work")
    (path / "small.yaml").write_text(SMALL)
    result = gym("train", "--config", "small.yaml", "--name", "demo", cwd=path)
    assert result.returncode == 0, result.stderr
    (path / "output.txt").write_text(result.stdout)
    return path


def test_training_ends_with_a_table_a_picture_the_folder_and_the_success(folder: Path) -> None:
    output = (folder / "output.txt").read_text()
    assert "95% interval" in output
    assert "run folder: runs/demo" in output
    assert output.splitlines()[-1].startswith("success on unseen games: 0.00 -> 0.00")
    assert (folder / "runs/demo/learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_shown_again_at_once(folder: Path) -> None:
    before = (folder / "runs/demo/metrics.jsonl").stat().st_mtime_ns
    result = gym("train", "--config", "small.yaml", "--name", "demo", "--resume", cwd=folder)
    assert "success on unseen games" in result.stdout
    assert (folder / "runs/demo/metrics.jsonl").stat().st_mtime_ns == before


def test_show_prints_episodes_readably(folder: Path) -> None:
    result = gym("show", "runs/demo", "--phase", "after", "--count", "1", cwd=folder)
    assert "Your task is to:" in result.stdout
    assert "no success" in result.stdout
    one = gym("show", "runs/demo", "--episode", "train/1/g0e1", cwd=folder)
    assert "train/1/g0e1" in one.stdout


def test_eval_of_a_run_uses_its_environment_and_keeps_episodes(folder: Path) -> None:
    result = gym("eval", "--model", "runs/demo", "--tasks", "3", "--name", "measured", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "tasks, episodes" in result.stdout
    assert "tiny-valid_unseen" in gym("show", "runs/measured", cwd=folder).stdout


def test_the_expert_solves_everything(folder: Path) -> None:
    result = gym("eval", "--model", "expert", "--tasks", "5", "--set", "env.options.size=tiny", cwd=folder)
    assert "1.000" in result.stdout


def test_a_person_can_play_and_ask_what_can_be_done(folder: Path) -> None:
    result = gym("play", "--option", "size=tiny", "--seed", "3", cwd=folder, keys="?\nlook\nfly\n")
    assert "go to " in result.stdout
    assert "Nothing happens." in result.stdout
    assert "ended by you" in result.stdout
    assert result.returncode == 0


def test_envs_lists_what_there_is(folder: Path) -> None:
    assert "agent_gym/ALFWorld-v1" in gym("envs", cwd=folder).stdout


def test_check_prints_a_row_a_check_and_fails_where_one_fails(folder: Path) -> None:
    result = gym("check", "alfworld", "--option", "size=tiny", "--only", "fork", cwd=folder)
    assert result.returncode == 0 and "9 forks went their own way" in result.stdout
    small = Path(__file__).parents[1] / "small_envs.py"
    broken = gym("check", f"{small}:Numbered", "--only", "determinism", cwd=folder)
    assert broken.returncode == 1 and "1 of 1 checks failed" in broken.stdout


def test_replay_plays_stored_episodes_again(folder: Path) -> None:
    result = gym("replay", "runs/demo", "--phase", "train", cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "none differ" in result.stdout


@pytest.mark.parametrize("command", ["train", "eval", "play", "check", "replay", "envs", "show", "algorithms", "keys"])
def test_the_help_fits_a_screen_and_shows_an_example(command: str, folder: Path) -> None:
    result = gym(command, "--help", cwd=folder)
    assert result.returncode == 0
    assert "Example:" in result.stdout
    # What an evaluation may be told is a lot: servers, prices, limits.
    assert len(result.stdout.splitlines()) <= (75 if command == "eval" else 42)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--env", "alfword"], "did you mean 'alfworld'"),
        (["train", "--set", "update.lerning_rate=1"], "did you mean 'learning_rate'"),
        (["train", "--steps", "0"], "'steps' is 0"),
        (["train", "--model", "/no/such/folder"], "There is no model in /no/such/folder"),
        (["train", "--algorithm", "arpo+aepo"], "AEPO branches by itself"),
        (["train", "--algorithm", "epo", "--set", "algorithm.options.hihg=3"], "did you mean 'high'"),
        (["train", "--algorithm", "epo", "--recipe", "alfword"], "did you mean 'alfworld'"),
        (["train", "--recipe", "alfworld"], "give --algorithm"),
        (["algorithms", "epoo"], "did you mean 'epo'"),
        (["keys", "updat"], "did you mean 'update'"),
        (["train", "--config", "none.yaml"], "no configuration file none.yaml"),
        (["train", "--config", "small.yaml", "--name", "demo"], "choose another --name"),
        (["eval", "--tasks", "3"], "add --model"),
        (["eval", "--model", "expert", "--split", "test"], "Unknown split 'test'"),
        (["eval", "--model", "expert", "--set", "env.options.games=none.json"], "none.json"),
        (["eval", "--model", "expert", "--set", "env.options.games=broken.tw-pddl"], "broken.tw-pddl"),
        (["play", "alfword"], "did you mean 'alfworld'"),
        (["play", "--task", "tiny-train-1"], "Unknown game"),
        (["check", "alfworld", "--only", "forks"], "did you mean 'fork'"),
        (["replay", "runs/none"], "There is no run in runs/none"),
        (["play", "--option", "wrappers=[{id: turns-limit}]"], "did you mean 'turn-limit'"),
        (["show", "runs/none"], "There is no run in runs/none"),
        (["show", "runs/demo", "--phase", "trian"], "did you mean 'train'"),
    ],
)
def test_bad_input_is_one_sentence_with_exit_code_2(folder: Path, arguments: list[str], words: str) -> None:
    (folder / "broken.tw-pddl").write_text("{ not json")
    runs = sorted(path.name for path in (folder / "runs").iterdir())
    result = gym(*arguments, cwd=folder)
    assert result.returncode == 2, result.stdout + result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in (folder / "runs").iterdir()) == runs


def test_pieces_that_pull_apart_are_warned_of_before_training(folder: Path) -> None:
    result = gym("train", "--config", "small.yaml", "--algorithm", "empg+aepo", "--set", "measure.tasks=0", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "warning: EMPG damps" in result.stdout and "runs/alfworld-empg+aepo" in result.stdout


def test_a_tokenizer_without_a_chat_template_is_refused_with_the_remedy(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = folder / "runs/demo/checkpoints/step-2"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "bare")
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(folder / "bare")
    (folder / "bare" / "chat_template.jinja").unlink(missing_ok=True)
    result = gym("train", "--config", "small.yaml", "--model", "bare", "--name", "bare", cwd=folder)
    assert result.returncode == 2
    assert "no chat template" in result.stderr
    assert not (folder / "runs/bare").exists()
