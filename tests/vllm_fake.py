"""A server that speaks vLLM's JSON, as well or as badly as a test wants: real HTTP on the loopback, and no model.

Its policy is a number: every token has the log-probability `-bias`, where `bias` is the mean of the weights that it was
given last.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from openai_server import Asked, FakeServer, Reply, models, refused, serving
from safetensors.torch import load_file

from agent_gym.engines.fingerprint import WeightSums

VOCABULARY = 64
TOKENS = 4
"""Generated for each request."""
_TOLD = {"/pause", "/resume", "/collective_rpc", "/update_weight_version", "/reset_prefix_cache"}
_TRANSFER = {"/init_weight_transfer_engine", "/start_weight_update", "/update_weights", "/finish_weight_update"}
Change = Callable[[dict[str, Any]], dict[str, Any] | Reply]


class FakeVllm:
    """What the server holds and does.

    Args:
        scale_out: Whether it has /inference/v1/generate.
        dev: Whether it can be told to take weights.
        adapters: Whether it loads LoRA adapters.
        context: Its longest sequence.
        after_temperature: Whether log-probabilities depend on the temperature.
    """

    def __init__(
        self,
        *,
        scale_out: bool = True,
        dev: bool = True,
        adapters: bool = False,
        context: int = 512,
        after_temperature: bool = True,
    ) -> None:
        self.scale_out, self.dev, self.adapters = scale_out, dev, adapters
        self.context = context
        self.after_temperature = after_temperature
        self.bias = 2.0
        self.label = "default"
        self.workers = 2
        self.replies: dict[str, Callable[[Asked], Reply | None]] = {}
        """What it does instead for a path; None lets it do as always."""
        self.keeps = False
        """Whether it says that it has taken new weights, and keeps its old ones."""
        self.held = [0.0, 0.0, 0.0]
        """Sums over what it holds, see `fingerprint`."""
        self.change: Change | None = None
        """What becomes of an answer with tokens."""
        self.server: FakeServer

    @property
    def url(self) -> str:
        return self.server.url.removesuffix("/v1")

    def called(self, *paths: str) -> list[Asked]:
        """Return the requests for these paths, all without any, but those that only try what is there."""
        asked = [each for each in self.server.asked if each.body != {}]
        return [each for each in asked if not paths or _bare(each.path) in paths]

    def order(self) -> list[str]:
        """Return the paths of what it was told about weights."""
        return [_bare(each.path) for each in self.called(*_TOLD, *_TRANSFER, "/load_lora_adapter")]

    def __call__(self, asked: Asked, number: int) -> Reply:
        path = _bare(asked.path)
        instead = self.replies.get(path)
        reply = instead(asked) if instead and asked.body != {} else None
        if reply is not None:
            return reply
        if path == "/health":
            return Reply({})
        if path == "/inference/v1/generate":
            return self._generate(asked.body) if self.scale_out else refused(403, "enable scale-out first")
        if path == "/completions":
            return self._complete(asked.body)
        if path == "/load_lora_adapter" and self.adapters:
            return refused(400, "lora_name is required") if asked.body == {} else self._load(asked.body["lora_path"])
        if path in _TOLD and self.dev:
            return self._told(path, asked.body)
        if path == "/get_world_size":
            return Reply({"world_size": self.workers})
        if path in _TRANSFER:
            return Reply({"message": "done"})
        return refused(404, "Not Found")

    def _told(self, path: str, body: Any) -> Reply:
        if path == "/collective_rpc":
            if body["method"] == "agent_gym_load":
                return self._load(body["args"][0])
            return Reply({"results": [{"held": self.held, "dtype": "float32"}]})
        if path == "/update_weight_version":
            self.label = body["new_version"]
        return Reply({"success": True})

    def _load(self, folder: str) -> Reply:
        sums, values = WeightSums(torch.float32), []
        for file in sorted(Path(folder).glob("*.safetensors")):
            values += [tensor.float().mean().item() for _, tensor in sums.passing(load_file(file).items())]
        if not self.keeps:
            self.bias, self.held = sum(values) / len(values), sums.cast
        read = {"tensors": len(values), "read": sums.sums, "given": sums.cast, "held": self.held}
        return Reply({"results": [read]})

    def _generate(self, body: Any) -> Reply:
        if not body:
            return refused(400, "token_ids is required")
        asked = body["sampling_params"]
        tokens, logprob = self._drawn(body["token_ids"], asked)
        top = [{"token_id": (tokens[0] + each) % VOCABULARY, "logprob": logprob, "rank": 1} for each in range(2)]
        content = [{"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": top} for token in tokens]
        logprobs = {"content": content} if "logprobs" in asked else None
        answer = {
            "choices": [self._choice(tokens, logprobs)],
            "prompt_logprobs": self._prompt(body["token_ids"], asked),
        }
        return self._said(answer)

    def _complete(self, body: Any) -> Reply:
        tokens, logprob = self._drawn(body["prompt"], body)
        named = {f"token_id:{(tokens[0] + each) % VOCABULARY}": logprob for each in range(2)}
        logprobs = {
            "tokens": [f"token_id:{token}" for token in tokens],
            "token_logprobs": [logprob] * len(tokens),
            "top_logprobs": [named] * len(tokens),
        }
        choice = self._choice(tokens, logprobs if "logprobs" in body else None)
        return self._said({"choices": [{**choice, "prompt_logprobs": self._prompt(body["prompt"], body), "text": "?"}]})

    def _said(self, answer: dict[str, Any]) -> Reply:
        changed = self.change(answer) if self.change else answer
        return changed if isinstance(changed, Reply) else Reply(changed)

    def _drawn(self, prompt: list[int], asked: Any) -> tuple[list[int], float]:
        count = min(asked["max_tokens"], TOKENS)
        seed = zlib.crc32(f"{prompt} {asked.get('seed')}".encode())
        temperature = asked["temperature"] if self.after_temperature else 1.0
        return [(seed + place) % VOCABULARY for place in range(count)], -self.bias * temperature

    def _choice(self, tokens: list[int], logprobs: Any) -> dict[str, Any]:
        spans = [{"version": self.label, "start": 0, "end": len(tokens)}]
        return {
            "index": 0, "token_ids": tokens, "finish_reason": "length", "logprobs": logprobs, "weight_versions": spans,
        }  # fmt: skip

    def _prompt(self, prompt: list[int], asked: Any) -> Any:
        if "prompt_logprobs" not in asked:
            return None
        return [None, *({str(token): {"logprob": -self.bias, "rank": 1}} for token in prompt[1:])]


def _bare(path: str) -> str:
    return path.partition("?")[0]


@contextmanager
def vllm_serving(fake: FakeVllm | None = None) -> Iterator[FakeVllm]:
    """Run a server for the time of the block."""
    fake = fake or FakeVllm()
    with serving(fake, models("policy", max_model_len=fake.context)) as server:
        fake.server = server
        yield fake
