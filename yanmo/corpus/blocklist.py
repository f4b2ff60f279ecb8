"""Blocklists: files of the user that name words, domains or addresses that no document may have.

    load                      files → Blocklist
    Blocklist.reason          text, url → "blocked_word", "blocked_domain", "blocked_url" or None

A file has one entry a line; empty lines and what follows a # at the beginning of a line are left out. A word, or
several in a row, is found as whole words whatever their case; in a script without spaces, as these characters. A domain
stands for its subdomains too. An address stands for all that begin with it, http and https alike, "www." aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from yanmo.corpus.words import batches, ngrams, tokenise
from yanmo.errors import FileError
from yanmo.files import reason

REASONS = {
    "blocked_word": "holds a word of a blocklist",
    "blocked_domain": "comes from a domain of a blocklist",
    "blocked_url": "comes from an address of a blocklist",
}
MAX_WORDS = 16  # of one entry


@dataclass(frozen=True)
class Blocklist:
    """What `load` read; an empty one blocks nothing."""

    words: dict[int, np.ndarray] = field(default_factory=dict)  # number of words → sorted hashes
    domains: frozenset[str] = frozenset()
    urls: tuple[str, ...] = ()

    def reason(self, text: str, url: str = "", allowed: int = 0) -> str | None:
        """Why a document is left out, or None; `allowed`: how many blocked words are forgiven."""
        address = _address(url)
        host = address.partition("/")[0].partition(":")[0]
        parts = host.split(".")
        if self.domains and any(".".join(parts[k:]) in self.domains for k in range(len(parts))):
            return "blocked_domain"
        if self.urls and address.startswith(self.urls):
            return "blocked_url"
        return "blocked_word" if self.words and self.count(text, allowed + 1) > allowed else None

    def count(self, text: str, enough: int = 1 << 62) -> int:
        """How many places of a text hold an entry, counted no further than `enough`."""
        total, begun = 0, None
        for part in batches([text]):
            hashes = tokenise(part).hashes
            for number, blocked in self.words.items():
                begun = number, ngrams(hashes, number, begun)
                total += int(np.count_nonzero(np.isin(begun[1], blocked)))
                if total >= enough:
                    return total
        return total


def load(
    words: Sequence[str | Path] = (), domains: Sequence[str | Path] = (), urls: Sequence[str | Path] = ()
) -> Blocklist:
    """Read the files; FileError for one that cannot be read or has an entry that is none."""
    found: dict[int, set[int]] = {}
    for path in words:
        for entry in _entries(path):
            hashes = tokenise([entry]).hashes
            if not 1 <= len(hashes) <= MAX_WORDS:
                raise FileError(
                    f"{path}: {entry[:60]!r} has {len(hashes)} words, an entry has 1 to {MAX_WORDS}; mend it"
                )
            found.setdefault(len(hashes), set()).add(int(ngrams(hashes, len(hashes))[0]))
    arrays = {number: np.array(sorted(found[number]), np.uint64) for number in sorted(found)}
    names = frozenset(_address(entry).partition("/")[0] for path in domains for entry in _entries(path))
    addresses = tuple(sorted({_address(entry) for path in urls for entry in _entries(path)}))
    return Blocklist(arrays, names - {""}, tuple(each for each in addresses if each))


def _entries(path: str | Path) -> list[str]:
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: no readable blocklist ({reason(error)}); give a text file in UTF-8") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _address(url: str) -> str:
    """What follows the scheme and "www.", the host in lower case."""
    rest = url.strip().partition("://")[2] or url.strip()
    host, slash, path = rest.partition("/")
    return host.lower().rpartition("@")[2].removeprefix("www.") + slash + path
