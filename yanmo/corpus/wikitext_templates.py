"""Templates that stand within sentences and carry their words; every other template goes.

In: a match of one template without others inside. Out: the words that it shows, or nothing.
"""

from __future__ import annotations

import re

# which argument is shown: 1 the first, -1 the last
_SHOWN = {
    **dict.fromkeys(
        [
            "nowrap",
            "nobr",
            "nobold",
            "small",
            "big",
            "smaller",
            "larger",
            "abbr",
            "tooltip",
            "angbr",
            "sic",
            "smallcaps",
            "sub",
            "sup",
        ],
        1,
    ),
    **dict.fromkeys(
        [
            "em",
            "strong",
            "quote",
            "cquote",
            "blockquote",
            "le",
            "ill",
            "link-en",
            "link-ja",
            "internal",
            "link",
            "helper",
        ],
        1,
    ),
    **dict.fromkeys(
        [
            "link",
            "lj",
            "lang-x",
            "w",
            "mvar",
            "math",
            "var",
            "bd_",
            "flagcountry",
            "flag",
            "country",
            "pl",
            "nihongo",
            "zy",
        ],
        1,
    ),
    **dict.fromkeys(["ipa", "ipa-en", "unicode", "script_", "lead", "jpn", "kor", "ruby", "transl_"], 1),
    **dict.fromkeys(
        ["lang", "zh-lang", "transl", "transliteration", "color", "colour", "font", "color", "fontcolor"], -1
    ),
}
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
    place = _SHOWN.get(name)
    if place is None and name not in _CONVERT | _DATE and not name.startswith("lang-"):
        return _FIXED.get(name, "")
    given = [part.strip().removeprefix("1=") for part in rest.split("|")]
    words = [part for part in given if not _NAMED.match(part)]
    if not words:
        return ""
    if name in _DATE:
        return " ".join(words)
    if name in _CONVERT:
        return _convert(words)
    return words[0 if place is None or place > 0 else -1]


def _convert(words: list[str]) -> str:
    """A number and its unit as they were given; a range shows both numbers."""
    if len(words) >= 4 and words[1] in ("-", "–"):
        return f"{words[0]}–{words[2]} {words[3]}"
    if len(words) >= 4 and words[1] in ("to", "and", "x", "by", "or"):
        return " ".join(words[:4])
    return " ".join(words[:2])
