"""One exception per boundary that can fail.

Each message is one sentence that names what failed and how to mend it. The command line prints the sentence
and exits with code 2; a traceback is for bugs alone.
"""

import difflib
from collections.abc import Iterable


class AgentGymError(Exception):
    """Base of every error that agent_gym raises on purpose."""


class ConfigError(AgentGymError):
    """A configuration key is unknown or its value is out of range."""


class UnknownIdError(AgentGymError):
    """No environment, task, preset or run is registered under that id."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> "UnknownIdError":
        """Build the error for `name`, with the nearest known id first and then the known ones."""
        return cls(f"Unknown {kind} {name!r}{suggestion(name, known)}")


class EnvError(AgentGymError):
    """The class of an environment is not as `TextEnv` asks; the message says which method, and what it must do."""


class GameError(AgentGymError):
    """A game file cannot be read, or it is not a game that this engine can play."""


class EpisodeEnded(AgentGymError):  # noqa: N818 - the design's word for it
    """`step` was called after the episode had terminated or was truncated, or before `reset`."""


class StaleInfo(AgentGymError):  # noqa: N818 - it is the info that is stale
    """A lazy value of an earlier turn was read after the environment, which cannot go back, had moved on."""


class WorkerError(AgentGymError):
    """The process that runs an environment has died, or has not answered in time and was ended."""


class SandboxError(WorkerError):
    """The sandbox itself failed; this says nothing about the code that ran in it, and is never a reward of 0."""


class SandboxUnavailable(AgentGymError):  # noqa: N818 - it is what the machine lacks
    """No isolating backend works on this machine; the message lists what was tried and how to mend it."""


class ToolError(AgentGymError):
    """A tool cannot be made or set up, or its recorded traffic lacks a call; a call that fails is an observation."""


class ForkDiverged(AgentGymError):  # noqa: N818 - the design's word for it
    """Replaying the actions of an episode on a fresh environment gave another observation."""


class EngineError(AgentGymError):
    """The engine cannot serve the request (model missing, context too long, wrong output)."""


class RefusedError(EngineError):
    """No request of the engine can succeed (a wrong key, an unknown model): it ends all episodes, not one."""


class ContextLengthError(EngineError):
    """A prompt is longer than the model's context: it ends the episode as its limit of tokens does."""


class ChatTemplateError(AgentGymError):
    """The tokenizer has no chat template, or one that cannot be extended by appending tokens."""


class StoreError(AgentGymError):
    """A run folder cannot be read or written."""


class StoppedError(StoreError):
    """A run was asked to end by a signal and did; it can be gone on with."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """What the command ends with: 128 and the signal's number, as shells have it."""


class TrainingError(AgentGymError):
    """The training step cannot go on (non-finite numbers, an empty batch, a buffer of another model)."""


class ProcessError(AgentGymError):
    """Another process of the run has ended, or has not answered in time."""


class DataError(AgentGymError):
    """Data cannot be fetched, is not what was asked for, or cannot be kept."""


class ManifestError(AgentGymError):
    """A file is no manifest, cannot be read as one, or is one of another environment."""


class MissingExtraError(AgentGymError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, extra: str, feature: str) -> "MissingExtraError":
        """Build the error with the command that installs the extra."""
        return cls(f"{feature} needs an optional dependency: run pip install 'agent-gym[{extra}]'.")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the tail of a sentence: the nearest of the known names, then all of them (ten at most)."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    shown = ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
    mean = f": did you mean {near[0]!r}?" if near else "."
    return f"{mean} Known: {shown or 'none'}."
