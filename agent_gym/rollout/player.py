"""Episodes played without a model: by a demonstrator, or by chance; recorded like any other.

A policy is a generator: it yields moves and is sent what the environment answers.
"""

import logging
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from agent_gym.env import Info, TextEnv
from agent_gym.errors import AgentGymError, ConfigError, MissingExtraError
from agent_gym.rollout.actions import Syntax
from agent_gym.rollout.chat import Chat
from agent_gym.rollout.episode import EpisodeSettings, name_task, note, shown, with_history
from agent_gym.trajectory import Trajectory, Turn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Move:
    """What a policy does in one turn."""

    action: str
    exemplary: bool = True
    """False where nobody should learn to act so: the tokens then count as context, not as the agent's own."""


Moves = Generator[Move, tuple[str, Info], None]
"""Yields moves, is sent (observation, info)."""

Policy = Callable[[TextEnv, str, Info, random.Random], Moves]
"""Begins to act in an environment that was just reset: (environment, observation, info, source of chance)."""


class PlayerLeftError(AgentGymError):
    """A person has stopped playing; the episode is nobody's."""


@dataclass(frozen=True, slots=True)
class Person:
    """A policy that asks a person.

    Args:
        ask: Returns what the person types; None where the person leaves.
        tell: Shows a text to the person.
    """

    ask: Callable[[], str | None]
    tell: Callable[[str], None]

    def __call__(self, env: TextEnv, observation: str, info: Info, rng: random.Random) -> Moves:
        """Show observations and ask for actions; "?" lists those that the environment admits.

        Raises:
            PlayerLeftError: The person leaves.
        """
        self.tell(f"task {info['task_id']}; ? lists what you can do, Ctrl-D ends\n\n{observation}")
        while True:
            action = self.ask()
            if action is None:
                raise PlayerLeftError("The player has left.")
            if action.strip() == "?":
                self.tell("\n".join(info["admissible_actions"] or ()) or "This environment lists no actions.")
                continue
            observation, info = yield Move(action.strip())
            self.tell(observation)


def follow_demonstrator(env: TextEnv, observation: str, info: Info, rng: random.Random) -> Moves:
    """Act as the environment's demonstrator does.

    Raises:
        ConfigError: It has none.
    """
    actions = env.demonstrate(observation, rng)
    if actions is None:
        raise ConfigError(f"{type(env).__name__} has no demonstrator: write its demonstrate() or expert().")
    action = next(actions, None)
    while action is not None:
        observation, _ = yield Move(action)
        try:
            action = actions.send(observation)
        except StopIteration:
            return


def act_at_random(env: TextEnv, observation: str, info: Info, rng: random.Random) -> Moves:
    """Draw from the admissible actions.

    Raises:
        ConfigError: The environment does not list them.
    """
    while True:
        admissible = info["admissible_actions"]
        if not admissible:
            raise ConfigError(
                f"{type(env).__name__} does not list its admissible actions: have its State say admissible=, or "
                "choose another policy."
            )
        _, info = yield Move(rng.choice(admissible))


def play(
    env: TextEnv,
    policy: Policy,
    chat: Chat,
    syntax: Syntax,
    settings: EpisodeSettings,
    *,
    seed: int,
    task_id: str | None = None,
) -> Trajectory:
    """Play one episode.

    A crash of the environment is recorded in the trajectory, not raised.

    Args:
        env: The environment.
        policy: Who acts.
        chat: How observations and answers become tokens.
        syntax: How actions are written.
        settings: How observations are shown; sampling is not used.
        seed: Seeds the environment and the policy.
        task_id: The task, or None to let the seed choose.

    Raises:
        ConfigError: The policy cannot act in this environment.
        MissingExtraError: The environment needs something that is not installed.
        PlayerLeftError: The policy is a person, who has left.
    """
    trajectory, began = Trajectory(task_id=task_id or "", seed=seed), time.perf_counter()
    try:
        options = {"task": task_id} if task_id is not None else None
        observation, info = env.reset(seed=seed, options=options)
        name_task(trajectory, env, info)
        first = shown(settings, observation, info, first=True)
        trajectory.append_context(chat.begin(first))
        context_start = calls = 0
        moves = policy(env, observation, info, random.Random(seed))
        move = next(moves, None)
        while move is not None:
            turn = _record(trajectory, observation, move, chat, syntax)
            turn.context_start, turn.prompt_tokens = context_start, turn.start - context_start
            started = time.perf_counter()
            answer = env.step(turn.action)
            turn.env_seconds = time.perf_counter() - started
            observation, info = note(trajectory, turn, answer, calls_before=calls), answer[4]
            calls += turn.tool_calls
            if trajectory.ended:
                break
            if settings.seconds is not None and time.perf_counter() - began > settings.seconds:
                trajectory.error = f"TimeoutError: not done after {settings.seconds:g} s"
                break
            text = shown(settings, observation, info, first=False)
            if settings.window is None:
                trajectory.append_context(chat.extend(text, ended=True))
            else:
                context_start = len(trajectory.token_ids)
                trajectory.append_context(chat.begin(with_history(trajectory, first, text, settings.window)))
            try:
                move = moves.send((observation, info))
            except StopIteration:
                break
        moves.close()
    except (ConfigError, MissingExtraError, PlayerLeftError):
        raise
    except Exception as error:
        logger.warning("Episode of task %s failed: %s", trajectory.task_id, error, exc_info=True)
        trajectory.error = f"{type(error).__name__}: {error}"
    return trajectory


def _record(trajectory: Trajectory, observation: str, move: Move, chat: Chat, syntax: Syntax) -> Turn:
    """Append the tokens that a model would have generated for a move."""
    text = syntax.write(move.action)
    answer = chat.answer(text)
    start = len(trajectory.token_ids)
    if move.exemplary:
        zeros = [0.0] * len(answer)
        trajectory.append_action(answer, zeros, zeros)
    else:
        trajectory.append_context(answer)
    turn = Turn(observation, text, move.action, start, len(trajectory.token_ids), generated_tokens=len(answer))
    trajectory.turns.append(turn)
    return turn
