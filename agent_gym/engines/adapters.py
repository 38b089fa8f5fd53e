"""LoRA adapters inside a Hugging Face model, through peft: added, written, loaded, and set back for a while.

Adapters are injected into the model's own layers, so that it stays the model that engines and trainers know, and
every forward pass goes through them. peft is imported only where a model has adapters.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from agent_gym.engines.weights import whole
from agent_gym.errors import EngineError, MissingExtraError
from agent_gym.sections import LoraSection

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE_FOLDER = "base"
"""Where a run keeps a base model that lies nowhere else."""
_NAME = "default"
_PREFIX = "base_model.model."
"""Of names in an adapter's file, as peft writes them."""


def add_adapters(model: PreTrainedModel, section: LoraSection, *, base: str | None, seed: int) -> None:
    """Put new LoRA adapters into a model, in place; from then on they alone are trained.

    They are float32 whatever the model is, and change nothing before they are trained.

    Args:
        model: The base; its own weights are frozen.
        section: Rank and the like.
        base: Folder or hub name of the base, by which the adapter's files refer to it; None where it is nowhere yet.
        seed: Of the adapters' first weights.

    Raises:
        MissingExtraError: peft is not installed.
        EngineError: The model has no such layers.
    """
    lora_config = _peft().LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=section.target_modules,
        use_rslora=section.rank_stabilized,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**32)
        try:
            model.add_adapter(lora_config, _NAME)
        except ValueError as error:
            raise EngineError(f"LoRA does not fit the model: {error} (model.lora.target_modules).") from error
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()
    lora_config.base_model_name_or_path = _lasting(base)


def has_adapters(model: PreTrainedModel) -> bool:
    """Return whether a model has LoRA adapters in it."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def adapter_parameters(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """Return the adapters' parameters under the names that they have in the model."""
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter instead of a whole model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def adapter_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield names and whole tensors of a model's adapter, as peft writes them to a file.

    Where the model is sharded, every process has to iterate along, to the end.
    """
    for name, parameter in adapter_parameters(model).items():
        yield _file_name(name), whole(parameter.detach())


def adapter_names(model: PreTrainedModel) -> frozenset[str]:
    """Return the names that `adapter_weights` yields."""
    return frozenset(map(_file_name, adapter_parameters(model)))


def adapter_config(model: PreTrainedModel) -> Any:
    """Return peft's own configuration of a model's adapter."""
    return model.peft_config[_NAME]


def write_adapter(folder: Path, weights: Iterable[tuple[str, Tensor]], config: Any) -> None:
    """Write an adapter in peft's own format: what `PeftModel.from_pretrained` and vLLM's servers load.

    Args:
        folder: It exists; files of an earlier adapter are replaced.
        weights: From `adapter_weights`.
        config: From `adapter_config`.
    """
    on_cpu = {name: tensor.cpu().contiguous() for name, tensor in weights}
    save_file(on_cpu, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool) -> None:
    """Put the adapter of a folder into its base, in place.

    Args:
        model: The base.
        folder: As `write_adapter` left it.
        trainable: Whether it is trained on; the base is frozen in any case.

    Raises:
        MissingExtraError: peft is not installed.
        EngineError: The adapter does not fit the model.
    """
    lora_config = _peft().LoraConfig.from_pretrained(str(folder))
    lora_config.inference_mode = not trainable
    model.add_adapter(lora_config, _NAME)
    lora_config.base_model_name_or_path = json.loads((folder / CONFIG).read_text())["base_model_name_or_path"]
    stored = load_file(folder / WEIGHTS)
    parameters = adapter_parameters(model)
    if {_file_name(name): value.shape for name, value in parameters.items()} != {n: v.shape for n, v in stored.items()}:
        raise EngineError(f"The adapter in {folder} does not fit the model that its {CONFIG} names as its base.")
    for name, parameter in parameters.items():
        parameter.data = stored[_file_name(name)].to(parameter.device)
        parameter.requires_grad_(trainable)


def base_of(folder: Path) -> str:
    """Return folder or hub name of the model that the adapter in a folder belongs to.

    A run that was moved takes the base in it along.

    Raises:
        EngineError: The adapter does not say.
    """
    named = json.loads((folder / CONFIG).read_text()).get("base_model_name_or_path")
    inside = folder.resolve().parent.parent / BASE_FOLDER
    if inside.is_dir() and (named is None or not Path(named).exists()):
        return str(inside)
    if named is None:
        raise EngineError(f"The adapter in {folder} does not say what it adapts: put base_model_name_or_path in it.")
    return str(named)


def name_base(model: PreTrainedModel, base: str) -> None:
    """Let a model's adapter, when it is written, refer to its base by this folder or hub name."""
    model.peft_config[_NAME].base_model_name_or_path = _lasting(base)


def named_base(model: PreTrainedModel) -> str | None:
    """Return how a model's adapter refers to its base; None where that is nowhere yet."""
    named: str | None = model.peft_config[_NAME].base_model_name_or_path
    return named


class StartingAdapter:
    """The adapters of a model as they were: with them it is the policy that a run began with, and needs no copy.

    Args:
        model: With adapters that are trained.
        folder: The adapter to go back to, as `write_adapter` left it; zero in the first place, it is the bare base.
    """

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        self.model = model
        self._stored = load_file(folder / WEIGHTS)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model be what it was, and evaluate, inside the block; afterwards it is what it is, to the bit."""
        parameters = adapter_parameters(self.model)
        present = {name: _local(parameter).detach().clone() for name, parameter in parameters.items()}
        training = self.model.training
        self.model.eval()
        try:
            for name, parameter in parameters.items():
                _fill(parameter, self._stored[_file_name(name)])
            yield
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    _local(parameter).copy_(present[name])
            self.model.train(training)


@torch.no_grad()
def _fill(parameter: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a parameter of which this process may hold a part."""
    if isinstance(parameter, DTensor):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements).to_local()
    _local(parameter).copy_(value)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _file_name(name: str) -> str:
    return _PREFIX + name.replace(f".{_NAME}.", ".")


def _lasting(base: str | None) -> str | None:
    """Return a name that holds from any folder."""
    return str(Path(base).expanduser().resolve()) if base is not None and Path(base).expanduser().exists() else base


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError.of("lora", "LoRA") from error
    return peft
