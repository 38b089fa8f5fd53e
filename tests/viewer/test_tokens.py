"""The text of tokens: nothing lost, nothing doubled, characters that are spread over tokens joined."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from agent_gym.engines.messages import MARKS
from agent_gym.engines.scripted import END, ByteTokenizer
from agent_gym.viewer.tokens import BYTES, NUMBERS, Piece, Texts, best, find_texts, read_tokenizer

TEXTS = ["the door is open and the cat sits", "漢字 and émigré naïve", "🙂 smile"] * 20


def byte_level() -> Tokenizer:
    """A tokenizer as GPT-2's, Qwen's and Llama 3's: bytes in an alphabet of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def sentence_pieces() -> Tokenizer:
    """A tokenizer as Llama 2's and Gemma's: ▁ for spaces, and bytes for what has no piece."""
    pieces = {"<unk>": 0, "<s>": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}}
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz▁é"})
    pieces |= {letter: len(pieces) + place for place, letter in enumerate(letters)}
    pieces |= {"th": len(pieces), "▁t": len(pieces) + 1}
    merges = [("t", "h"), ("▁", "t")]
    tokenizer = Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


@pytest.fixture(scope="module", params=[byte_level, sentence_pieces])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Texts]:
    tokenizer = request.param()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    texts = read_tokenizer(path)
    assert texts is not None
    return tokenizer, texts


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_pieces_put_together_are_the_text(both: tuple[Tokenizer, Texts], text: str) -> None:
    tokenizer, texts = both
    ids = tokenizer.encode(text).ids
    decoded = tokenizer.decode(ids)
    pieces = texts.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(piece.text for piece in pieces) == decoded == texts.text(ids)
    assert all(piece.joined == (piece.text == "") for piece in pieces)


def test_a_character_over_several_tokens_stands_in_the_first(both: tuple[Tokenizer, Texts]) -> None:
    tokenizer, texts = both
    ids = tokenizer.encode("a🦔").ids
    first, *pieces = texts.pieces(ids)
    assert first == Piece("a") and len(pieces) > 1
    assert pieces == [Piece("🦔"), *[Piece("", joined=True)] * (len(pieces) - 1)]
    # Broken off in the middle, it is one mark.
    assert "".join(piece.text for piece in texts.pieces(ids[:-1])) == "a�"


def test_markers_are_shown_and_are_no_text(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = read_tokenizer(tmp_path / "tokenizer.json")
    assert texts is not None
    ids = tokenizer.encode("cat<tool><|end|>").ids
    pieces = texts.pieces([*ids, 100_000])
    assert [piece.text for piece in pieces[-3:]] == ["<tool>", "<|end|>", "⟨100000⟩"]
    assert [piece.special for piece in pieces[-3:]] == [False, True, True]
    assert texts.text(ids) == "cat<tool>" and texts.explains(ids, " cat<tool>\n")


def test_bytes_and_their_marks() -> None:
    ids = [*ByteTokenizer().encode("né"), END]
    assert [piece.text for piece in BYTES.pieces(ids)] == ["n", "é", "", "⟨end⟩"]
    assert all(piece.special for piece in BYTES.pieces(list(MARKS)))
    assert BYTES.explains(ids, "né") and not BYTES.explains(ids, "no")


@settings(deadline=None, max_examples=60)
@given(data=st.lists(st.integers(0, 255), max_size=30))
def test_bytes_that_are_no_text_are_shown_as_decoders_do(data: list[int]) -> None:
    assert "".join(piece.text for piece in BYTES.pieces(data)) == bytes(data).decode("utf-8", "replace")


def test_the_text_that_was_recorded_decides_who_reads_the_tokens(both: tuple[Tokenizer, Texts]) -> None:
    tokenizer, texts = both
    ids = tokenizer.encode("the cat").ids
    assert best([texts, BYTES], [(ids, "the cat")]) is texts
    said = ByteTokenizer().encode("the cat")
    assert best([texts, BYTES], [(said, "the cat")]) is BYTES
    assert best([texts, BYTES], [(ids, "something else")]) is NUMBERS
    assert [piece.text for piece in NUMBERS.pieces([7])] == ["⟨7⟩"]


def test_a_run_is_read_with_the_tokenizer_of_its_last_checkpoint_or_of_the_model_it_measured(tmp_path: Path) -> None:
    for step in (9, 10):
        folder = tmp_path / "trained" / "checkpoints" / f"step-{step}"
        folder.mkdir(parents=True)
        byte_level().save(str(folder / "tokenizer.json"))
    (tmp_path / "measured").mkdir()
    found = find_texts(tmp_path / "trained", {"model": {"path": "tiny"}})
    assert [texts.name for texts in found] == ["step-10/tokenizer.json", "bytes"]
    found = find_texts(tmp_path / "measured", {"model": str(tmp_path / "trained")})
    assert [texts.name for texts in found] == ["step-10/tokenizer.json", "bytes"]
    for model in ("expert", "http://localhost:1/v1", "no/such-model", "not a name", None):
        assert find_texts(tmp_path / "measured", {"model": model}) == [BYTES]


@pytest.mark.parametrize("content", ["", "{", json.dumps({"model": {}}), "[]"])
def test_what_is_no_tokenizer_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    assert read_tokenizer(tmp_path / "tokenizer.json") is None
