"""Episodes as a log of inspect_ai (its `.eval` format, version 2), which its viewer and its readers open.

A log is a zip file: `header.json` says what was evaluated and with what result, `samples/ID_epoch_N.json` holds one
episode each, `summaries.json` their heads, `reductions.json` the means over attempts, and `_journal/start.json` what
was known at the start. Written without inspect_ai. Only heads and a few numbers a task are kept until the end, the
heads in a file; the zip's own directory takes about half a kilobyte an episode.
"""

import hashlib
import math
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any, Final

from agent_gym.evaluation.exchange.conversations import KEPT
from agent_gym.evaluation.exchange.inspect_scores import SCORERS, Tally
from agent_gym.evaluation.exchange.reading import Stored
from agent_gym.evaluation.exchange.records import EPISODE_FIELDS, encoded
from agent_gym.trajectory import Trajectory, Turn

ABOUT: Final = tuple(name for name in EPISODE_FIELDS if name not in ("task_id", "error", "final_observation"))
"""Fields of an episode that a sample's metadata holds under their names."""
OURS: Final = "agent_gym"
"""The package that a log of ours names, and the key of a sample's metadata that holds what only we read again."""
_VERSION: Final = 2
_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_HEAD: Final = 1000
"""Characters of each text in the heads, at most."""
_STOPS: Final = {"stop": "stop", "length": "max_tokens", "tool_calls": "tool_calls"}
_LIMITS: Final = {"tokens": "token", "turns": "turn", "seconds": "time"}


