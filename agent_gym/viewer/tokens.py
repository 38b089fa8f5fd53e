"""The text of each token, so that tokens can be coloured: from the run's own tokenizer, without loading a model.

A token is bytes. Where a character is spread over several tokens, the first of them carries it, and those after it
have no text of their own and are marked as joined to it: no character is lost, doubled or shown as a question mark.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_gym.engines.messages import MARKS, said

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Piece:
    """A token as it is shown."""

    text: str
    joined: bool = False
    """Whether its bytes belong to a character whose text the token before carries."""
    special: bool = False
    """Whether it is a marker of the template, and no text."""


class Texts:
    """Turns ids into text by a table.

    Args:
        name: Where the table is from, for people.
        table: Bytes of each token.
        special: The ids of markers.
    """

    def __init__(self, name: str, table: Mapping[int, bytes], special: frozenset[int] = frozenset()) -> None:
        self.name = name
        self._table = table
        self._special = special

    def pieces(self, token_ids: Sequence[int]) -> list[Piece]:
        """Return how each token is shown; an id that the table lacks is shown as a number."""
        pieces: list[Piece] = []
        pending: list[bytes] = []
        for token in token_ids:
            known = self._table.get(token)
            if known is not None and token not in self._special:
                pending.append(known)
                continue
            pieces.extend(_divided(pending))
            pending = []
            pieces.append(Piece(f"⟨{token}⟩" if known is None else known.decode("utf-8", "replace"), special=True))
        pieces.extend(_divided(pending))
        return pieces

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without markers."""
        known = (self._table.get(token, b"") for token in token_ids if token not in self._special)
        return b"".join(known).decode("utf-8", "replace")

    def explains(self, token_ids: Sequence[int], text: str) -> bool:
        """Return whether tokens say a text, up to the white space around it."""
        return self.text(token_ids).strip() == text.strip()


NUMBERS = Texts("numbers", {})
"""Shows every token as its id: what is left where nothing knows their text."""


class ByteTexts(Texts):
    """The chats of players without a tokenizer: UTF-8, and marks around what one side says."""

    def __init__(self) -> None:
        marks = {mark: f"⟨{name}⟩".encode() for mark, name in MARKS.items()}
        super().__init__("bytes", {byte: bytes([byte]) for byte in range(256)} | marks, frozenset(marks))

    def explains(self, token_ids: Sequence[int], text: str) -> bool:
        """See `Texts.explains`; a thought before what is said is no part of the recorded text."""
        return said(token_ids).strip() == text.strip()


BYTES = ByteTexts()


def _divided(parts: Sequence[bytes]) -> Iterator[Piece]:
    """Give each character to the token in which its bytes begin."""
    data = b"".join(parts)
    if data.isascii():
        yield from (Piece(part.decode("ascii")) for part in parts)
        return
    begins = _characters(data)
    at = 0
    for part in parts:
        inside = [begins[offset] for offset in range(at, at + len(part))]
        text = "".join(character for character in inside if character is not None)
        yield Piece(text, joined=bool(part) and text == "")
        at += len(part)


def _characters(data: bytes) -> list[str | None]:
    """Return the character that begins at each byte; None inside a character. What is no UTF-8 becomes U+FFFD."""
    found: list[str | None] = [None] * len(data)
    at = 0
    while at < len(data):
        size = _size(data[at])
        try:
            found[at] = data[at : at + size].decode("utf-8")
        except UnicodeDecodeError as error:
            # As decoders do: one mark for the longest beginning of a character that is broken off.
            size = max(error.end - error.start, 1)
            found[at] = "�"
        at += size
    return found


def _size(first: int) -> int:
    if first < 0x80:
        return 1
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4


# -- tokenizers --------------------------------------------------------------------------------------------------------


