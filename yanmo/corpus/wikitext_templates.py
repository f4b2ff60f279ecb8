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


def meaning(name: str) -> tuple[str, str]:
    """(which of its arguments a template shows: "first", "last", "convert", "date" or "", its fixed text or "")."""
    name = name.strip().lower().replace("_", " ")
    kinds = {"date": _DATE, "convert": _CONVERT, "last": _LAST, "first": _FIRST}
    kind = next((kind for kind, names in kinds.items() if name in names), "first" if name.startswith("lang-") else "")
    return kind, _FIXED.get(name, "")


def is_named(part: str) -> bool:
    """Whether an argument begins with its name."""
    return _NAMED.match(part) is not None


def expand(found: re.Match[str]) -> str:
    """What the template of a match shows."""
    argument, body = found[1], found[2]
    if argument is not None:  # its default
        return argument.partition("|")[2]
    name, bar, rest = body.partition("|")
    kind, fixed = meaning(name)
    if not bar or not kind:
        return fixed
    given = [part.strip().removeprefix("1=") for part in rest.split("|")]
    words = [part for part in given if not is_named(part)]
    if not words:
        return ""
    if kind == "date":
        return " ".join(words)
    if kind == "convert":
        return _convert(words)
    return words[-1 if kind == "last" else 0]


def _convert(words: list[str]) -> str:
    """A number and its unit as they were given; a range shows both numbers."""
    if len(words) >= 4 and words[1] in ("-", "–"):
        return f"{words[0]}–{words[2]} {words[3]}"
    if len(words) >= 4 and words[1] in ("to", "and", "x", "by", "or"):
        return " ".join(words[:4])
    return " ".join(words[:2])