class InspectLog:
    """A log that is being written.

    Args:
        path: The file; a new one.
        spec: What is the same for all its samples: `task`, `model`, `created` and what else `EvalSpec` has.
        plan: How episodes were played, inspect_ai's `EvalPlan`.
        system_prompt: What stood before each first observation.
    """

    def __init__(self, path: Path, spec: dict[str, Any], plan: dict[str, Any], *, system_prompt: str = "") -> None:
        self.spec, self.plan, self.system_prompt = spec, plan, system_prompt
        self.tally = Tally()
        self._zip = zipfile.ZipFile(path, "w")
        self._heads: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed by `close`

    def add(self, stored: Stored) -> None:
        """Write an episode."""
        sample = self._sample(stored, self.tally.epoch(stored.trajectory))
        self._write(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", encoded(sample))
        self._heads.write(b",\n" if self._heads.tell() else b"[")
        self._heads.write(encoded(_head(sample)))

    def finish(self, *, status: str, completed: str) -> None:
        """Write what is known at the end.

        Args:
            status: "success", "cancelled" or "error".
            completed: When it ended, in ISO 8601.
        """
        tasks = list(self.tally.tasks)
        spec = {**self.spec, "dataset": {**self.spec["dataset"], "samples": len(tasks), "sample_ids": tasks}}
        spec["config"] = {"epochs": self.tally.epochs, "fail_on_error": False, "log_samples": True}
        spec["scorers"] = [
            {
                "name": name,
                "options": {},
                "metrics": [{"name": f"inspect_ai/{each}", "options": {}} for each in metrics],
            }
            for name, metrics in SCORERS.items()
        ]
        self._write("_journal/start.json", encoded({"version": _VERSION, "eval": spec, "plan": self.plan}))
        self._heads.write(b"]" if self._heads.tell() else b"[]")
        self._heads.seek(0)
        with self._zip.open(_entry("summaries.json"), "w", force_zip64=True) as file:
            while block := self._heads.read(2**20):
                file.write(block)
        self._write("reductions.json", encoded(list(self.tally.reductions())))
        stats = {"started_at": spec["created"], "completed_at": completed, "model_usage": self.tally.usage}
        header = {
            "version": _VERSION,
            "status": status,
            "eval": spec,
            "plan": self.plan,
            "results": self.tally.results(),
            "stats": {**stats, "role_usage": {}},
            "invalidated": False,
        }
        self._write("header.json", encoded(header))

    def close(self) -> None:
        """Close the files; what `finish` has not completed is no log."""
        self._zip.close()
        self._heads.close()

    def _write(self, name: str, content: bytes) -> None:
        self._zip.writestr(_entry(name), content)

    def _sample(self, stored: Stored, epoch: int) -> dict[str, Any]:
        trajectory = stored.trajectory
        turns, about = trajectory.turns, trajectory.metadata
        model = about.get("model", self.spec["model"])
        name = identifier(self.spec["run_id"], trajectory.id, str(epoch))
        usage = _usage(trajectory)
        messages = _messages(trajectory, model, name, self.system_prompt)
        answers = [message for message in messages if message["role"] == "assistant"]
        output: dict[str, Any] = {"model": model, "choices": [], "completion": ""}
        if answers:
            stop = _STOPS.get(turns[-1].finish_reason, "unknown")
            output = {"model": model, "choices": [{"message": answers[-1], "stop_reason": stop}]}
            used = _used(turns[-1])
            output |= {"completion": turns[-1].text, "usage": {**used, "total_tokens": sum(used.values())}}
            output["time"] = turns[-1].engine_seconds
        seconds = sum(turn.engine_seconds + turn.env_seconds for turn in trajectory.own_turns)
        sample: dict[str, Any] = {
            "id": trajectory.task_id,
            "epoch": epoch,
            "input": turns[0].observation if turns else trajectory.goal,
            "target": about.get("target", ""),
            "description": trajectory.goal or None,
            "messages": messages,
            "output": output,
            "scores": _scores(trajectory),
            "metadata": _metadata(stored),
            "store": {},
            "events": [],
            "model_usage": {model: usage},
            "role_usage": {},
            "total_time": seconds,
            "working_time": seconds,
            "uuid": name,
            "error_retries": [],
            "attachments": {},
            "turn_count": len(turns),
        }
        if trajectory.error is not None:
            sample["error"] = dict.fromkeys(("message", "traceback", "traceback_ansi"), trajectory.error)
        elif trajectory.truncated:
            kind = _LIMITS.get(about.get("truncated_by", "turns"), "custom")
            reached = usage["total_tokens"] if kind == "token" else seconds if kind == "time" else len(turns)
            sample["limit"] = {"type": kind, "limit": reached}
        self.tally.add(trajectory, model, usage)
        return sample


def identifier(*parts: str) -> str:
    """Return 22 characters that follow from the parts, as inspect_ai names things."""
    number = int.from_bytes(hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=16).digest())
    digits = []
    for _ in range(22):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry of a zip without the time of day: the same episodes give the same file."""
    entry = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _messages(trajectory: Trajectory, model: str, name: str, system_prompt: str) -> list[dict[str, Any]]:
    chat: list[dict[str, Any]] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    for turn in trajectory.turns:
        chat.append({"role": "user", "content": turn.observation})
        answer = {"role": "assistant", "content": turn.text, "source": "generate", "model": model}
        chat.append({**answer, "metadata": _about_turn(turn)})
    if trajectory.final_observation:
        chat.append({"role": "user", "content": trajectory.final_observation})
    for number, message in enumerate(chat):
        message["id"] = f"{name[:16]}{number:06d}"
    return chat


def _about_turn(turn: Turn) -> dict[str, Any]:
    """Return what a chat does not say about a turn, and goes without saying nowhere else."""
    about = {field: getattr(turn, field) for field in KEPT}
    about = {field: value for field, value in about.items() if value} | _used(turn)
    if turn.action == turn.text:
        del about["action"]
    if turn.finish_reason != "stop":
        about["finish_reason"] = turn.finish_reason
    return about


def _metadata(stored: Stored) -> dict[str, Any]:
    """Return what is known about an episode: as its metadata says it, then what only we read again."""
    trajectory = stored.trajectory
    kept = {field: getattr(trajectory, field) for field in ABOUT if field != "goal"}
    more = {"step": stored.step, "phase": stored.phase, "metadata": trajectory.metadata}
    shown = {"goal": trajectory.goal, "reward": trajectory.reward}
    return {**trajectory.metadata, **shown, OURS: {**kept, **more}}


def _scores(trajectory: Trajectory) -> dict[str, Any]:
    """Return what the scorers say; nothing of an episode that failed, as inspect_ai has it."""
    if trajectory.error is not None:
        return {}
    answer = trajectory.metadata.get("answer", trajectory.turns[-1].action if trajectory.turns else "")
    values = {"success": "C" if trajectory.success else "I", "score": trajectory.score, "reward": trajectory.reward}
    scored = {name: value for name, value in values.items() if isinstance(value, str) or math.isfinite(value)}
    return {name: {"value": value, "answer": answer, "history": []} for name, value in scored.items()}


def _used(turn: Turn) -> dict[str, int]:
    """Return the tokens that a turn read and generated."""
    read = turn.prompt_tokens or turn.start - turn.context_start
    generated = turn.generated_tokens or turn.end - turn.start
    return {"input_tokens": read, "output_tokens": generated}


def _usage(trajectory: Trajectory) -> dict[str, float]:
    """Return the tokens of an episode, and what they cost where that is known."""
    total: dict[str, float] = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    for turn in trajectory.own_turns:
        for name, count in _used(turn).items():
            total[name] += count
            total["total_tokens"] += count
    if "cost" in trajectory.metadata:
        total["total_cost"] = float(trajectory.metadata["cost"])
    return total


def _head(sample: dict[str, Any]) -> dict[str, Any]:
    """Return what lists of samples show."""
    same = ("id", "epoch", "model_usage", "role_usage", "total_time", "working_time", "uuid", "turn_count")
    head = {name: sample[name] for name in same}
    head |= {"input": sample["input"][:_HEAD], "target": sample["target"][:_HEAD]}
    if sample["description"]:
        head["description"] = sample["description"][:_HEAD]
    head["metadata"] = {
        name: value[:_HEAD] if isinstance(value, str) else value
        for name, value in sample["metadata"].items()
        if name != OURS
    }
    head["scores"] = {name: {**score, "answer": score["answer"][:_HEAD]} for name, score in sample["scores"].items()}
    head |= {"retries": 0, "completed": True, "message_count": len(sample["messages"])}
    if "error" in sample:
        head["error"] = sample["error"]["message"][:_HEAD]
    if "limit" in sample:
        head["limit"] = sample["limit"]["type"]
    return head
