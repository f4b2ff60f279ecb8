"""Where in a text each id comes from: ranges of code points of the original text, ends exclusive.

In: what a library says of its pieces. Out: ranges that lose no visible character.

    covered        ranges, with what no id stands for given to the id that it touches
    piece_ranges   SentencePiece's answer (SentencePieceText, serialised) → the names and ranges of its pieces

A vocabulary may drop characters (BERT: accents, joiners, control characters), and may spell one character with several
ids (bytes), which then all have the range of that character. What was dropped belongs to the id before it where it
touches one, else to the id behind it, so that a name that ends with a combining mark ends behind the mark. White space
that no id stands for stays outside; ids of the frame have the range (0, 0).
"""

from __future__ import annotations

from itertools import accumulate, pairwise

from yanmo.tokens.piecemodel import read_fields

Range = tuple[int, int]


def covered(text: str, ranges: list[Range]) -> list[Range]:
    """The ranges, in the order of the text, widened over dropped characters that are no white space."""
    groups = _groups(ranges)
    begins = {begin: begin for begin, _, _ in groups}  # of groups, as they are → as they become
    ends = {end: end for _, end, _ in groups}
    edges = [(-1, 0), *((begin, end) for begin, end, _ in groups), (len(text), len(text) + 1)]
    for (_, left), (right, _) in pairwise(edges):
        gap = text[left:right]
        if not gap or gap.isspace():
            continue
        behind = 0
        if left in ends and not gap[0].isspace():
            behind = len(gap.split(maxsplit=1)[0])
            ends[left] = left + behind
        rest = gap[behind:]
        if right in begins and rest and not rest[-1].isspace():
            begins[right] = right - len(rest.rsplit(maxsplit=1)[-1])
    found = list(ranges)
    for first, last, places in groups:
        for place in places:
            begin, end = ranges[place]
            found[place] = (begins[first] if begin == first else begin, ends[last] if end == last else end)
    return found


def _groups(ranges: list[Range]) -> list[tuple[int, int, list[int]]]:
    """(begin, end, places) of ids that share characters; empty ranges belong to none."""
    groups: list[tuple[int, int, list[int]]] = []
    for place, (begin, end) in enumerate(ranges):
        if end <= begin:
            continue
        if groups and begin < groups[-1][1]:
            first, last, places = groups.pop()
            groups.append((min(first, begin), max(last, end), [*places, place]))
        else:
            groups.append((begin, end, [place]))
    return groups


def piece_ranges(text: str, data: bytes) -> list[tuple[str, int, Range]]:
    """(piece, number in the model, range) of each piece of a text.

    Bytes of one character, of which the library gives the character to the last, all have its range. Field numbers:
    sentencepiece.proto of the SentencePiece project; its places are bytes of the text in UTF-8.
    """
    starts = list(accumulate((len(letter.encode()) for letter in text), initial=0))
    letter_at = {byte: place for place, byte in enumerate(starts)}
    found: list[tuple[str, int, Range]] = []
    for field, value in read_fields(data):
        if field != 2:
            continue
        piece = dict(read_fields(value))
        begin, end = letter_at[piece.get(4, 0)], letter_at[piece.get(5, 0)]
        found.append((piece.get(1, b"").decode(), piece.get(2, 0), (begin, end)))
    for place in range(len(found) - 2, -1, -1):
        name, number, (begin, end) = found[place]
        follower = found[place + 1][2]
        if begin == end == follower[0] and _is_byte(name) and _is_byte(found[place + 1][0]):
            found[place] = (name, number, follower)
    return found


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
