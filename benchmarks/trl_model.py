"""The model that both sides of `trl.py` train: some 4M parameters, cloned from demonstrations until it calls its tool.

A random model never calls a tool, and so TRL's loop would end after one turn. The demonstrations are written in the
format that this loop reads; whoever loads the folder plays several turns an episode.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import get_json_schema
from trl_household import ENDED, FAREWELL, TOOLS, Household, written

from agent_gym.envs.alfworld import AlfworldEnv
from agent_gym.rollout.actions import Syntax, plain
from agent_gym.rollout.chat import ByteChat, Chat, TemplateChat
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.rollout.player import play
from agent_gym.trainers.warmstart import CloneSettings, DemonstrationSettings, Demonstrator, clone
from agent_gym.trajectory import Trajectory, Turn

VOCABULARY = 2048
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'user' and loop.index0 and messages[loop.index0 - 1].role == 'assistant' %}"
    "{{ '<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Qwen3's template (2507, without thinking) for a conversation in which every answer calls a tool."""
SYNTAX = Syntax(plain, written)


def system_prompt() -> str:
    """Return what the model is told of its tool."""
    import json

    return TOOLS.format(json.dumps(get_json_schema(Household(1).act), ensure_ascii=False))


def make(folder: Path, *, demonstrations: int, turns: int, seed: int = 0, say: Callable[[str], None] = print) -> None:
    """Train tokenizer and model, and save both.

    Args:
        folder: Where to.
        demonstrations: Episodes that are cloned.
        turns: Longest of them.
        seed: Of everything.
        say: Hears of progress.
    """
    tokenizer = make_tokenizer(seed)
    model = make_model(tokenizer, seed)
    size = sum(parameter.numel() for parameter in model.parameters())
    chat = TemplateChat(tokenizer, system_prompt=system_prompt())
    played = list(demonstrated(chat, demonstrations, turns, seed=seed + 1))
    tokens = sum(len(trajectory.token_ids) for trajectory in played)
    say(f"Cloning {len(played)} demonstrations ({tokens} tokens) into a model of {size / 1e6:.2f}M parameters.")
    settings = CloneSettings(learning_rate=4e-3, observation_weight=0.1)
    loss = clone(model, played, settings, seed=seed)
    say(f"Mean loss of a token at the end: {loss:.3f}.")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def demonstrated(chat: Chat, count: int, turns: int, *, seed: int) -> Iterator[Trajectory]:
    """Play demonstrations with a mistake now and then; each ends with a farewell, as TRL's loop needs it."""
    env = AlfworldEnv(max_turns=turns)
    policy = Demonstrator(DemonstrationSettings(mistakes=0.05))
    for number in range(count):
        trajectory = play(env, policy, chat, SYNTAX, EpisodeSettings(), seed=seed * 10**6 + number)
        said = trajectory.final_observation
        trajectory.append_context(chat.extend(f"{said}\n{ENDED}", ended=True))
        answer = chat.answer(FAREWELL)
        start = len(trajectory.token_ids)
        trajectory.append_action(answer, [0.0] * len(answer), [0.0] * len(answer))
        trajectory.turns.append(Turn(said, FAREWELL, FAREWELL, start, len(trajectory.token_ids)))
        yield trajectory


def make_tokenizer(seed: int) -> Any:
    """Train a byte-level BPE tokenizer on demonstrations; words are cut as in GPT-2, calls are marked as in Qwen3."""
    env, policy = AlfworldEnv(), Demonstrator(DemonstrationSettings())
    texts = [system_prompt()] * 20
    for number in range(200):
        trajectory = play(env, policy, ByteChat(), SYNTAX, EpisodeSettings(), seed=seed + number)
        texts += [trajectory.goal, trajectory.final_observation, ENDED, FAREWELL]
        texts += [line for turn in trajectory.turns for line in (turn.observation, turn.text)]
    random.Random(seed).shuffle(texts)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(marks),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    for mark in marks:
        texts = [text.replace(mark, "") for text in texts]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    return fast


def make_model(tokenizer: Any, seed: int) -> Qwen3ForCausalLM:
    """Make a model of Qwen3's kind with random weights."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=896,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
