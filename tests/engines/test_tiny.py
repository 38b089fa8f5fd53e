"""Models and tokenizers made on the spot."""

from typing import Any

import torch
from helpers import TEXTS

from agent_gym.engines.tiny import TinySize, make_model, train_tokenizer


def test_the_tokenizer_gives_back_every_text(tokenizer: Any) -> None:
    for text in (*TEXTS, "quite new: éß∂ \n\t x", "  two  spaces "):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_numbered_names_and_numbers_are_tokens_of_their_own(tokenizer: Any) -> None:
    tokens = [tokenizer.decode([i]) for i in tokenizer.encode("say bread 12 and dish 3")]
    assert " bread" in tokens and " dish" in tokens
    assert all(token.strip().isdigit() or not any(c.isdigit() for c in token) for token in tokens)


def test_names_of_any_kind_are_cut_in_the_same_way_wherever_they_stand() -> None:
    texts = ["Where was Vera Torder born?", "You find Vera Torder, who was born in Elmbury."] * 20
    tokenizer = train_tokenizer(texts, vocabulary=400)

    def cut(text: str) -> list[str]:
        return [tokenizer.decode([i]) for i in tokenizer.encode(text)]

    for sentence in ("Where was Vera Torder born?", "You find Torder Vera, who was born in Elmbury."):
        assert {" Vera", " Torder"} <= set(cut(sentence))


def test_special_tokens_are_single_and_hidden_from_text(tokenizer: Any) -> None:
    [end] = tokenizer.encode("<|end|>")
    assert end == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.decode([*tokenizer.encode("up"), end], skip_special_tokens=True) == "up"


def test_training_a_tokenizer_is_deterministic_and_obeys_its_limit() -> None:
    one, two = train_tokenizer(TEXTS, vocabulary=290), train_tokenizer(TEXTS, vocabulary=290)
    assert one.get_vocab() == two.get_vocab() and len(one) <= 290


def test_the_seed_alone_decides_the_weights_and_global_random_state_stays(tokenizer: Any) -> None:
    size = TinySize(hidden=16, layers=1, heads=2, feed_forward=32)
    before = torch.get_rng_state()
    one, two, other = (make_model(tokenizer, size, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_the_model_ends_with_the_tokenizers_end_token(tokenizer: Any) -> None:
    model = make_model(tokenizer, TinySize(hidden=16, layers=1, heads=2, feed_forward=32))
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)
