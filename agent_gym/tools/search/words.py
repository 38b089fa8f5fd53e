"""Words of a text as a search index counts them, in any language.

Knows nothing of documents: text in, words out.
"""

import re
import unicodedata

# Thai, Lao, Burmese, Khmer, Chinese and Japanese are written without spaces; the words of Korean have endings.
SPACELESS = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uac00-\ud7af\U00020000-\U0003ffff"
)
"""Inside of a character class of a regular expression."""
_INDIC_SIGNS = "\u0900-\u0dff"
"""Vowel signs, which `\\w` leaves out, are part of a word."""
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_WORD = re.compile(rf"[{SPACELESS}]+|(?:(?![{SPACELESS}_])[\w{_INDIC_SIGNS}])+")
_ONE_SPACELESS = re.compile(f"[{SPACELESS}]")
_POSSESSIVE = re.compile(r"['\u2019]s\b")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with what which who whom whose when where how does did do has have had were",
    )
)


def document_words(text: str) -> list[str]:
    """Return the words of a text to be found: single characters and pairs of them where a language has no spaces."""
    return _words(text, single=True)


def query_words(query: str, limit: int = 64) -> list[str]:
    """Return the words to look for, without those that every text has, unless there are no others.

    Args:
        query: The query.
        limit: Words at most; those beyond are left out.
    """
    words = _words(query[: 64 * limit], single=False)
    telling = [word for word in words if word not in _STOP_WORDS]
    return (telling or words)[:limit]


def _words(text: str, *, single: bool) -> list[str]:
    text = _POSSESSIVE.sub("", text)
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    words: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if word.isascii():
            words.append(word)
        elif _is_spaceless(word[0]):
            pairs = [word[at : at + 2] for at in range(len(word) - 1)]
            words += pairs if pairs and not single else [*word, *pairs]
        else:
            words.append(_without_accents(word))
    return words


def _is_spaceless(character: str) -> bool:
    return _ONE_SPACELESS.match(character) is not None


def _without_accents(word: str) -> str:
    """Return "pokemon" for "pokémon"."""
    return "".join(part for part in unicodedata.normalize("NFKD", word) if not unicodedata.combining(part))
