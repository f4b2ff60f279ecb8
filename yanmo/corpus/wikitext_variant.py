"""Chinese variant markup: -{zh-cn:信息;zh-tw:資訊}- → the wanted one.

In: what stands between the braces, without others inside. Out: the text of one variant, by MediaWiki's order of
fallbacks. Flags: R, A, - and none show, T, H, D, N and - only declare; a list of variants as flag shows its text.
"""

from __future__ import annotations

import re

FALLBACK = {
    "zh-cn": ("zh-hans", "zh-sg", "zh-my", "zh"),
    "zh-sg": ("zh-my", "zh-hans", "zh-cn", "zh"),
    "zh-my": ("zh-sg", "zh-hans", "zh-cn", "zh"),
    "zh-tw": ("zh-hant", "zh-hk", "zh-mo", "zh"),
    "zh-hk": ("zh-mo", "zh-hant", "zh-tw", "zh"),
    "zh-mo": ("zh-hk", "zh-hant", "zh-tw", "zh"),
    "zh-hans": ("zh-cn", "zh-sg", "zh-my", "zh"),
    "zh-hant": ("zh-tw", "zh-hk", "zh-mo", "zh"),
}
_CODE = "zh(?:-[a-z]{2,4})?"
_RULE = re.compile(rf"(?:^|;)[^;:]*?({_CODE})\s*:", re.IGNORECASE)
_FLAGS = re.compile(rf"\s*(?:[A-Z-]|{_CODE})?(?:\s*;\s*(?:[A-Z-]|{_CODE}))*\s*")


def choose(inside: str, variant: str = "zh-cn") -> str:
    """The text of -{inside}- for a variant."""
    flags, bar, body = inside.partition("|")
    if bar and _FLAGS.fullmatch(flags):
        if any(flag.strip() in ("T", "H", "D", "N", "-") for flag in flags.split(";")):
            return ""
    else:
        body = inside
    rules: dict[str, str] = {}
    code, at = "", 0
    for found in _RULE.finditer(body):
        if not code and body[: found.start()].strip():
            return body
        if code:
            rules.setdefault(code, body[at : found.start()].strip())
        code, at = found[1].lower(), found.end()
    if not code:
        return body
    rules.setdefault(code, body[at:].strip().rstrip(";"))
    for wanted in (variant, *FALLBACK.get(variant, ())):
        if wanted in rules:
            return rules[wanted]
    return next(iter(rules.values()))
