"""The shapes of dense decoders, and how many parameters follow from them: no weights and no network are needed.

The table holds what the `config.json` of well-known models says; any other model is read from its own folder.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from agent_gym.errors import ConfigError, suggestion

Family = Literal["llama", "qwen2", "qwen3"]
"""Families of transformers whose parameters and activations are counted here."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a decoder with gated feed-forward layers, RMS norms and grouped-query attention."""

    name: str
    family: Family
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    context: int
    """Longest sequence, in tokens."""
    tied: bool
    """Whether the output layer is the embedding."""

    @property
    def attention_width(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Width of all keys (or values) together."""
        return self.kv_heads * self.head_size

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear layer of a decoder layer, by name."""
        return {
            "q_proj": (self.hidden, self.attention_width),
            "k_proj": (self.hidden, self.kv_width),
            "v_proj": (self.hidden, self.kv_width),
            "o_proj": (self.attention_width, self.hidden),
            "gate_proj": (self.hidden, self.feed_forward),
            "up_proj": (self.hidden, self.feed_forward),
            "down_proj": (self.feed_forward, self.hidden),
        }

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer: its matrices, two norms, and what the family adds."""
        matrices = sum(inputs * outputs for inputs, outputs in self.linear_layers.values())
        biases = self.attention_width + 2 * self.kv_width if self.family == "qwen2" else 0
        norms = 2 * self.hidden + (2 * self.head_size if self.family == "qwen3" else 0)
        return matrices + biases + norms

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding, and as many of an output layer that is not tied to it."""
        return self.vocabulary * self.hidden

    @property
    def backbone_parameters(self) -> int:
        """Parameters of all but the output layer: what a critic copies."""
        return self.embedding_parameters + self.layers * self.layer_parameters + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; tied ones count once."""
        return self.backbone_parameters + (0 if self.tied else self.embedding_parameters)

    def model_config(self, **changes: Any) -> Any:
        """Return the configuration of transformers for a model of this shape, or of one that is changed.

        Args:
            changes: Arguments of the configuration, for example `num_hidden_layers=1`.
        """
        from transformers import AutoConfig

        arguments = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
        }
        return AutoConfig.for_model(self.family, **arguments | changes)


# Layers, hidden, heads, heads of keys and values, size of a head, feed-forward, vocabulary, context, tied.
_ROWS: dict[str, tuple[Family, int, int, int, int, int, int, int, int, bool]] = {
    "Qwen/Qwen2.5-0.5B": ("qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, True),
    "Qwen/Qwen2.5-1.5B": ("qwen2", 28, 1536, 12, 2, 128, 8960, 151936, 32768, True),
    "Qwen/Qwen2.5-3B": ("qwen2", 36, 2048, 16, 2, 128, 11008, 151936, 32768, True),
    "Qwen/Qwen2.5-7B": ("qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, False),
    "Qwen/Qwen2.5-14B": ("qwen2", 48, 5120, 40, 8, 128, 13824, 152064, 32768, False),
    "Qwen/Qwen2.5-32B": ("qwen2", 64, 5120, 40, 8, 128, 27648, 152064, 32768, False),
    "Qwen/Qwen3-0.6B": ("qwen3", 28, 1024, 16, 8, 128, 3072, 151936, 40960, True),
    "Qwen/Qwen3-1.7B": ("qwen3", 28, 2048, 16, 8, 128, 6144, 151936, 40960, True),
    "Qwen/Qwen3-4B": ("qwen3", 36, 2560, 32, 8, 128, 9728, 151936, 40960, True),
    "Qwen/Qwen3-8B": ("qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, False),
    "Qwen/Qwen3-14B": ("qwen3", 40, 5120, 40, 8, 128, 17408, 151936, 40960, False),
    "Qwen/Qwen3-32B": ("qwen3", 64, 5120, 64, 8, 128, 25600, 151936, 40960, False),
    "meta-llama/Llama-3.2-1B": ("llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, True),
    "meta-llama/Llama-3.2-3B": ("llama", 28, 3072, 24, 8, 128, 8192, 128256, 131072, True),
    "meta-llama/Llama-3.1-8B": ("llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, False),
}
KNOWN: dict[str, Shape] = {name: Shape(name, *row) for name, row in _ROWS.items()}
"""Shapes by the name of the model on the hub, without "-Instruct" and "-Base"."""


def shape_of(path: str) -> Shape:
    """Return the shape of a model.

    Args:
        path: A folder that holds a config.json, or the name of a model in the table, with or without its owner and
            "-Instruct" or "-Base" at its end ("Qwen/Qwen2.5-7B-Instruct").

    Raises:
        ConfigError: The model is neither in the table nor in a folder, or is of another family.
    """
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return _from_folder(folder)
    wanted = _plain(path)
    for name, shape in KNOWN.items():
        if _plain(name) == wanted:
            return shape
    raise ConfigError(
        f"The shape of {path!r} is not known here{suggestion(path, KNOWN)} Download the model's config.json and give "
        "the folder that holds it; its weights are not needed."
    )


def _plain(name: str) -> str:
    """Return the name of a model without its owner and without what does not change its shape."""
    short = name.rpartition("/")[2].lower().removeprefix("meta-")
    return short.removesuffix("-instruct").removesuffix("-base")


def _from_folder(folder: Path) -> Shape:
    file = folder / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}.") from error
    family = values.get("model_type")
    if family not in get_args(Family):
        raise ConfigError(
            f"{folder} holds a model of the family {family!r}, which is not counted here: only dense decoders of the "
            f"families {', '.join(get_args(Family))} are."
        )
    try:
        heads, hidden = int(values["num_attention_heads"]), int(values["hidden_size"])
        return Shape(
            name=str(folder),
            family=family,
            layers=int(values["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(values.get("num_key_value_heads") or heads),
            head_size=int(values.get("head_dim") or hidden // heads),
            feed_forward=int(values["intermediate_size"]),
            vocabulary=int(values["vocab_size"]),
            context=int(values["max_position_embeddings"]),
            tied=bool(values.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} lacks a number or has a wrong one ({error}): download it again.") from error
