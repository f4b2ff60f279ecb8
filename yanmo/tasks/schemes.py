"""Tags of tokens → spans: BIO (IOB2), IOB1, BIOES, BMES, BILOU, BMEW and plain types; the scheme is found and said.

    cut          a tag → (prefix, type)
    guess        the tags of a file → Scheme, or Mixed that names the tag that does not fit
    spans        tags of a sentence → [(type, first, behind)] in tokens, and how many tags were out of order

Broken orders (an I without a beginning, a B without its end) are read as conlleval reads them: the entity begins where
its first tag stands and ends where its last one does. So are the published figures counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SCHEMES = {"BIO": "BI", "BIOES": "BIES", "BMES": "BMES", "BILOU": "BILU", "BMEW": "BMEW", "BMEU": "BMEU"}
BEGIN, SINGLE, END = frozenset("BSUW"), frozenset("SUW"), frozenset("ESLUW")
OUTSIDE = ("O", "o")
PREFIXED = re.compile(r"([BIESMLUW])[-_:.](.+)")
SUFFIXED = re.compile(r"(.+)[-_:.]([BIESMLUW])")


class Mixed(Exception):
    """Tags of no one scheme: the tag that does not fit, and why."""

    def __init__(self, tag: str, why: str):
        super().__init__(why)
        self.tag = tag


@dataclass(frozen=True)
class Scheme:
    """How a file marks entities. side: where the letter stands, "before" or "behind" the type; "" for plain types."""

    name: str
    side: str = "before"

    def cut(self, tag: str) -> tuple[str, str]:
        """(letter, type) of a tag; ("O", "") outside. Raises Mixed for a tag that is none of this scheme."""
        if tag in OUTSIDE:
            return "O", ""
        if not self.side:
            return "I", tag
        found = (PREFIXED if self.side == "before" else SUFFIXED).fullmatch(tag)
        if found is None:
            raise Mixed(tag, f"is no tag of the scheme {self.name}")
        return (found[1], found[2]) if self.side == "before" else (found[2], found[1])


def guess(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme of all tags of a file. Raises Mixed where there is none that they all belong to."""
    sentences = list(sentences)
    tags = Counter(tag for tags in sentences for tag in tags if tag not in OUTSIDE)
    before = {tag: found for tag in tags if (found := PREFIXED.fullmatch(tag))}
    behind = {tag: found for tag in tags if (found := SUFFIXED.fullmatch(tag))}
    if not tags:
        return Scheme("BIO")
    side, held = max((("before", before), ("behind", behind)), key=lambda pair: sum(tags[tag] for tag in pair[1]))
    if not held:
        return Scheme("plain types", "")
    strange = next((tag for tag in tags if tag not in held), None)
    if strange is not None:
        raise Mixed(strange, "has no letter such as B or I before a type, as the other tags have")
    letters = Counter(dict.fromkeys("BIESMLUW", 0))
    for tag, found in held.items():
        letters[found[1] if side == "before" else found[2]] += tags[tag]
    used = {letter for letter, count in letters.items() if count}
    fitting = [name for name, known in SCHEMES.items() if used <= set(known)]
    if not fitting:
        _mixed(letters, held, side)
    scheme = Scheme(fitting[0], side)
    if scheme.name == "BIO" and _is_iob1(sentences, scheme):
        return Scheme("IOB1" if "B" in used else "IO", side)
    return scheme


def _mixed(letters: Counter[str], held: dict[str, re.Match[str]], side: str) -> None:
    """Raise Mixed for the first tag outside of the scheme to which most belong."""
    name = max(SCHEMES, key=lambda name: sum(letters[letter] for letter in SCHEMES[name]))
    for tag, found in held.items():
        letter = found[1] if side == "before" else found[2]
        if letter not in SCHEMES[name]:
            raise Mixed(tag, f"stands beside tags of {name}, which has no {letter}")


def _is_iob1(sentences: Iterable[Sequence[str]], scheme: Scheme) -> bool:
    """Whether B stands only where an entity follows one of its type, and entities do begin with I."""
    bare = 0
    for tags in sentences:
        letter, kind = "O", ""
        for tag in tags:
            previous = kind
            letter, kind = scheme.cut(tag)
            if letter == "B" and kind != previous:
                return False
            bare += letter == "I" and kind != previous
    return bare > 0


def spans(tags: Sequence[str], scheme: Scheme) -> tuple[list[tuple[str, int, int]], int]:
    """Entities as (type, first token, token behind), and the number of tags that stand out of order."""
    found: list[tuple[str, int, int]] = []
    broken = 0
    inner = scheme.name in ("IOB1", "IO", "plain types")  # where an entity may begin with I
    before, kind_before, first = "O", "", 0
    for place, tag in enumerate(tags):
        letter, kind = scheme.cut(tag)
        inside = before not in END and before != "O"  # the entity before may go on
        goes_on = inside and letter not in BEGIN and letter != "O" and kind == kind_before
        if letter != "O" and not goes_on and letter not in BEGIN and not inner:
            broken += 1  # it goes on, and nothing has begun
        if scheme.name not in ("BIO", "IOB1", "IO", "plain types") and inside and not goes_on:
            broken += 1  # the entity before has no end
        if before != "O" and not goes_on:
            found.append((kind_before, first, place))
        if letter != "O" and not goes_on:
            first = place
        before, kind_before = letter, kind
    if before != "O":
        found.append((kind_before, first, len(tags)))
        broken += scheme.name not in ("BIO", "IOB1", "IO", "plain types") and before not in END
    return found, broken
