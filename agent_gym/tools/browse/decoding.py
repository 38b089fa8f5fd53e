"""From the bytes of an answer to text: unpacked within a limit, in the character set that it says or seems to have."""

import re
import zlib

from agent_gym.errors import ToolError

ACCEPTED = "gzip, deflate"
"""What is said to be understood."""
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<meta[^<>]{0,500}?charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_META_BYTES = 4096
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
# Python knows codecs that are no character sets, and some that take long to decode what a page has made up.
_CHARSET = re.compile(
    r"utf-?8|utf-?16(le|be)?|(us-)?ascii|iso-?(8859-?\d{1,2}|2022-(jp|kr))|latin-?\d|(windows-|cp-?)(125\d|874|866|932|949)"
    r"|gb(2312|k|18030)|big5(-?hkscs)?|hz(-gb-2312)?|euc-?(jp|kr|tw)|(shift|s)[_-]?jis|koi8-?[rut]|mac(intosh|-?roman)|tis-620"
)
_GUESSED_BYTES = 32 * 1024


class Unpacker:
    """Unpacks a body piece by piece and stops at a limit: a small body can unpack to gigabytes.

    Args:
        encoding: The header Content-Encoding.
        limit: Bytes of the unpacked body at most; the rest is left out.

    Raises:
        ToolError: It is packed in a way that is not known.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise ToolError(f"The page is packed as {encoding[:40]!r}, which cannot be unpacked.")
        self.body = bytearray()
        self.full = False
        """Whether the limit is reached."""
        self._limit = limit
        self._packed = encoding not in ("", "identity")
        self._unpack = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._begun = self._ended = False

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body.

        Raises:
            ToolError: It is damaged.
        """
        room = self._limit - len(self.body)
        if not self._packed:
            self.body += piece[:room]
            self.full = len(piece) > room
            return
        while piece and not self.full:
            try:
                self.body += self._unpack.decompress(piece, self._limit - len(self.body) + 1)
            except zlib.error as error:
                if self._ended:  # what follows the packed body is thrown away, as browsers do
                    return
                if self._begun:
                    raise ToolError("The page is packed, and damaged.") from error
                # "deflate" means zlib, but some servers leave its head away.
                self._begun, self._unpack = True, zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._begun = True
            self.full = len(self.body) > self._limit
            piece = self._unpack.unused_data
            if self._unpack.eof:
                self._ended = True
                self._unpack = zlib.decompressobj(_GZIP_OR_ZLIB)
        del self.body[self._limit :]


def decode(body: bytes, content_type: str) -> str:
    """Return the text of a body; what cannot be decoded is replaced.

    Args:
        body: The bytes.
        content_type: The header Content-Type; then a mark at the beginning of the body, a tag in it, and what the
            bytes look like are asked for the character set.
    """
    for mark, charset in _MARKS:
        if body.startswith(mark):
            return body.decode(charset, "replace")
    said = _HEADER_CHARSET.search(content_type)
    tag = _META_CHARSET.search(body[:_META_BYTES])
    for name in (said and said[1], tag and tag[1].decode("ascii", "replace")):
        if name and _CHARSET.fullmatch(name.lower()):
            try:
                return body.decode(name, "replace")
            except LookupError:
                continue
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode(_guess(body), "replace")


def looks_binary(text: str) -> bool:
    """Return whether text is none: many of its characters cannot be shown."""
    start = text[:_GUESSED_BYTES]
    strange = sum(
        1 for character in start if character == "\ufffd" or (character < " " and character not in "\t\n\r\f")
    )
    return strange * 10 > len(start)


def _guess(body: bytes) -> str:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return "utf-8"
    best = from_bytes(body[:_GUESSED_BYTES]).best()
    return best.encoding if best is not None else "utf-8"
