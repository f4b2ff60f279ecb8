"""Exact duplicates: the first of several equal documents stays.

    fingerprint               16 bytes of a text, equal for texts that differ in white space alone
    first_seen                has this text not come before? remembers it
    drop_duplicates           documents → documents without the later copies

Memory is about 100 bytes for each document that is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from yanmo.corpus.documents import Document


def fingerprint(text: str) -> bytes:
    """BLAKE2b (16 bytes) of the text with each run of white space made one space."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def first_seen(text: str, seen: set[bytes]) -> bool:
    """True the first time a text comes; its fingerprint enters `seen`."""
    before = len(seen)
    seen.add(fingerprint(text))
    return len(seen) > before


def drop_duplicates(documents: Iterable[Document]) -> Iterator[Document]:
    """Yield the documents whose text has not come before."""
    seen: set[bytes] = set()
    for document in documents:
        if first_seen(document.text, seen):
            yield document
