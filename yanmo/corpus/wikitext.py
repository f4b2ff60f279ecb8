"""Wikitext → plain text that reads well, in a few passes of regular expressions that each take linear time.

In: a page's wikitext. Out: its text: headings and lists in Markdown, tables as lines of cells, links as their labels.

    plain               wikitext → text
    is_redirect         whether a page only leads to another
    is_disambiguation   whether a page lists the meanings of a name

This is the reference; wikinative.py does the same by the compiled library where there is one. Order: comments,
elements (references out, code and mathematics set aside), then templates and variants from the inside out, links,
tables, lines. What is nested deeper than DEPTH levels loses its marks and keeps its text. Every pattern stops at the
next bracket or line, so no text takes more than its length times DEPTH.
"""

from __future__ import annotations

import html
import re

from yanmo.corpus.wikitext_tables import table_lines
from yanmo.corpus.wikitext_templates import expand
from yanmo.corpus.wikitext_variant import choose
from yanmo.corpus.wikitext_words import CATEGORY, DISAMBIGUATION, DISAMBIGUATION_TITLES, FILE, REDIRECT

HIDDEN = FILE | CATEGORY
DEPTH = 12  # of templates in templates; MediaWiki allows 40, articles have up to 6
LINK_DEPTH = 4  # a caption of an image holds links, seldom more

_DROPPED = "ref references gallery timeline score imagemap templatedata graph mapframe maplink hiero inputbox "
_DROPPED += "categorytree templatestyles indicator style script includeonly"
_KEPT = "nowiki pre syntaxhighlight source math chem ce"
_NAMES = "|".join(sorted((_DROPPED + " " + _KEPT).split(), key=len, reverse=True))
_ELEMENT = re.compile(rf"<({_NAMES})\b([^<>]*)>", re.IGNORECASE | re.ASCII)
_ENDS = {name: re.compile(f"</{name}", re.IGNORECASE | re.ASCII) for name in (_DROPPED + " " + _KEPT).split()}
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_TEMPLATE = re.compile(r"\{\{\{([^{}]*)\}\}\}|\{\{([^{}]*)\}\}")
_EXTERNAL = re.compile(r"\[(?ai:https?:|ftp:|mailto:|//)[^\s\[\]]*(?:[^\S\n]([^\[\]\n]*))?\]")
_LINK = re.compile(r"\[\[([^\[\]|]*)(?:\|([^\[\]]*))?\]\]")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple|zh-min-nan|be-x-old")
_BREAK = re.compile(
    r"<br[^<>]*>|</?(?:p|div|li|ul|ol|dd|dt|dl|tr|blockquote|center)\b[^<>]*>", re.IGNORECASE | re.ASCII
)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_QUOTES = re.compile("'{2,5}")
_MAGIC = re.compile(r"__[^\W\d_]{3,20}__")
_EMPTY = re.compile(r"\([\s,;:、，；：]*[)）]")  # patterns begin with one character, which is looked for fastest
_EMPTY_WIDE = re.compile(r"（[\s,;:、，；：]*[)）]")
_MARKED = re.compile(r"\n([=*#:;])([^\n]*)")
_RULE = re.compile(r"\n-{4,}")
_LINES = re.compile(r"\n{3,}")
_ASIDE = re.compile("\ue000([0-9]+)\ue001")
_LEFT = ("{{", "}}", "[[", "]]", "-{", "}-")
_LEFTOVER = re.compile(r"\{\{+|\}\}+|\[\[|\]\]|-\{|\}-")
_REDIRECT = re.compile(r"\s*[#＃](?:{})\s*:?\s*\[\[".format("|".join(REDIRECT)), re.IGNORECASE)
_NAME = re.compile(r"\{\{([^{}|<\n]{1,60})")


def is_redirect(text: str) -> bool:
    """Whether the page begins with a redirect, in any of the languages known."""
    return _REDIRECT.match(text[:400]) is not None


def is_disambiguation(text: str, title: str = "") -> bool:
    """Whether the page has a template of disambiguation pages, or a title in their form."""
    if title.endswith(DISAMBIGUATION_TITLES):
        return True
    return any(map(names_disambiguation, _NAME.findall(text)))


def names_disambiguation(template: str) -> bool:
    """Whether a template of this name marks a page of disambiguation."""
    return template.strip().replace("_", " ").lower() in DISAMBIGUATION


def prefix_kind(prefix: str, hidden: frozenset[str]) -> int:
    """What a link with this prefix is: 0 shown, 1 hidden, 2 one to another language, hidden without a label."""
    prefix = prefix.strip().lower()
    return 1 if prefix in hidden else 2 if _LANGUAGE.fullmatch(prefix) else 0


def is_magic(letters: str) -> bool:
    """Whether __letters__ is a word for MediaWiki, such as __TOC__."""
    return _MAGIC.fullmatch(f"__{letters}__") is not None


def plain(text: str, variant: str = "zh-cn", prefixes: frozenset[str] = frozenset(), *, tables: bool = True) -> str:
    """The text of a page.

    variant: the Chinese one that -{…}- is resolved to. prefixes: names of the file and category namespaces of this
    wiki, in lower case, beside those that are known. tables: kept as lines of cells, or left out.
    """
    text = text.replace("\ue000", "").replace("\ue001", "").replace("\ue002", "").replace("\r", "")
    if "<!--" in text:
        text = _without_comments(text)
    aside: list[str] = []
    if "<" in text:
        text = _elements(text, aside)
    text = _inside_out(text, variant)
    if "[" in text:
        text = _links(text, prefixes)
    if "{|" in text:
        text = table_lines(text, tables)
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", text))
    if "''" in text:
        text = _QUOTES.sub(lambda found: "'" if len(found[0]) == 4 else "", text)
    if "__" in text:
        text = _MAGIC.sub("", text)
    if any(mark in text for mark in _LEFT):
        text = _LEFTOVER.sub("", text)
    if "&" in text:
        text = html.unescape(html.unescape(text)) if "&amp;" in text else html.unescape(text)
    return put_back(_tidy(text), aside)


