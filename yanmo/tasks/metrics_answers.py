"""Answers scored by the rules of SQuAD, and of CMRC where the answer is Chinese.

In: gold answers (none of them: the passage does not answer) beside predicted texts ("": no answer). Out: 0 to 1 each.

    english    SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018; evaluate-v2.0): lower case, ASCII punctuation and
               a/an/the dropped, white space joined; exact equality, and F1 over the bag of words
    chinese    CMRC 2018 (Cui et al. 2019; its script, version 5): punctuation dropped, characters of Chinese one by one
               and words between them; exact equality, and F1 over the longest run that both have
    best_threshold    SQuAD 2.0's: from which confidence on answers are better given than withheld

The best of several gold answers counts. No answer is right where there is none, and only there. CMRC's script splits
Latin text inside Chinese by NLTK; its rules for common signs are followed here, and rare quotes may differ.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
# what CMRC drops, its ellipsis of two signs left out: the script compares single characters with it, which never match
CHINESE_SIGNS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
HAN = re.compile("[一-龥]")
# where NLTK's tokenizer, the script's, cuts the words between Chinese characters (numbers stay whole)
CUTS = re.compile(r"""\.{2,}|[;@#$%&?!()\[\]{}<>"—–]|…+|,(?!\d)|'(?:s|re|ll|ve|d|m)\b|(?<!\.)\.\s*$""")


def is_chinese(text: str) -> bool:
    """Whether CMRC's rules fit a text: at least a third of its letters are Chinese."""
    letters = sum(character.isalpha() for character in text)
    return letters > 0 and 3 * len(HAN.findall(text)) >= letters


def normal(text: str) -> str:
    """A text as SQuAD compares it."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def english(answers: Sequence[str], predicted: str) -> tuple[float, float]:
    """(exact, F1) by SQuAD 2.0's rules; gold answers of which nothing is left are none."""
    wanted = [text for text in map(normal, answers) if text] or [""]
    given = normal(predicted)
    return float(given in wanted), max(_bag(text.split(), given.split()) for text in wanted)


def _bag(wanted: list[str], given: list[str]) -> float:
    if not wanted or not given:
        return float(wanted == given)
    same = sum((Counter(wanted) & Counter(given)).values())
    return 2 * same / (len(wanted) + len(given))


def chinese(answers: Sequence[str], predicted: str) -> tuple[float, float]:
    """(exact, F1) by CMRC's rules; "" is right where there are no answers."""
    if not answers or not predicted:
        right = float(not answers and not predicted)
        return right, right
    given, pieces = _stripped(predicted), segments(predicted)
    exact = float(any(_stripped(text) == given for text in answers))
    return exact, max(_run(segments(text), pieces) for text in answers)


def _stripped(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in CHINESE_SIGNS)


def segments(text: str) -> list[str]:
    """The pieces of which CMRC counts: Chinese characters, and the words and signs between them."""
    out: list[str] = []
    between = ""
    for character in _stripped(text):
        if HAN.match(character):
            out += [*_words(between), character]
            between = ""
        else:
            between += character
    return out + _words(between)


def _words(text: str) -> list[str]:
    return CUTS.sub(r" \g<0> ", text).split()


def _run(wanted: list[str], given: list[str]) -> float:
    """F1 by the longest run of pieces that stands in both."""
    longest = 0
    before = [0] * (len(given) + 1)
    for left in wanted:
        now = [0] * (len(given) + 1)
        for j, right in enumerate(given):
            if left == right:
                now[j + 1] = before[j] + 1
                longest = max(longest, now[j + 1])
        before = now
    return 2 * longest / (len(wanted) + len(given)) if longest else 0.0


def best_threshold(
    scores: Sequence[float], doubt: Sequence[float], answered: Sequence[bool], answerable: Sequence[bool]
) -> tuple[float, float]:
    """(best mean score, the greatest doubt at which an answer is still given), by SQuAD 2.0's script.

    scores: of each row with the answer that was given. doubt: of each row, that there is no answer. With nothing
    answered at all, what cannot be answered is right, and the greatest doubt is 0.
    """
    current = best = float(sum(not can for can in answerable))
    threshold = 0.0
    for i in sorted(range(len(scores)), key=lambda row: doubt[row]):
        current += scores[i] if answerable[i] else -float(answered[i])
        if current > best:
            best, threshold = current, doubt[i]
    return (best / len(scores) if len(scores) else 0.0), threshold
