"""An extension of vLLM's workers that loads new weights from files. It needs vLLM, and nothing of agent_gym.

A server gets it by `--worker-extension-cls agent_gym_worker.WorkerExtension`, with this folder on PYTHONPATH. It is
imported before the model is made, which is when `keep_linear_weights` must be called.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def keep_linear_weights() -> None:
    """Have vLLM keep the weights of linear layers where it runs on a CPU, so that they can be replaced.

    It would pack them for oneDNN when the model is loaded, empty the parameters, and ignore new values ever after
    without a word (seen in vLLM 0.32). On GPUs this changes nothing: what is replaced here is not called there.
    """
    import torch
    from vllm.model_executor.layers import utils

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    if hasattr(utils, "dispatch_cpu_unquantized_gemm"):
        utils.dispatch_cpu_unquantized_gemm = plain


keep_linear_weights()


def load_all(model_runner: Any, weights: "Iterable[tuple[str, Any]]") -> None:
    """Load weights into a worker's model, and make sure that every parameter got some.

    vLLM itself goes on with the old ones where some are missing, and only its log says so.

    Args:
        model_runner: The worker's.
        weights: Names as in the model's own checkpoint, and tensors.

    Raises:
        ValueError: Parameters got no new weights; others did.
    """
    model = model_runner.get_model()
    load = model.load_weights
    loaded: set[str] | None = set()

    def noting(given: "Iterable[tuple[str, Any]]") -> Any:
        nonlocal loaded
        names = load(given)
        # Some models do not say what they have loaded.
        loaded = None if names is None or loaded is None else loaded | set(names)
        return names

    model.load_weights = noting
    try:
        model_runner.reload_weights(weights_iterator=weights, is_checkpoint_format=True)
    finally:
        del model.load_weights
    if loaded is None or model_runner.vllm_config.model_config.quantization is not None:
        return
    missing = sorted({name.replace(".base_layer.", ".") for name, _ in model.named_parameters()} - loaded)
    if missing:
        raise ValueError(f"the new weights lack {len(missing)} of the model's parameters, {missing[0]!r} among them")


class WorkerExtension:
    """Methods that a worker of vLLM gets, called through /collective_rpc; its own attributes are the worker's."""

    model_runner: Any

    def agent_gym_load(self, folder: str) -> dict[str, Any]:
        """Load the weights in a folder's safetensors files, under the names of the model's own checkpoint.

        Args:
            folder: Where the files are, for this process.

        Returns:
            How many "tensors" were read, and sums (see `agent_gym_fingerprint`) over what was "read", over the same
            in this model's type ("given"), and over what this worker's model has now ("held"). Or what went wrong
            ("error"): an exception would reach the caller without its words.
        """
        # It lies beside this file, whose folder is on the path.
        from agent_gym_fingerprint import WeightSums, model_sums  # type: ignore[import-not-found]

        sums = WeightSums(self.model_runner.model_config.dtype)

        def tensors() -> Iterator[tuple[str, Any]]:
            from safetensors import safe_open

            files = sorted(Path(folder).glob("*.safetensors"))
            if not files:
                raise FileNotFoundError(f"{folder} holds no safetensors files: is it on a disk that both machines see?")
            for path in files:
                with safe_open(str(path), framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - it is no mapping
                        yield name, file.get_tensor(name)

        try:
            load_all(self.model_runner, sums.passing(tensors()))
            held = model_sums(self.model_runner.get_model())
        except Exception as error:  # noqa: BLE001 - whatever it is, the trainer must hear of it
            return {"error": f"{type(error).__name__}: {error}", "tensors": sums.tensors}
        return {"tensors": sums.tensors, "read": sums.sums, "given": sums.cast, "held": held}

    def agent_gym_dtype(self) -> dict[str, Any]:
        """Return the "dtype" of the model, as torch calls it ("bfloat16")."""
        return {"dtype": str(self.model_runner.model_config.dtype).removeprefix("torch.")}

    def agent_gym_held(self) -> dict[str, Any]:
        """Return sums over what this worker's model has now ("held"), see `agent_gym_fingerprint`."""
        from agent_gym_fingerprint import model_sums

        return {"held": model_sums(self.model_runner.get_model())}
