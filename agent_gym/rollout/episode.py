"""One episode: an environment and an engine take turns until the end, and everything is recorded."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from agent_gym.engines.base import Completion, Engine, Sampling, Session, Usage
from agent_gym.env import Info, TextEnv
from agent_gym.errors import ContextLengthError
from agent_gym.rollout.actions import ActionParser, plain, syntax
from agent_gym.rollout.chat import Chat
from agent_gym.rollout.seeds import derive_seed
from agent_gym.rollout.workers import Caller, inline
from agent_gym.sections import RolloutSection
from agent_gym.trajectory import Trajectory, Turn

logger = logging.getLogger(__name__)

Answer = tuple[str, float, bool, bool, Info]
"""What `TextEnv.step` returns."""


@dataclass(frozen=True, slots=True)
class EpisodeSettings:
    """How episodes are played; shared by all episodes of a collection."""

    sampling: Sampling = field(default_factory=Sampling)
    parse: ActionParser = plain
    max_tokens: int | None = None
    """The episode is truncated when its tokens would exceed this (default: the engine's context)."""
    show_admissible: bool = False
    """Append the admissible actions to each observation."""
    restate_goal: bool = False
    """Append the goal to each observation after the first."""
    window: int | None = None
    """None: each prompt is the last one with what was said since appended. A number: each turn has a prompt of its own,
    which shows so many turns before it."""
    seconds: float | None = None
    """Wall time after which an episode that `Episode.run` plays has failed; None for no limit."""


def episode_settings(section: RolloutSection, temperature: float, seconds: float | None = None) -> EpisodeSettings:
    """Return the settings that a configuration asks for; training and evaluation play by the same ones."""
    return EpisodeSettings(
        sampling=Sampling(max_tokens=section.max_tokens, temperature=temperature),
        parse=syntax(section.syntax).parse,
        max_tokens=section.max_episode_tokens,
        show_admissible=section.show_admissible,
        restate_goal=section.restate_goal,
        window=section.window if section.layout == "turn" else None,
        seconds=seconds,
    )


@dataclass(eq=False)
class Episode:
    """A running episode. `run` plays it to its end; `fork` branches it between two turns.

    Args:
        env: The environment; the episode owns it while it runs.
        engine: Where the actions come from.
        chat: How observations become tokens.
        settings: How to play.
        task_id: The task, or None to let the seed choose.
        seed: Seeds the sampling of every turn, and the environment too unless `env_seed` is given.
        env_seed: Seeds the environment: the members of a group share it, so that they begin alike.
        call: How the environment is called, see `Workers.caller`.
    """

    env: TextEnv
    engine: Engine
    chat: Chat
    settings: EpisodeSettings
    task_id: str | None = None
    seed: int = 0
    env_seed: int | None = None
    call: Caller = inline
    trajectory: Trajectory = field(init=False)
    failure: Exception | None = field(init=False, default=None)
    """What ended the episode before its time."""
    _session: Session | None = field(init=False, default=None)
    _observation: str = field(init=False, default="")
    _first_shown: str = field(init=False, default="")
    _context_start: int = field(init=False, default=0)
    """Where the prompt begins that the next turn is generated from."""
    _proposed: bool = field(init=False, default=False)
    """Whether the last turn still waits for the environment."""
    _tool_calls: int = field(init=False, default=0)
    """Those of all turns, as a turn is told of the episode's."""

    def __post_init__(self) -> None:
        self.trajectory = Trajectory(task_id=self.task_id or "", seed=self.seed)
        if self.env_seed is not None:
            self.trajectory.metadata["env_seed"] = str(self.env_seed)

    async def run(self) -> Trajectory:
        """Play to the end, from the start or from where a fork begins.

        A failure is recorded in the trajectory, not raised.
        """
        limit = asyncio.timeout(self.settings.seconds)
        try:
            async with limit:
                going_on = self._session is not None or await self.attempt(self.start)
                while going_on:
                    going_on = await self.attempt(self.take_turn)
        except TimeoutError as error:
            # Whatever was waited for is cancelled; nobody knows what the environment is doing.
            self.failure, self.trajectory.error = error, f"TimeoutError: not done after {self.settings.seconds:g} s"
        finally:
            self.close()
        return self.trajectory

    async def attempt(self, part: Callable[[], Awaitable[bool]]) -> bool:
        """Do a part of the episode; return whether it goes on. A failure ends it, and is recorded, not raised."""
        try:
            return await part()
        except Exception as error:
            logger.warning("Episode of task %s failed: %s", self.trajectory.task_id, error, exc_info=True)
            self.failure, self.trajectory.error = error, f"{type(error).__name__}: {error}"
            return False

    async def start(self) -> bool:
        """Reset the environment and render the first prompt; the episode goes on."""
        options = {"task": self.task_id} if self.task_id is not None else None
        seed = self.seed if self.env_seed is None else self.env_seed
        observation, info = await self.call(self.env.reset, seed=seed, options=options)
        if self.settings.show_admissible:
            await self._list_admissible(info)
        name_task(self.trajectory, self.env, info)
        self._observation = observation
        self._session = self.engine.session()
        self._first_shown = shown(self.settings, observation, info, first=True)
        self.trajectory.append_context(self.chat.begin(self._first_shown))
        return True

    async def take_turn(self) -> bool:
        """Generate one action and apply it; return whether the episode goes on."""
        return await self.propose() and await self.apply()

    async def propose(self) -> bool:
        """Generate one action and do no more; return False where there is no room left for it."""
        trajectory, sampling = self.trajectory, self.settings.sampling
        limit = min(self.settings.max_tokens or self.engine.max_context, self.engine.max_context)
        used = (len(trajectory.token_ids) - self._context_start) / self.engine.ids_per_token
        if used + sampling.max_tokens > limit:
            return self._out_of_tokens()
        started = time.perf_counter()
        seeded = sampling.seeded(derive_seed(self.seed, len(trajectory.turns)))
        start = self._context_start
        prompt = trajectory.token_ids[start:] if start else trajectory.token_ids
        try:
            completion = await self.engine.generate(prompt, seeded, self._session)
        except ContextLengthError:
            return self._out_of_tokens()
        self._record(completion, time.perf_counter() - started, len(prompt))
        self._proposed = True
        return True

    def _out_of_tokens(self) -> bool:
        self.trajectory.truncated = True
        self.trajectory.metadata["truncated_by"] = "tokens"
        return False

    async def apply(self) -> bool:
        """Hand the action that was proposed to the environment; return whether the episode goes on."""
        trajectory, turn = self.trajectory, self.trajectory.turns[-1]
        self._proposed = False
        observation, info = await self._act(turn)
        self._observation = observation
        if trajectory.ended:
            return False
        text = shown(self.settings, observation, info, first=False)
        if self.settings.window is None:
            ended = self.chat.ended(trajectory.token_ids[turn.start : turn.end])
            trajectory.append_context(self.chat.extend(text, ended=ended))
        else:
            self._begin_prompt(text, self.settings.window)
        return True

    def _begin_prompt(self, text: str, window: int) -> None:
        """Append a prompt of its own for the next turn."""
        trajectory = self.trajectory
        self.close()
        self._session = self.engine.session()
        self._context_start = len(trajectory.token_ids)
        trajectory.append_context(self.chat.begin(with_history(trajectory, self._first_shown, text, window)))

    async def fork(self) -> "Episode":
        """Return an independent episode in the same state, with a fork of the environment; see `branch`."""
        return self.branch(await self.call(self.env.fork))

    def branch(self, env: TextEnv, *, seed: int | None = None) -> "Episode":
        """Return an independent episode in the same state: tokens, turns and the engine's cache.

        Where an action was proposed and not applied, the child has not proposed it. Its trajectory has no id until its
        owner gives it one.

        Args:
            env: A fork of this episode's environment, which the child owns.
            seed: Seeds the child's sampling; with this episode's own, the default, it repeats what this one does.
        """
        seed = self.seed if seed is None else seed
        child = Episode(env, self.engine, self.chat, self.settings, self.task_id, seed, self.env_seed, self.call)
        parent = self.trajectory
        turns = parent.turns[:-1] if self._proposed else parent.turns
        length = parent.turns[-1].start if self._proposed else len(parent.token_ids)
        child.trajectory = replace(
            parent,
            id="",
            seed=seed,
            turns=[replace(turn) for turn in turns],
            token_ids=parent.token_ids[:length],
            action_mask=parent.action_mask[:length],
            logprobs=parent.logprobs[:length],
            entropies=parent.entropies[:length],
            metadata=dict(parent.metadata),
            parent_id=parent.id or None,
            branch_turn=len(turns),
            branch_offset=length,
        )
        if self._session is not None:
            # The engine must have something to read: the last token of the prompt.
            child._session = self._session.fork(length - self._context_start - 1)
        child._observation, child._first_shown = self._observation, self._first_shown
        child._context_start, child._tool_calls = self._context_start, self._tool_calls
        return child

    def close(self) -> None:
        """Give the engine's cache back; the environment stays with its owner."""
        if self._session is not None:
            self._session.close()

    async def _act(self, turn: Turn) -> tuple[str, Info]:
        started = time.perf_counter()
        answer = await self.call(self.env.step, turn.action)
        turn.env_seconds = time.perf_counter() - started
        info = answer[4]
        if self.settings.show_admissible:
            await self._list_admissible(info)
        observation = note(self.trajectory, turn, answer, calls_before=self._tool_calls)
        self._tool_calls += turn.tool_calls
        return observation, info

    async def _list_admissible(self, info: Info) -> None:
        """Compute the list, which will be shown, as the environment is called: it may take as long as a turn."""
        await self.call(info.get, "admissible_actions")

    def _record(self, completion: Completion, seconds: float, prompt_tokens: int) -> Turn:
        """Append a generation to the trajectory, tokens as they were sampled, and parse the action."""
        trajectory = self.trajectory
        start = len(trajectory.token_ids)
        trajectory.append_action(completion.token_ids, completion.logprobs, completion.entropies)
        text = self.chat.decode(completion.token_ids)
        action = self.settings.parse(text)
        usage = completion.usage
        trajectory.metadata.update(completion.notes)
        _add_usage(trajectory, usage)
        turn = Turn(
            observation=self._observation,
            text=text,
            action=action.text,
            start=start,
            end=len(trajectory.token_ids),
            context_start=self._context_start,
            invalid_action=action.malformed,
            finish_reason=completion.finish_reason,
            engine_version=completion.engine_version,
            engine_seconds=seconds,
            prompt_tokens=usage.prompt_tokens if usage else prompt_tokens,
            generated_tokens=usage.generated_tokens if usage else len(completion.token_ids),
        )
        trajectory.turns.append(turn)
        return turn


def _add_usage(trajectory: Trajectory, usage: Usage | None) -> None:
    """Add what the next turn cost to what the episode did: undefined once the cost of one turn is."""
    metadata = trajectory.metadata
    if usage is None or usage.cost is None:
        metadata.pop("cost", None)
    elif "cost" in metadata or not trajectory.turns:
        metadata["cost"] = repr(float(metadata.get("cost", 0.0)) + usage.cost)
    if usage is not None and usage.retries:
        metadata["request_retries"] = str(int(metadata.get("request_retries", 0)) + usage.retries)


def name_task(trajectory: Trajectory, env: TextEnv, info: Info) -> None:
    """Record which task an environment has begun, and of what kind it is where the environment says so."""
    trajectory.task_id, trajectory.goal = info["task_id"], info["goal"]
    known = env.task.metadata if env.task is not None else {}
    if kind := info.get("task_type") or known.get("task_type"):
        trajectory.metadata["task_type"] = str(kind)


def note(trajectory: Trajectory, turn: Turn, answer: Answer, *, calls_before: int) -> str:
    """Record what the environment answered to a turn's action; return the observation.

    Args:
        trajectory: The episode.
        turn: Its last turn.
        answer: What `TextEnv.step` has returned.
        calls_before: Calls of tools in the turns before, as environments count those of the episode.
    """
    observation, turn.reward, trajectory.terminated, trajectory.truncated, info = answer
    turn.invalid_action = turn.invalid_action or bool(info["invalid_action"])
    calls = info.get("tool_calls")
    if calls is not None:
        turn.tool_calls = int(calls) - calls_before
    trajectory.success, trajectory.score = bool(info["success"]), float(info["score"])
    if trajectory.ended:
        trajectory.final_observation = observation
        if trajectory.truncated:
            trajectory.metadata["truncated_by"] = "turns"
        if answer_given := info.get("answer"):
            _note_answer(trajectory, str(answer_given), str(info.get("vote") or ""))
    return observation


def _note_answer(trajectory: Trajectory, written: str, vote: str) -> None:
    """Keep an answer in the form that is counted, where an environment has one, and else as it was written."""
    trajectory.metadata["answer"] = vote or written
    if vote and vote != written:
        # What is graded again is what was written.
        trajectory.metadata["answer_written"] = written


def with_history(trajectory: Trajectory, first: str, text: str, window: int) -> str:
    """Return the text of a prompt that stands alone: how the episode began, the last turns, and where it stands now.

    Args:
        trajectory: The episode so far; at least one turn.
        first: What the agent was shown at its beginning.
        text: What it is shown now.
        window: How many earlier turns are told, observation and action; the first observation is always there.
    """
    turns = trajectory.turns
    told = turns[max(0, len(turns) - window) :] if window else []
    lines = [first, f"Turns so far: {len(turns)}."]
    for number, turn in enumerate(told, len(turns) - len(told) + 1):
        if number > 1:
            lines.append(f"Observation {number}: {turn.observation}")
        lines.append(f"Action {number}: {turn.action}")
    return "\n".join([*lines, f"Now: {text}"])


def shown(settings: EpisodeSettings, observation: str, info: Info, *, first: bool) -> str:
    """Return the text that the agent reads: the observation, and what the settings add to it."""
    parts = [observation]
    if settings.restate_goal and not first:
        parts.append(f"Goal: {info['goal']}.")
    if settings.show_admissible and info["admissible_actions"]:
        parts.append("Admissible actions: " + ", ".join(info["admissible_actions"]))
    return "\n".join(parts)
