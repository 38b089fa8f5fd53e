"""Seeds derived from names and numbers, so that nothing depends on the order in which things happen."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from the parts: the same on every machine, unrelated for different parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
