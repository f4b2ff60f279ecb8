"""What is done to documents between reading and the search for duplicates, in this order, as the user chose.

In: documents. Out: each with its cleaned text and the reason for which it is left out, or None; counts of changes.

    Steps         which steps are taken; the default cleans and rejects what is no text
    through       documents → (document, reason or None)
    REASONS       reason → what it says

Unicode is cleaned always. Then, if asked for: mojibake mended and boilerplate lines out, the language found, quality
judged, blocklists asked, personal data masked. What a document becomes depends on it and the steps alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from yanmo.corpus import blocklist, boilerplate, language, privacy, quality
from yanmo.corpus.blocklist import Blocklist
from yanmo.corpus.clean import REASONS as UNCLEAN
from yanmo.corpus.clean import clean, reject
from yanmo.corpus.documents import Document
from yanmo.errors import ConfigError

CODE = re.compile("[a-z]{2,3}")
BATCH = 64  # documents that are judged together
REASONS = (
    UNCLEAN
    | quality.REASONS
    | blocklist.REASONS
    | {"language": "in none of the languages that are wanted, or in none that can be told"}
)


@dataclass(frozen=True)
class Steps:
    """Which steps are taken. `languages` are codes such as "en"; with none, all are kept. ConfigError for another."""

    languages: tuple[str, ...] = ()
    identify: bool = False  # the language, where none is stated or the text is surely in another
    boilerplate: bool = False
    quality: bool = False
    mask: bool = False
    blocked: Blocklist = field(default_factory=Blocklist)

    def __post_init__(self) -> None:
        for code in self.languages:
            if not CODE.fullmatch(code):
                raise ConfigError(f"languages: {code!r} is no code of two or three letters; write them as in en,zh")

    def as_settings(self) -> dict[str, Any]:
        """For the card: plain values; of the blocklists how long they are."""
        blocked = self.blocked
        words = sum(len(hashes) for hashes in blocked.words.values())
        return {
            "languages": list(self.languages),
            "identify": self.identify or bool(self.languages),
            "boilerplate": self.boilerplate,
            "quality": self.quality,
            "mask": self.mask,
            "blocked": {"words": words, "domains": len(blocked.domains), "urls": len(blocked.urls)},
        }


def through(
    documents: Iterable[Document], steps: Steps, changes: Counter[str]
) -> Iterator[tuple[Document, str | None]]:
    """Yield every document with the reason for which it is left out, or None, in their order.

    `changes` counts what was changed: texts mended, boilerplate lines, personal data by kind.
    """
    waiting = iter(documents)
    while batch := list(islice(waiting, BATCH if steps.quality else 1)):
        found = [_before(document, steps, changes) for document in batch]
        if steps.quality:
            judged = [number for number, (_, why) in enumerate(found) if why is None]
            texts = [found[number][0].text for number in judged]
            verdicts = quality.judge_all(texts, [found[number][0].language for number in judged])
            for number, (_, why) in zip(judged, verdicts):
                found[number] = found[number][0], why
        for document, why in found:
            yield (document, why) if why is not None else _behind(document, steps, changes)


def _before(document: Document, steps: Steps, changes: Counter[str]) -> tuple[Document, str | None]:
    text = clean(document.text)
    if steps.boilerplate:
        text, mended = boilerplate.repair(text)
        text, lines = boilerplate.strip(text)
        changes.update({"texts_mended": int(mended), "boilerplate_lines": lines})
    document = dataclasses.replace(document, text=text)
    why = reject(text)
    if why is not None or not (steps.identify or steps.languages):
        return document, why
    document = dataclasses.replace(document, language=language.settle(text, document.language))
    wanted = not steps.languages or document.language.partition("-")[0] in steps.languages
    return document, None if wanted else "language"


def _behind(document: Document, steps: Steps, changes: Counter[str]) -> tuple[Document, str | None]:
    why = steps.blocked.reason(document.text, document.url)
    if why is None and steps.mask:
        text, masked = privacy.mask(document.text)
        changes.update({f"masked_{kind}": count for kind, count in masked.items()})
        document = dataclasses.replace(document, text=text)
    return document, why
