"""Answers without a model: the passage's sentences and phrases beside the question's words.

    answer    "sliding window": the phrase whose words, together with the question's, fill a window of the passage best,
              less its distance from them (Richardson et al. 2013, "MCTest", algorithm 1 and its distance), among the
              phrases of the sentences that share most words with the question, as in the SQuAD paper (section 5)
              "sentence": the sentence that shares most with the question
              "no answer", where training has questions without one

SQuAD's paper takes phrases from a parser; here they are the runs of words between function words and signs, in Chinese
the runs of characters between them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from yanmo.tasks.examples import Example
from yanmo.tasks.metrics_answers import HAN

Row = dict[str, Any]

TOKENS = re.compile(r"[㐀-鿿]|\w+(?:[.,'’-]\w+)*|[^\w\s]")
STOPS = re.compile(r"(?<=[.!?])\s+(?=[\"'“(\[]?[^\W_a-z])|[。！？]+|\n+")
FUNCTION_WORDS = """
a an the and or but of in on at to for from by with as is are was were be been being has have had do does did not it its
this that these those he they she his her their which who whom whose what when where why how than then also into over
after before between during there while if so such can could will would may might must s
"""
FUNCTION = frozenset(FUNCTION_WORDS.split())
FUNCTION_ZH = frozenset("的了是在和与與及或而也都就被把对對于於为為之其中以从從到向由则則因所等着著过過地得")
LONGEST, LONGEST_ZH = 6, 14  # words, characters of a phrase
Token = tuple[str, int, int]  # lower case, start, end


def answer(train: Sequence[Example], dev: Sequence[Example]) -> dict[str, list[Row]]:
    """Predictions of every baseline."""
    found = [_found(example) for example in dev]
    out = {
        "sliding window": [_row(example, window) for example, (window, _) in zip(dev, found)],
        "sentence": [_row(example, sentence) for example, (_, sentence) in zip(dev, found)],
    }
    if any(example.answers == () for example in train):
        out["no answer"] = [{"id": e.id, "answer": "", "start": 0, "end": 0, "score": 1.0} for e in dev]
    return out


def _row(example: Example, place: tuple[int, int, float]) -> Row:
    start, end, score = place
    return {"id": example.id, "answer": example.text[start:end], "start": start, "end": end, "score": score}


def _found(example: Example) -> tuple[tuple[int, int, float], tuple[int, int, float]]:
    """The best phrase and the best sentence as (start, end, score)."""
    text = example.text
    passage = tokens(text)
    asked = {word for word, _, _ in tokens(example.question or "")}
    asked -= FUNCTION | FUNCTION_ZH
    if not passage:
        return (0, 0, 0.0), (0, 0, 0.0)
    lines = sentences(text, passage)
    shared = [_overlap(passage[a:b], asked) for a, b in lines]
    most = max(shared)
    first, last = lines[shared.index(most)]
    sentence = passage[first][1], passage[last - 1][2], most / max(len(asked), 1)
    counts = Counter(word for word, _, _ in passage)
    weight = {word: math.log(1 + 1 / count) for word, count in counts.items()}
    phrases = [
        phrase
        for (a, b), share in zip(lines, shared)
        if share == most
        for phrase in runs(passage, a, b)
        if not {word for word, _, _ in passage[phrase[0] : phrase[1]]} <= asked
    ]
    scored = [(_window(passage, a, b, asked, weight), -a, b) for a, b in phrases]
    if not scored:
        return sentence, sentence
    score, a, b = max(scored)
    return (passage[-a][1], passage[b - 1][2], 1 / (1 + math.exp(-score))), sentence


def tokens(text: str) -> list[Token]:
    """Words, single Chinese characters and signs with their places."""
    return [(one.group().lower(), one.start(), one.end()) for one in TOKENS.finditer(text)]


def sentences(text: str, passage: Sequence[Token]) -> list[tuple[int, int]]:
    """Ranges of tokens; each token is in one."""
    ends = [one.end() for one in STOPS.finditer(text)] + [len(text)]
    out, first = [], 0
    for end in ends:
        last = first
        while last < len(passage) and passage[last][1] < end:
            last += 1
        if last > first:
            out.append((first, last))
        first = last
    return out


def _overlap(words: Sequence[Token], asked: set[str]) -> int:
    return len({word for word, _, _ in words} & asked)


def runs(passage: Sequence[Token], first: int, last: int) -> list[tuple[int, int]]:
    """Ranges of tokens without function words and signs, the long ones cut to their end."""
    out, begin = [], None
    for i in range(first, last + 1):
        word = passage[i][0] if i < last else ""
        inside = bool(word) and word not in FUNCTION and word not in FUNCTION_ZH and word[0].isalnum()
        if inside and begin is None:
            begin = i
        if not inside and begin is not None:
            limit = LONGEST_ZH if HAN.match(passage[i - 1][0]) else LONGEST
            out.append((max(begin, i - limit), i))
            begin = None
    return out


def _window(passage: Sequence[Token], a: int, b: int, asked: set[str], weight: dict[str, float]) -> float:
    """Richardson's score of a phrase: the best window, less the distance to the question's nearest word."""
    wanted = asked | {word for word, _, _ in passage[a:b]}
    values = [weight[word] if word in wanted else 0.0 for word, _, _ in passage]
    size = min(len(wanted), len(values))
    total = best = sum(values[:size])
    for i in range(size, len(values)):
        total += values[i] - values[i - size]
        best = max(best, total)
    places = [i for i, (word, _, _) in enumerate(passage) if word in asked and not a <= i < b]
    gap = min((a - i if i < a else i - b + 1 for i in places), default=len(passage))
    return best - gap / max(len(passage) - 1, 1)