def read_tokenizer(path: Path) -> Texts | None:
    """Return the texts of a tokenizer.json; None where it cannot be read, or tells its pieces in a way unknown here."""
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path))
        rules = json.loads(path.read_text(encoding="utf-8"))
    except (ImportError, OSError, ValueError):
        return None
    except Exception as error:  # tokenizers raises Exception itself for a file that is none of its own
        if type(error) is not Exception:
            raise
        return None
    in_bytes = _rule(rules.get("decoder") or {})
    table = {number: in_bytes(piece) for piece, number in tokenizer.get_vocab(with_added_tokens=False).items()}
    added = {int(token["id"]): token for token in rules.get("added_tokens", ())}
    table |= {number: str(token["content"]).encode() for number, token in added.items()}
    return Texts(
        f"{path.parent.name}/{path.name}",
        table,
        frozenset(number for number, token in added.items() if token.get("special")),
    )


def _rule(decoder: dict[str, Any]) -> Callable[[str], bytes]:
    """Return what a piece of a vocabulary stands for, by the decoder of its tokenizer."""
    steps = decoder.get("decoders") or [decoder]
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        alphabet = _byte_alphabet()
        return lambda piece: b"".join(alphabet.get(character, character.encode()) for character in piece)
    replaced = [
        (step["pattern"]["String"], step["content"])
        for step in steps
        if step.get("type") == "Replace" and "String" in step.get("pattern", {})
    ]
    replaced += [(step.get("replacement", "▁"), " ") for step in steps if step.get("type") == "Metaspace"]
    has_bytes = "ByteFallback" in kinds

    def plain(piece: str) -> bytes:
        byte = _BYTE.fullmatch(piece) if has_bytes else None
        if byte is not None:
            return bytes([int(byte[1], 16)])
        for old, new in replaced:
            piece = piece.replace(old, new)
        return piece.encode("utf-8", "replace")

    return plain


def _byte_alphabet() -> dict[str, bytes]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Source: `bytes_to_unicode` of GPT-2; bytes that do not print take the code points from 256 on, in order.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): bytes([byte]) for byte in shown}
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return alphabet | {chr(256 + place): bytes([byte]) for place, byte in enumerate(hidden)}


# -- of a run ----------------------------------------------------------------------------------------------------------


def find_texts(run: Path, config: dict[str, Any]) -> list[Texts]:
    """Return what may explain the tokens of a run: its model's tokenizer where that is at hand, and bytes."""
    found = []
    for folder in _model_folders(run, config):
        path = folder / "tokenizer.json"
        texts = read_tokenizer(path) if path.is_file() else None
        if texts is not None:
            found.append(texts)
            break
    return [*found, BYTES]


def _model_folders(run: Path, config: dict[str, Any]) -> Iterator[Path]:
    """Yield where the tokenizer of a run may lie."""
    yield from _checkpoints(run)
    yield run / "reference"
    model = config.get("model")
    name = model.get("path") if isinstance(model, dict) else model
    if not isinstance(name, str) or "://" in name:
        return
    folder = Path(name)
    yield from _checkpoints(folder)
    yield folder
    cached = _from_hub(name)
    if cached is not None:
        yield cached


def _checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the last first."""
    numbered = [
        (int(path.name.removeprefix("step-")), path)
        for path in (run / "checkpoints").glob("step-*")
        if path.name.removeprefix("step-").isdigit()
    ]
    return [path for _, path in sorted(numbered, reverse=True)]


def _from_hub(name: str) -> Path | None:
    """Return the folder in which a model of that name was kept when it was fetched; nothing is fetched here."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "tokenizer.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def best(candidates: Sequence[Texts], generated: Sequence[tuple[Sequence[int], str]]) -> Texts:
    """Return the candidate that says of generated tokens what was recorded as their text.

    Args:
        candidates: The likeliest first.
        generated: Tokens and text of some turns.

    Returns:
        The first that explains them all; numbers where none does. With nothing to go by, the first.
    """
    for candidate in candidates:
        if all(candidate.explains(token_ids, text) for token_ids, text in generated):
            return candidate
    return NUMBERS
