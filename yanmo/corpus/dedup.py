"""What makes two texts equal: their fingerprint. Which of equal documents stays, engine_group.py says.

fingerprint     16 bytes of a text, equal for texts that differ in white space alone
"""

from __future__ import annotations

import hashlib


def fingerprint(text: str) -> bytes:
    """BLAKE2b (16 bytes) of the text with each run of white space made one space."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()