def put_back(text: str, aside: list[str]) -> str:
    """The text with what was set aside in the place of its marks."""
    if aside:
        text = _ASIDE.sub(lambda found: aside[int(found[1])] if int(found[1]) < len(aside) else "", text)
    return text.strip()


def _without_comments(text: str) -> str:
    parts, at = [], 0
    while (start := text.find("<!--", at)) >= 0:
        parts.append(text[at:start])
        end = text.find("-->", start)
        if end < 0:
            return "".join(parts)
        at = end + 3
    return "".join([*parts, text[at:]])


def _elements(text: str, aside: list[str]) -> str:
    """References and their like out; code and mathematics into `aside`, a mark in their place."""
    parts, at = [], 0
    ends: dict[str, int] = {}  # element → where its next end tag begins, so that none is looked for twice
    for found in _ELEMENT.finditer(text):
        if found.start() < at:
            continue
        parts.append(text[at : found.start()])
        at = found.end()
        name = found[1].lower()
        if found[2].endswith("/"):
            continue
        if ends.get(name, 0) < at:
            ended = _ENDS[name].search(text, at)
            ends[name] = ended.start() if ended else len(text) + 1
        end = ends[name]
        if end > len(text):  # never ended: the tag goes, its text stays
            continue
        if name in _KEPT:
            parts.append(set_aside(name, text[at:end], aside))
        at = text.find(">", end) + 1 or len(text)
    parts.append(text[at:])
    return "".join(parts)


def set_aside(name: str, text: str, aside: list[str]) -> str:
    """Keep the content of an element of code or mathematics, and give the mark that stands for it."""
    if name in ("math", "chem", "ce"):
        text = f"${' '.join(text.split())}$"
    else:
        text = html.unescape(text).strip("\n") if name != "nowiki" else html.unescape(text)
    text = _ASIDE.sub("", text)
    aside.append(text)
    return f"\ue000{len(aside) - 1}\ue001"


def _inside_out(text: str, variant: str) -> str:
    """Templates and variants, the innermost first."""
    for _ in range(DEPTH):
        before = len(text)
        if "-{" in text:
            text = _VARIANT.sub(lambda found: choose(found[1], variant), text)
        if "{{" in text:
            text = _TEMPLATE.sub(expand, text)
        if len(text) == before:
            break
    return text


def _links(text: str, prefixes: frozenset[str]) -> str:
    text = _EXTERNAL.sub(lambda found: found[1] or "", text)
    hidden = HIDDEN | prefixes

    def label(found: re.Match[str]) -> str:
        target, shown = found[1], found[2]
        prefix, colon, rest = target.partition(":")
        if colon:
            if not prefix.strip():  # a colon in front makes a link of what would hide
                return shown if shown is not None else rest
            kind = prefix_kind(prefix, hidden)
            if kind == 1 or (kind == 2 and shown is None):
                return ""
        if shown is None:
            return target
        return shown or rest or target

    for _ in range(LINK_DEPTH):
        text, changed = _LINK.subn(label, text)
        if not changed:
            break
    return text


def _line(found: re.Match[str]) -> str:
    mark, rest = found[1], found[2]
    if mark == "=":
        level = len(rest) + 1 - len(rest.lstrip("="))
        title = rest.strip("= \t")
        heading = title and rest.rstrip().endswith("=")
        return f"\n\n{'#' * min(level, 6)} {title}\n" if heading else f"\n{mark}{rest}"
    item = rest.lstrip("*#:; \t")
    if not item:
        return "\n"
    marks = mark + rest[: len(rest) - len(rest.lstrip("*#:;"))]
    if marks[-1] in ":;":
        return "\n" + item
    return "\n" + "  " * (len(marks) - 1) + ("- " if marks[-1] == "*" else "1. ") + item


def _tidy(text: str) -> str:
    """Spaces, lines, headings, lists; a heading with nothing below it goes."""
    for space in "\t\u00a0\u2009\u200b":
        text = text.replace(space, " ")
    while "  " in text:
        text = text.replace("  ", " ")
    text = "\n" + text.replace(" \n", "\n").replace("\n ", "\n")
    empty = _EMPTY.sub("\ue002", text)
    if "（" in text:
        empty = _EMPTY_WIDE.sub("\ue002", empty)
    text = empty.replace(" \ue002", "").replace("\ue002", "")
    text = _RULE.sub("\n", text)
    text = _LINES.sub("\n\n", _MARKED.sub(_line, text)).strip()
    if not text.startswith("#") and "\n#" not in text:
        return text
    kept: list[str] = []
    below = 0  # the level of the heading that follows; 7 is text
    for part in reversed(text.split("\n\n")):
        part = part.strip("\n")
        level = len(part) - len(part.lstrip("#")) if part.startswith("#") and "\n" not in part else 7
        if level < 7 and below <= level:
            continue
        if part:
            kept.append(part)
            below = level
    return "\n\n".join(reversed(kept))
