"""A small causal model made on the spot, with a tokenizer trained on the texts of an environment; no download.

It is what the demo and the tests train: an ordinary Hugging Face model in every respect but size.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SYSTEM, USER, ASSISTANT, END, PAD = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content }}"
    "{% if message.role == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class TinySize:
    """Shape of the model; the default has about a million parameters."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    feed_forward: int = 640
    context: int = 2048


_NUMBERED = re.compile(r"([^\W\d]+) \d+\b")
_CAPITALISED = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")
"""A name: a capital letter where no sentence begins."""


def train_tokenizer(texts: Sequence[str], *, vocabulary: int = 1024) -> Any:
    """Train a byte-level BPE tokenizer with a chat template on texts.

    Names that the texts number ("cabinet 4"), the numbers themselves and, where there are any, names with a capital
    letter begin and end tokens, so that a model can copy them; what stands between them may grow into whole phrases
    (", you see nothing."), which makes episodes about half as long as words would.

    Args:
        texts: What the environment says and understands.
        vocabulary: Tokens at most.
    """
    names = sorted({name for text in texts for name in _NUMBERED.findall(text)}, key=lambda name: (-len(name), name))
    kept_apart = r" ?\d+|\n| ?\b(?:" + "|".join(map(re.escape, names)) + r")\b" if names else r" ?\d+|\n"
    if any(map(_CAPITALISED.search, texts)):
        kept_apart += r"| ?[A-Z][a-z]+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(kept_apart), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)
    fast.chat_template = TEMPLATE
    return fast


def make_model(tokenizer: Any, size: TinySize | None = None, *, seed: int = 0) -> LlamaForCausalLM:
    """Make a model with random weights that depend on the seed alone."""
    size = size or TinySize()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**32)
        model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
