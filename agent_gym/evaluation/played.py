"""The environment that stored episodes were played in, made again from what their run says."""

from agent_gym.config_files import build
from agent_gym.env import TextEnv
from agent_gym.errors import ConfigError
from agent_gym.evaluation.resuming import suite_records
from agent_gym.evaluation.suites import Suite
from agent_gym.registry import make
from agent_gym.store.run import RunFolder


def suite_of(run: RunFolder, name: str = "") -> Suite:
    """Return what a run says of the environment of some episodes.

    Args:
        run: A run of training or of evaluation.
        name: The suite of the episodes; empty where they belong to none.

    Raises:
        ConfigError: The run does not say it.
    """
    for record in suite_records(run.path):
        if record["name"] == name:
            said = {key: value for key, value in record.items() if key in Suite.model_fields}
            return build(Suite, {**said, "name": name or "eval", "tasks": None})
    section = run.config.get("env")
    if not isinstance(section, dict) or "id" not in section:
        raise ConfigError(f"{run.path}/config.yaml names no environment: this needs a run of train or eval.")
    return build(Suite, {"name": name or "eval", "env": section, "split": run.config.get("split")})


def make_env(run: RunFolder, name: str = "") -> TextEnv:
    """Make the environment of some episodes of a run, without a limit of turns; see `suite_of`."""
    suite = suite_of(run, name)
    splits = {} if suite.split is None else {"split": suite.split}
    env = make(suite.env.id, **{**suite.options(), **splits})
    # What was measured in another split, or with another limit, may have been longer.
    env.max_turns = 10**9
    return env
