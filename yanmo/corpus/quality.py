"""Quality: every rule's measure of a text, and the first rule that it breaks.

    judge                     text → (measures, reason or None)
    judge_all                 the same for many texts at once: several times as fast
    limits                    the limits of the rules, as [quality] of a recipe has them; 0 turns a rule off
    REASONS                   reason → what it says

The rules are those of Gopher (J. Rae et al., 2021, table A1), C4 (C. Raffel et al., 2020) and FineWeb (G. Penedo et
al., 2024) with their published limits; where Yanmo departs from them, docs/quality.md says why. Words, lines and their
kinds come from `words.tokenise`; a script without spaces counts 1.6 characters for a word, has n-grams that much
longer, and limits of its own where they were measured to differ. `quality_measures.py` computes what is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yanmo.corpus.quality_measures import DUPLICATE_GRAMS, TOP_GRAMS, measure
from yanmo.corpus.settings import QualitySection, from_values
from yanmo.corpus.words import BATCH, MAX_CHARACTERS, batches, tokenise

TOP_LIMITS = dict(zip(TOP_GRAMS, (0.20, 0.18, 0.16)))
DUPLICATE_LIMITS = dict(zip(DUPLICATE_GRAMS, (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)))
NEVER = 1e18  # a limit that nothing passes


def limits(**values: float) -> QualitySection:
    """The published limits with others in place of some; 0 turns a rule off. ConfigError for one that cannot be."""
    return from_values({"quality": values}).quality


SETTINGS = QualitySection()


@dataclass(frozen=True)
class Rule:
    """`measure` must lie between the settings `least` and `most` (either may be empty) times `factor`."""

    reason: str
    measure: str
    least: str = ""
    most: str = ""
    factor: float = 1.0


RULES = (
    Rule("few_words", "words", least="min_words"),
    Rule("many_words", "words", most="max_words"),
    Rule("lorem_ipsum", "lorem_ipsum", most="lorem_ipsum", factor=0.5),
    Rule("javascript", "javascript", most="javascript", factor=0.5),
    Rule("short_words", "word_length", least="min_word_length"),
    Rule("long_words", "word_length", most="max_word_length"),
    Rule("symbols", "symbols", most="max_symbols"),
    Rule("braces", "braces", most="max_braces"),
    Rule("bullets", "bullets", most="max_bullets"),
    Rule("ellipses", "ellipses", most="max_ellipses"),
    Rule("not_alphabetic", "alphabetic", least="min_alphabetic"),
    Rule("no_stop_words", "stop_words", least="min_stop_words"),
    Rule("repeated_lines", "duplicate_lines", most="max_duplicate_lines"),
    Rule("repeated_paragraphs", "duplicate_paragraphs", most="max_duplicate_paragraphs"),
    Rule("repeated_lines", "duplicate_line_characters", most="max_duplicate_line_characters"),
    Rule("repeated_paragraphs", "duplicate_paragraph_characters", most="max_duplicate_paragraph_characters"),
    *(Rule("repeated_words", f"top_{n}_gram", most="top_grams", factor=limit) for n, limit in TOP_LIMITS.items()),
    *(
        Rule("repeated_words", f"duplicate_{n}_grams", most="duplicate_grams", factor=limit)
        for n, limit in DUPLICATE_LIMITS.items()
    ),
    Rule("unended_lines", "ended_lines", least="min_ended_lines"),
    Rule("short_lines", "short_lines", most="max_short_lines"),
    Rule("line_breaks", "line_breaks", most="max_line_breaks"),
)
REASONS = {
    "few_words": "fewer words than Gopher asks for (a Han character is 1 / 1.6 of one)",
    "many_words": "more words than the limit",
    "lorem_ipsum": "holds the printer's filler text (C4)",
    "javascript": "asks for JavaScript to be turned on (C4)",
    "short_words": "words too short in the mean (Gopher)",
    "long_words": "words too long in the mean (Gopher)",
    "symbols": "too many # and … for its words (Gopher)",
    "braces": "too many curly braces: code (C4)",
    "bullets": "nearly all lines are bullets (Gopher)",
    "ellipses": "too many lines end in an ellipsis (Gopher)",
    "not_alphabetic": "too many words without a letter (Gopher)",
    "no_stop_words": "none or one of the words that every prose has (Gopher)",
    "repeated_lines": "lines repeat (Gopher)",
    "repeated_paragraphs": "paragraphs repeat (Gopher)",
    "repeated_words": "runs of words repeat (Gopher)",
    "unended_lines": "too few lines end a sentence (FineWeb)",
    "short_lines": "too many short lines (FineWeb)",
    "line_breaks": "too many line breaks for its words (FineWeb)",
}


def judge(text: str, language: str = "", settings: QualitySection = SETTINGS) -> tuple[dict[str, float], str | None]:
    """All measures of a cleaned text, and the reason of REASONS for which it is left out, or None.

    `language`: a code of `language.identify`; stop words are asked for in "en" and "zh" alone. Of a text longer than
    4,194,304 characters the beginning is judged.
    """
    return judge_all([text], [language], settings)[0]


def judge_all(
    texts: Sequence[str], languages: Sequence[str] = (), settings: QualitySection = SETTINGS
) -> list[tuple[dict[str, float], str | None]]:
    """`judge` of each text; each result is the same whatever other texts come along."""
    languages = languages or [""] * len(texts)
    result: list[tuple[dict[str, float], str | None]] = []
    for batch in batches(texts, BATCH):
        found = measure(tokenise(batch), [text[:MAX_CHARACTERS] for text in batch])
        spoken = languages[len(result) : len(result) + len(batch)]
        result += _results(found, [code in ("en", "zh") for code in spoken], settings)
    return result


def _results(
    found: dict[str, np.ndarray], asked: Sequence[bool], settings: QualitySection
) -> list[tuple[dict[str, float], str | None]]:
    number = len(asked)
    reasons: list[str | None] = [None] * number
    for rule in reversed(RULES):  # so that the first rule that is broken names the reason
        least, most = (getattr(settings, name) * rule.factor if name else 0.0 for name in (rule.least, rule.most))
        values = found[rule.measure]
        if rule.reason == "repeated_words":
            values = np.where(found["spaceless"] > 0, values / (settings.spaceless_grams or NEVER), values)
        broken = (values < least) | (values > (most or NEVER))
        if rule.measure == "stop_words":
            broken &= np.asarray(asked, bool)
        for place in np.flatnonzero(broken).tolist():
            reasons[place] = rule.reason
    names = list(found)
    table = np.stack([found[name] for name in names], axis=1)
    table[np.isnan(table)] = 0.0
    return [(dict(zip(names, row)), reason) for row, reason in zip(table.tolist(), reasons)]
