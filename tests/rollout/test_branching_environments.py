"""Branches in environments with a state of their own: a household, a notebook of a tool, code in a sandbox."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers import CountEnv, run
from sandboxes import require

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.scripted import ByteTokenizer, ScriptedEngine
from agent_gym.env import TextEnv
from agent_gym.envs.alfworld import AlfworldEnv
from agent_gym.envs.process_env import ProcessEnv
from agent_gym.envs.wrappers.with_tools import WithTools
from agent_gym.errors import SandboxUnavailable
from agent_gym.evaluation.replay import first_divergence
from agent_gym.rollout.branching import BranchPlan, grow_groups
from agent_gym.rollout.chat import ByteChat
from agent_gym.rollout.collect import Collector
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.rollout.score import score
from agent_gym.sandbox import Limits
from agent_gym.sandbox import make as make_sandbox
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.python import PythonTool
from agent_gym.tools.syntax import get_syntax
from agent_gym.trajectory import Group, Trajectory

Say = Callable[[str, random.Random], str]


class Speaker(ScriptedEngine):
    """Answers by a function of the prompt's text and of chance, which comes from the seed of the request alone."""

    def __init__(self, say: Say) -> None:
        super().__init__(["unused"])
        self.say = say

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        rng = random.Random(sampling.seed)
        ids = [*self.tokenizer.encode(self.say(self.tokenizer.decode(prompt_ids), rng)), 256]
        numbers = [rng.random() for _ in ids]
        return Completion(ids, [-number for number in numbers], numbers, "stop", self.version)


def grown(make: Callable[[], TextEnv], say: Say, *, show: bool = False, tasks: int = 1, **values: Any) -> list[Group]:
    settings = EpisodeSettings(Sampling(max_tokens=400), show_admissible=show)
    collector = Collector(make, Speaker(say), ByteChat(), settings, concurrency=16)
    plan = BranchPlan(
        **{"group_size": 8, "initial": 2, "measure": sum, "probability": lambda *_: 0.6, "max_depth": 3, **values}
    )
    try:
        groups: list[Group] = run(grow_groups(collector, [None] * tasks, plan, seed=1))
    finally:
        collector.close()
    return groups


def branched(group: Group) -> list[tuple[Trajectory, Trajectory]]:
    """Return (parent, branch) pairs, checked to be equal up to where they left."""
    by_id = {trajectory.id: trajectory for trajectory in group.trajectories}
    pairs = [(by_id[each.parent_id], each) for each in group.trajectories if each.parent_id is not None]
    for parent, child in pairs:
        offset = child.branch_offset or 0
        assert offset > 0 and child.token_ids[:offset] == parent.token_ids[:offset]
        assert child.turns[: child.branch_turn] == parent.turns[: child.branch_turn]
        assert child.turns[child.branch_turn or 0].observation == parent.turns[child.branch_turn or 0].observation
    return pairs


def admissible(prompt: str, rng: random.Random) -> str:
    return rng.choice(prompt.split("Admissible actions: ")[-1].split(", ")).rstrip(".\n")


@pytest.mark.parametrize("timing", ["after", "before"])
@pytest.mark.parametrize("worker", ["inline", "process"])
def test_every_branch_of_a_household_is_an_episode_that_could_have_been_played_alone(timing: Any, worker: str) -> None:
    def make() -> TextEnv:
        if worker == "process":
            return ProcessEnv("alfworld", size="tiny", max_turns=6)
        return AlfworldEnv(size="tiny", max_turns=6)

    groups = grown(make, admissible, show=True, tasks=2, timing=timing)
    assert sum(len(branched(group)) for group in groups) >= 4
    fresh = AlfworldEnv(size="tiny", max_turns=10**9)
    for group in groups:
        assert len(group.valid) == 8
        for trajectory in group.trajectories:
            # A branch that had seen what another one did would be told of another household here.
            assert first_divergence(fresh, trajectory) is None
        assert len({tuple(turn.action for turn in each.turns) for each in group.trajectories}) > 4


PYTHON = get_syntax("hermes")


def appends_a_letter(prompt: str, rng: random.Random) -> str:
    code = f"try: said\nexcept NameError: said = ''\nsaid += '{rng.choice('abcdefgh')}'\nprint('[' + said + ']')"
    return PYTHON.write(ToolCall("python", {"code": code}))


def test_branches_of_a_session_in_a_sandbox_do_not_see_each_other(tmp_path: Any) -> None:
    try:
        sandbox = make_sandbox("bubblewrap", limits=Limits(seconds=20.0), concurrency=4)
    except SandboxUnavailable as error:
        require("bubblewrap", str(error))

    def make() -> TextEnv:
        return WithTools(CountEnv(max_turns=4), tools=[PythonTool(sandbox=sandbox)], timeout=30)

    try:
        [group] = grown(make, appends_a_letter, group_size=5)
    finally:
        sandbox.close()
    assert len(group.valid) == 5 and len(branched(group)) >= 2
    for trajectory in group.trajectories:
        said = ""
        shown = [*(turn.observation for turn in trajectory.turns[1:]), trajectory.final_observation]
        for turn, observation in zip(trajectory.turns, shown, strict=True):
            said += turn.text.split("said += '")[1][0]
            assert f"[{said}]" in observation
        assert [turn.tool_calls for turn in trajectory.turns] == [1] * 4
    summary = score(group.trajectories)
    assert summary.tool_calls == summary.env_turns < 4 * 5


def test_tokens_are_bytes_of_what_was_said() -> None:
    [group] = grown(lambda: CountEnv(max_turns=3), lambda prompt, rng: rng.choice(["up", "down"]))
    for trajectory in group.trajectories:
        for turn in trajectory.turns:
            assert ByteTokenizer().decode(trajectory.token_ids[turn.start : turn.end]) == turn.text
