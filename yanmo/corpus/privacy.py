"""Personal data in texts: found by form and checksum, replaced by a fixed word for each kind.

    mask                      text → (text, counts by kind)
    TOKENS                    kind → what stands in its place

    email     an address of the usual form
    phone     +country code; Chinese mobile (11 digits, 1 3–9) and landline with area code; North American 3-3-4; French
              pairs; any number behind a word such as "Tel:" or 电话
    id        Chinese identity number: 18 digits, a possible date of birth, the checksum of GB 11643
    ssn       United States social security number, 3-2-4 with hyphens, of a range that is given out
    iban      account number, its length and its remainder modulo 97 (ISO 13616)
    card      payment card: prefix and length of an issuer, Luhn's checksum, in one piece or in groups
    ip        a public address, version 4 or 6

Dates, years, prices, versions, ISBN and measures are none of these. What has no checksum needs its usual separators, a
plus sign or a word before it: eleven digits out of nowhere are a phone only in the Chinese mobile form.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from datetime import date

TOKENS = {
    "email": "<EMAIL>",
    "phone": "<PHONE>",
    "id": "<ID_NUMBER>",
    "ssn": "<SSN>",
    "iban": "<IBAN>",
    "card": "<CARD_NUMBER>",
    "ip": "<IP_ADDRESS>",
}

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@])", re.A
)
_SPAN = re.compile(r"[0-9][0-9 .\-()（）/]{5,38}[0-9Xx]")  # where any number below lies, but for one sign before it
_NUMBERS = re.compile(
    r"""(?<![0-9A-Za-z_$€£¥￥.])(?<![0-9][.,/:\-])(?:
      (?P<id>[1-9][0-9]{16}[0-9Xx])
    | (?P<ssn>[0-9]{3}-[0-9]{2}-[0-9]{4})
    | (?P<card>[3-6][0-9]{14,18} | [2-6][0-9]{3}(?P<s1>[ -])[0-9]{4}(?P=s1)[0-9]{4}(?P=s1)[0-9]{4}(?:(?P=s1)[0-9]{1,3})?
        | 3[47][0-9]{2}(?P<s2>[ -])[0-9]{6}(?P=s2)[0-9]{5})
    | (?P<ip>(?:[0-9]{1,3}\.){3}[0-9]{1,3})
    | (?P<plus>\+[1-9][0-9]{0,2}[ .\-(（]{0,2}[0-9](?:[ .\-()（）]{0,2}[0-9]){6,13})
    | (?P<mobile>1[3-9][0-9](?P<s3>[ -]?)[0-9]{4}(?P=s3)[0-9]{4})
    | (?P<landline>[(（]?0(?:10|2[0-9]|[3-9][0-9]{2})(?:[)）][ -]?|-)[2-9][0-9]{6,7})
    | (?P<american>(?:1[ .-])?(?:\([2-9][0-9]{2}\)[ ]?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4})
    | (?P<pairs>0[1-9](?:[ .][0-9]{2}){4})
    )(?![0-9A-Za-z_%])(?![.,:\-/][0-9])""",
    re.X,
)
_NAMED = re.compile(  # ends where a number begins
    r"(?:\b(?:tel(?:e?phone)?|phone|fax|mobile|cell|whatsapp)\b|电话|電話|手机|手機|传真|傳真|热线|熱線)"
    r"(?:号码|號碼|[ ]?(?:no|number))?[ ]?(?:\.?[:：][ ]{0,2}|\.[ ]{1,2})[+(（]?$",
    re.I,
)
_DIALLED = re.compile(r"[+(（]?[0-9](?:[ .\-()（）/]{0,2}[0-9]){5,14}(?![0-9])")
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Z]{2}[0-9]{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?(?![0-9A-Za-z])")
_COLONS = re.compile(r":[0-9a-fA-F]{0,4}:")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}:(?:[0-9a-fA-F]{0,4}:){1,6}[0-9a-fA-F]{0,4}(?![\w:])")
_VERSION = re.compile(r"(?:\bv|\bver|version|release|build|firmware|版本|版)[ .:：]{0,2}$", re.I)
_ADDRESS = re.compile(r"(?:\bip\b|address|server|host|dns|://|地址|服务器)[^\n]{0,12}$", re.I)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_LENGTHS = {15: "3[47]", 16: "4|5[1-5]|2[2-7]|6011|65|62|35", 17: "62", 18: "62", 19: "4|62"}
_IBAN_LENGTHS = range(15, 35)
BEFORE = 24  # characters that tell what a number is


def mask(text: str) -> tuple[str, dict[str, int]]:
    """The text with personal data replaced by TOKENS, and how many of each kind, kinds that occur alone."""
    found = list(_emails(text)) if "@" in text else []
    for span in _SPAN.finditer(text):
        found += _numbers(text, *span.span())
    if _COLONS.search(text):
        found += [(*match.span(), "ip") for match in _IPV6.finditer(text) if _is_public(match.group())]
    return _replace(text, found) if found else (text, {})


def _emails(text: str) -> Iterator[tuple[int, int, str]]:
    place = text.find("@")
    while place >= 0:
        for match in _EMAIL.finditer(text, max(place - 65, 0), min(place + 256, len(text))):
            yield *match.span(), "email"
        place = text.find("@", place + 1)


def _numbers(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """What lies in or around one run of digits and separators."""
    first = max(start - 1, 0)
    for match in _NUMBERS.finditer(text, first, min(end + 2, len(text))):
        kind = _kind(match, text)
        if kind:
            yield *match.span(), kind
    if _NAMED.search(text[max(start - BEFORE, 0) : start]):
        dialled = _DIALLED.match(text, first) or _DIALLED.match(text, start)
        if dialled:
            yield *dialled.span(), "phone"
    for match in _IBAN.finditer(text, max(start - 16, 0), min(end + 32, len(text))):
        if _is_iban(match.group()):
            yield *match.span(), "iban"


def _replace(text: str, found: list[tuple[int, int, str]]) -> tuple[str, dict[str, int]]:
    """The earliest first, of those that overlap the longest."""
    counts: Counter[str] = Counter()
    parts, done = [], 0
    for start, end, kind in sorted(found, key=lambda each: (each[0], -each[1], each[2])):
        if start < done:
            continue
        parts += [text[done:start], TOKENS[kind]]
        counts[kind] += 1
        done = end
    return "".join([*parts, text[done:]]), dict(sorted(counts.items()))


def _kind(match: re.Match[str], text: str) -> str | None:
    """What the number that a form of _NUMBERS matched is, or None where its digits refute it."""
    name, value = match.lastgroup, match.group()
    if name == "id":
        return "id" if _is_identity(value) else ("card" if _is_card(value) else None)
    if name == "ssn":
        area, group, serial = value.split("-")
        return "ssn" if area not in ("000", "666") and area < "900" and group != "00" and serial != "0000" else None
    if name == "card":
        return "card" if _is_card(value) else None
    if name == "ip":
        return "ip" if _is_address(value, text[max(match.start() - BEFORE, 0) : match.start()]) else None
    if name == "plus":
        return "phone" if 8 <= sum(map(str.isdigit, value)) <= 15 else None
    return "phone"


def _is_identity(value: str) -> bool:
    try:
        born = date(int(value[6:10]), int(value[10:12]), int(value[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(value, _WEIGHTS))
    return 1850 <= born.year <= 2100 and "10X98765432"[total % 11] == value[17].upper()


def _is_card(value: str) -> bool:
    digits = re.sub("[ -]", "", value)
    prefix = _LENGTHS.get(len(digits))
    if prefix is None or not digits.isdigit() or not re.match(prefix, digits) or len(set(digits)) < 2:
        return False
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(digit - 9 if digit > 9 else digit for digit in doubled) % 10 == 0


def _is_iban(value: str) -> bool:
    packed = value.replace(" ", "")
    if len(packed) not in _IBAN_LENGTHS or sum(map(str.isdigit, packed)) < 8:
        return False
    return int("".join(str(int(letter, 36)) for letter in packed[4:] + packed[:4])) % 97 == 1


def _is_address(value: str, before: str) -> bool:
    """A public address, unless it reads as a version: behind such a word, or of small numbers without a word for it."""
    if not _is_public(value) or _VERSION.search(before):
        return False
    return bool(_ADDRESS.search(before)) or any(int(part) > 30 for part in value.split("."))


def _is_public(value: str) -> bool:
    try:
        return ipaddress.ip_address(value).is_global
    except ValueError:
        return False
