"""An extension of vLLM's workers that loads new weights from files. It needs vLLM, and nothing of agent_gym.

A server gets it by `--worker-extension-cls agent_gym_worker.WorkerExtension`, with this folder on PYTHONPATH. It is
imported before the model is made, which is when `keep_linear_weights` must be called.
"""

from collections.abc import Iterator
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


class WorkerExtension:
    """Methods that a worker of vLLM gets, called through /collective_rpc; its own attributes are the worker's."""

    model_runner: Any

    def agent_gym_load(self, folder: str) -> dict[str, Any]:
        """Load the weights in a folder's safetensors files, under the names of the model's own checkpoint.

        Args:
            folder: Where the files are, for this process.

        Returns:
            {"tensors": how many were read}, or {"error": what went wrong}: an exception would reach the caller
            without its words.
        """
        read = 0

        def tensors() -> Iterator[tuple[str, Any]]:
            nonlocal read
            from safetensors import safe_open

            files = sorted(Path(folder).glob("*.safetensors"))
            if not files:
                raise FileNotFoundError(f"{folder} holds no safetensors files: is it on a disk that both machines see?")
            for path in files:
                with safe_open(str(path), framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - it is no mapping
                        yield name, file.get_tensor(name)
                        read += 1

        try:
            self.model_runner.reload_weights(weights_iterator=tensors(), is_checkpoint_format=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the trainer must hear of it
            return {"error": f"{type(error).__name__}: {error}", "tensors": read}
        return {"tensors": read}
