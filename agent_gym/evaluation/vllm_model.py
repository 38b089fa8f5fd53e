"""Evaluating with vLLM in this process: `--model vllm:` and a folder, a run, or a name on the hub."""

import asyncio
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_gym.config import EvalConfig
from agent_gym.engines.adapters import is_adapter
from agent_gym.engines.loading import load_model, load_tokenizer
from agent_gym.engines.vllm import VllmEngine
from agent_gym.engines.vllm_building import import_vllm
from agent_gym.errors import ConfigError, suggestion
from agent_gym.evaluation.models import EngineModel, model_folder
from agent_gym.rollout.chat import TemplateChat
from agent_gym.trainers.weights import named_weights


class VllmModel(EngineModel):
    """A model that vLLM runs in this process.

    Args:
        config: Its model begins with "vllm:".

    Raises:
        MissingExtraError: vLLM is not installed.
        ConfigError: The engine has no such argument.
        EngineError: There is no such model, or vLLM cannot run it.
    """

    def __init__(self, config: EvalConfig) -> None:
        # What is missing is said before a model is loaded.
        import_vllm()
        path = str(model_folder(config.model.removeprefix("vllm:")))
        arguments = {"max_batch": config.rollout.concurrency, **_checked(config.vllm)}
        if is_adapter(Path(path).expanduser()):
            model, tokenizer = load_model(path)
            # A tokenizer without a chat template is refused before vLLM is started.
            TemplateChat(tokenizer, system_prompt=config.rollout.system_prompt)
            self.vllm = VllmEngine.twin(model, tokenizer, **arguments)
            try:
                asyncio.run(self.vllm.sync(named_weights(model)))
            except BaseException:
                self.close()
                raise
        else:
            tokenizer = load_tokenizer(path)
            TemplateChat(tokenizer, system_prompt=config.rollout.system_prompt)
            self.vllm = VllmEngine(path, **arguments)
        super().__init__(self.vllm, lambda system_prompt: TemplateChat(tokenizer, system_prompt=system_prompt))

    def close(self) -> None:
        """End vLLM."""
        asyncio.run(self.vllm.aclose())


def _checked(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return arguments of the engine that it has."""
    known = inspect.signature(VllmEngine).parameters.keys() - {"model", "weights", "sleep"}
    for name in arguments:
        if name not in known:
            raise ConfigError(f"Unknown argument vllm.{name}{suggestion(name, known)}")
    return arguments
