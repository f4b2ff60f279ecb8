"""What is done to documents between reading and the search for duplicates, in this order, as the user chose.

In: documents. Out: each with its cleaned text and the verdict for which it is left out, or None; counts of changes.

    Steps         which steps are taken; the default cleans and rejects what is no text
    steps_of      the recipe of a corpus → Steps
    through       documents → (document, verdict or None)
    REASONS       reason → what it says

Unicode is cleaned always. Then, if asked for: mojibake mended and boilerplate lines out, the language found, quality
judged, blocklists asked, perplexity measured, evaluation sets looked for, personal data masked. What a document becomes
depends on it and the steps alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from yanmo.corpus import blocklist, boilerplate, contamination, language, perplexity, privacy, quality
from yanmo.corpus.blocklist import Blocklist
from yanmo.corpus.clean import REASONS as UNCLEAN
from yanmo.corpus.clean import clean, reject
from yanmo.corpus.documents import Document
from yanmo.corpus.quality import SETTINGS as LIMITS
from yanmo.corpus.settings import CorpusRecipe, QualitySection
from yanmo.errors import ConfigError

CODE = re.compile("[a-z]{2,3}")
BATCH = 64  # documents that are judged together
REASONS = (
    UNCLEAN
    | quality.REASONS
    | blocklist.REASONS
    | {
        "language": "in none of the languages that are wanted, or in none that can be told",
        "perplexity": "unlike the trusted text of its language",
        "contaminated": "holds items of an evaluation set",
        "near_duplicate": "nearly the same text is kept, the longest of its kind",
        "old_duplicate": "an old corpus has the same text",
        "old_near_duplicate": "an old corpus has nearly the same text",
        "only_repeated": "nothing was left without the paragraphs that came before",
        "not_drawn": "the mix draws it no time",
    }
)


class Verdict(NamedTuple):
    """Why a document is left out: a reason of REASONS, and what was measured."""

    reason: str
    what: str = ""


@dataclass(frozen=True)
class Steps:
    """Which steps are taken. `languages` are codes such as "en"; with none, all are kept. ConfigError for another."""

    languages: tuple[str, ...] = ()
    identify: bool = False  # the language, where none is stated or the text is surely in another
    boilerplate: bool = False
    quality: bool = False
    mask: bool = False
    blocked: Blocklist = field(default_factory=Blocklist)
    limits: QualitySection = LIMITS
    models: Mapping[str, perplexity.Model] = field(default_factory=dict)  # language → model of its trusted text
    buckets: tuple[str, ...] = perplexity.BUCKETS
    evaluation: contamination.Index | None = None
    share: float = 0.7  # of an item's n-grams, from which a document holds it
    remove_evaluation: bool = True

    def __post_init__(self) -> None:
        for code in self.languages:
            if not CODE.fullmatch(code):
                raise ConfigError(f"languages: {code!r} is no code of two or three letters; write them as in en,zh")


def steps_of(recipe: CorpusRecipe, models: Mapping[str, Path] | None = None) -> Steps:
    """Open the files that a recipe names, and the models of trusted text; FileError for one that cannot be read."""
    files = recipe.blocklist
    return Steps(
        languages=tuple(code.strip().lower() for code in recipe.languages.keep),
        identify=recipe.languages.identify,
        boilerplate=recipe.clean.boilerplate,
        quality=recipe.quality.on,
        mask=recipe.clean.mask,
        blocked=blocklist.load(files.words, files.domains, files.urls),
        limits=recipe.quality,
        models={code: perplexity.load(path) for code, path in (models or {}).items()},
        buckets=tuple(recipe.perplexity.keep),
        evaluation=contamination.index(recipe.contamination.sets) if recipe.contamination.sets else None,
        share=recipe.contamination.share,
        remove_evaluation=recipe.contamination.remove,
    )


def through(
    documents: Iterable[Document], steps: Steps, changes: Counter[str]
) -> Iterator[tuple[Document, Verdict | None]]:
    """Yield every document with the verdict for which it is left out, or None, in their order.

    `changes` counts what was changed: texts mended, boilerplate lines, personal data by kind.
    """
    waiting = iter(documents)
    together = steps.quality or steps.models or steps.evaluation
    while batch := list(islice(waiting, BATCH if together else 1)):
        found = [_before(document, steps, changes) for document in batch]
        for judge in (_quality, _blocked, _perplexity, _evaluation):
            left = [number for number, (_, verdict) in enumerate(found) if verdict is None]
            verdicts = judge([found[number][0] for number in left], steps, changes)
            for number, verdict in zip(left, verdicts):
                found[number] = found[number][0], verdict
        for document, verdict in found:
            if verdict is None and steps.mask:
                text, masked = privacy.mask(document.text)
                changes.update({f"masked_{kind}": count for kind, count in masked.items()})
                document = dataclasses.replace(document, text=text)
            yield document, verdict


def _before(document: Document, steps: Steps, changes: Counter[str]) -> tuple[Document, Verdict | None]:
    text = clean(document.text)
    if steps.boilerplate:
        text, mended = boilerplate.repair(text)
        text, lines = boilerplate.strip(text)
        changes.update({"texts_mended": int(mended), "boilerplate_lines": lines})
    document = dataclasses.replace(document, text=text)
    why = reject(text)
    if why is not None:
        return document, Verdict(why, UNCLEAN[why])
    if not (steps.identify or steps.languages):
        return document, None
    document = dataclasses.replace(document, language=language.settle(text, document.language))
    wanted = not steps.languages or document.language.partition("-")[0] in steps.languages
    return document, None if wanted else Verdict("language", f"language {document.language or 'unknown'}")


Verdicts = Iterable[Verdict | None]


def _quality(documents: list[Document], steps: Steps, changes: Counter[str]) -> Verdicts:
    if not steps.quality or not documents:
        return ()
    found = quality.judge_all([d.text for d in documents], [d.language for d in documents], steps.limits)
    return [None if why is None else Verdict(why, _measured(measures, why)) for measures, why in found]


def _measured(measures: Mapping[str, float], why: str) -> str:
    names = dict.fromkeys(rule.measure for rule in quality.RULES if rule.reason == why)
    return ", ".join(f"{name} {measures[name]:.4g}" for name in names)


def _blocked(documents: list[Document], steps: Steps, changes: Counter[str]) -> Verdicts:
    found = [steps.blocked.reason(document.text, document.url) for document in documents]
    return [None if why is None else Verdict(why, blocklist.REASONS[why]) for why in found]


def _perplexity(documents: list[Document], steps: Steps, changes: Counter[str]) -> Verdicts:
    result: list[Verdict | None] = [None] * len(documents)
    for code, model in steps.models.items():
        mine = [number for number, d in enumerate(documents) if d.language.partition("-")[0] == code]
        for number, value in zip(mine, perplexity.scores([documents[k].text for k in mine], model)):
            bucket = perplexity.bucket(value, model)
            changes[f"perplexity_{bucket}"] += 1
            if bucket not in steps.buckets:
                result[number] = Verdict("perplexity", f"perplexity {value:.4g}, {bucket}")
    return result


def _evaluation(documents: list[Document], steps: Steps, changes: Counter[str]) -> Verdicts:
    if steps.evaluation is None:
        return ()
    result: list[Verdict | None] = []
    for held in contamination.overlaps([document.text for document in documents], steps.evaluation):
        items = [item for item in held if item[2] >= steps.share]
        for name in sorted({name for name, _, _ in items}):
            changes[f"contaminated_{name}"] += 1
        said = ", ".join(f"{share:.0%} of item {number + 1:,} of {name}" for name, number, share in items[:3])
        result.append(Verdict("contaminated", said) if items and steps.remove_evaluation else None)
    return result
