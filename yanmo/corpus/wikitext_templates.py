"""Templates that stand within sentences and carry their words; every other template goes.

In: a match of one template without others inside. Out: the words that it shows, or nothing.
"""

from __future__ import annotations

import re

# Templates that show their first argument, and those that show their last.
_FIRST_NAMES = (
    "abbr angbr big blockquote country cquote em flag flagcountry helper ill internal ipa ipa-en jpn kor larger le "
    "lead link link-en link-ja lj math mvar nihongo nobold nobr nowrap pl quote ruby sic small smallcaps smaller "
    "strong sub sup tooltip unicode var w zy"
)
_LAST_NAMES = "color colour font fontcolor lang transl transliteration zh-lang"
_FIRST, _LAST = frozenset(_FIRST_NAMES.split()), frozenset(_LAST_NAMES.split())
_FIXED = {
    **dict.fromkeys(("ndash", "en dash", "spaced ndash", "snd", "–"), " – "),
    **dict.fromkeys(("mdash", "em dash", "spaced mdash", "—"), " — "),
    "nbsp": " ",
    "!": "|",
    "=": "=",
    "'": "'",
    "(": "(",
    ")": ")",
    "·": " · ",
    "•": " • ",
    "dot": " · ",
    "pi": "π",
    "euro": "€",
    "pound": "£",
    "clear": "",
    "-": "",
}
_CONVERT = frozenset(("convert", "cvt", "unité", "unit", "nb", "nombre"))
_DATE = frozenset(("date", "date-", "date de naissance", "date de décès"))
_NAMED = re.compile(r"[\w\s-]{1,30}=")


def expand(found: re.Match[str]) -> str:
    """What the template of a match shows."""
    argument, body = found[1], found[2]
    if argument is not None:  # its default
        return argument.partition("|")[2]
    name, bar, rest = body.partition("|")
    name = name.strip().lower().replace("_", " ")
    if not bar:
        return _FIXED.get(name, "")
    if name not in _FIRST | _LAST | _CONVERT | _DATE and not name.startswith("lang-"):
        return _FIXED.get(name, "")
    given = [part.strip().removeprefix("1=") for part in rest.split("|")]
    words = [part for part in given if not _NAMED.match(part)]
    if not words:
        return ""
    if name in _DATE:
        return " ".join(words)
    if name in _CONVERT:
        return _convert(words)
    return words[-1 if name in _LAST else 0]


def _convert(words: list[str]) -> str:
    """A number and its unit as they were given; a range shows both numbers."""
    if len(words) >= 4 and words[1] in ("-", "–"):
        return f"{words[0]}–{words[2]} {words[3]}"
    if len(words) >= 4 and words[1] in ("to", "and", "x", "by", "or"):
        return " ".join(words[:4])
    return " ".join(words[:2])
