"""Questions on passages → examples of answer: SQuAD 1.1 and 2.0 and their kin, and flat rows of the same.

In: JSON trees (data → paragraphs → qas) or rows with context, question and answers. Out: Examples whose `text` is the
passage; answers of () say that the passage does not answer; None that nobody has answered yet.

    is_tree       whether a JSON value is a tree of this kind
    tree          its questions, in order; an article is a group
    flat          rows → examples
    placed        an answer's text and offset → where it stands

An offset that does not fit is looked for within NEAR characters: counts of UTF-16 units or bytes, and offsets from
before a cleaning, are off by a little. Exactly one place is believed. An answer in words that are not the passage's is
kept, without a place, where another answer of its question has one. CMRC's first format has no offsets, and other
names (context_text, query_text); there the first place counts, as its makers' own script takes it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yanmo.errors import FileError
from yanmo.tasks import columns
from yanmo.tasks.examples import Answer, Bad, Example
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, fit, identity, kind, short, together, whole

NEAR = 100  # characters before and behind an offset in which a misplaced answer is looked for
CONTEXT = ("context", "context_text", "passage")
QUESTION = ("question", "query_text", "query")
ID = ("id", "query_id", "qid")
WRITTEN = re.compile(r'"(?:id|query_id|qid|context_id)"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9]{1,20})')
REPLACED = "answers stood beside their offsets and were found nearby"
OTHER_WORDS = "answers are not in their passage beside one that is; they are kept to judge by, not to learn from"
FIRST = "answers without an offset stand in several places; the first was taken"


class Misplaced(Refused):
    """An answer that does not stand in its passage, or not at one place near its offset."""


def is_tree(value: Any) -> bool:
    """Whether a JSON value is {"data": [{"paragraphs": …}]}, a list of such articles, or of CMRC's paragraphs."""
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict):
        value = [value]
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict):
        return False
    return isinstance(first.get("paragraphs"), list) or (
        isinstance(first.get("qas"), list) and any(name in first for name in CONTEXT)
    )


def tree(file: File, lines: _Lines, item: tuple[int, Any], reading: Reading) -> Rows:
    """Yield the questions of a tree that begins in a line. A node that is no node of such a tree is a Bad."""
    first, value = item
    articles = value["data"] if isinstance(value, dict) and isinstance(value.get("data"), list) else value
    articles = [articles] if isinstance(articles, dict) else articles
    lines.last = file.at(first)
    titles = [a.get("title") for a in articles if isinstance(a, dict) and isinstance(a.get("title"), str)]
    unique = len(set(titles)) == len(articles)
    for number, article in enumerate(articles, start=1):
        title = article.get("title") if isinstance(article, dict) else None
        group = title if unique and title else f"{file.at(first)}#{number}"
        for paragraph in _nodes(article, number):
            if isinstance(paragraph, str):
                yield Bad(lines.last, paragraph)
                continue
            try:
                context = fit(_first(paragraph, CONTEXT), "passage")
                questions = paragraph.get("qas")
                if not isinstance(questions, list):
                    raise Refused(f"the questions of the passage {short(context)} are {kind(questions)}, no list")
            except Refused as refused:
                yield Bad(lines.of(_first(paragraph, ("id", "context_id"))), str(refused))
                continue
            for question in questions:
                where = lines.of(_first(question, ID) if isinstance(question, dict) else None)
                yield _question(question, context, group, where, reading)


def _nodes(article: Any, number: int) -> Iterator[dict[str, Any] | str]:
    """The paragraphs of an article; a text says what is wrong with one."""
    if isinstance(article, dict) and "paragraphs" not in article and "qas" in article:
        article = {"paragraphs": [article]}
    paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
    if not isinstance(paragraphs, list):
        yield f"article {number:,} has no list of paragraphs"
        return
    for paragraph in paragraphs:
        if isinstance(paragraph, dict):
            yield paragraph
        else:
            yield f"a paragraph of article {number:,} is {kind(paragraph)}, no object"


def _first(node: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((node[name] for name in names if name in node), None)


class _Lines:
    """The lines of questions: where their ids stand in a file, which is read through once, however they are written."""

    def __init__(self, file: File, text: str):
        self.file = file
        self.last = file.at(1)
        self.places: dict[str | int, deque[int]] = {}
        line, at = 1, 0
        for found in WRITTEN.finditer(text):
            line += text.count("\n", at, found.start(1))
            at = found.start(1)
            with contextlib.suppress(ValueError):  # in a line that is no JSON
                self.places.setdefault(json.loads(found[1]), deque()).append(line)

    def of(self, key: Any) -> str:
        """The place of the next question with this id; the last one's where it is not found."""
        if isinstance(key, (str, int)) and not isinstance(key, bool) and (lines := self.places.get(key)):
            self.last = self.file.at(lines.popleft())
        return self.last


def _question(node: Any, context: str, group: str, where: str, reading: Reading) -> Example | Bad:
    if not isinstance(node, dict):
        return Bad(where, f"a question is {kind(node)}, no object")
    key = _first(node, ID)
    try:
        question = fit(_first(node, QUESTION), "question")
        answers = _unless(node.get("is_impossible"), _answers(_given(node), None, context, where, reading))
        held = together(group)
        return Example(identity(key, where), where, context, question=question, answers=answers, group=held)
    except Refused as refused:
        return Bad(where, f"question {short(key)}: {refused}")


def _given(node: Mapping[str, Any]) -> Any:
    """What a question has of answers; MRQA's have their places in another list."""
    found = node.get("detected_answers")
    if isinstance(found, list) and found and all(isinstance(item, dict) and item.get("char_spans") for item in found):
        try:
            return [{"text": item["text"], "answer_start": item["char_spans"][0][0]} for item in found]
        except (KeyError, IndexError, TypeError):
            raise Refused("its detected_answers are no objects with text and char_spans") from None
    return node.get("answers", node.get("answer"))


def _answers(held: Any, start: Any, context: str, where: str, reading: Reading) -> tuple[Answer, ...] | None:
    """Answers in any of their forms: a text, a list of texts or of objects, an object of lists."""
    if held is None:
        return None
    if isinstance(held, str):
        held = [{"text": held, "answer_start": start}] if held.strip() else []
    if isinstance(held, dict) and isinstance(held.get("text"), list):
        starts = held.get("answer_start")
        starts = starts if isinstance(starts, list) and len(starts) == len(held["text"]) else None
        if starts is None and held["text"]:
            raise Refused("its answers have not as many offsets as texts")
        held = [{"text": text, "answer_start": begin} for text, begin in zip(held["text"], starts or [])]
    elif isinstance(held, dict):
        held = [held]
    if not isinstance(held, list):
        raise Refused(f"its answers are {kind(held)}, no list")
    found: list[Answer] = []
    elsewhere: list[tuple[Answer, Misplaced]] = []
    for item in held:
        if isinstance(item, str):
            item = {"text": item}
        if not isinstance(item, dict):
            raise Refused(f"an answer is {kind(item)}, no object with text and answer_start")
        try:
            found.append(placed(item.get("text"), item.get("answer_start"), context, where, reading))
        except Misplaced as misplaced:
            elsewhere.append((Answer(item["text"], -1), misplaced))
    if elsewhere and not found:
        raise elsewhere[0][1]
    for _ in elsewhere:
        reading.count(OTHER_WORDS, where)
    # Those with a place stand as often as people gave them: which is most frequent is learnt
    return (*found, *dict.fromkeys(answer for answer, _ in elsewhere))


def _unless(impossible: Any, answers: tuple[Answer, ...] | None) -> tuple[Answer, ...] | None:
    """The answers, which are () where the question is marked as impossible; Refused where it has some all the same."""
    if impossible not in (True, "True", "true"):  # 1 is True
        return answers
    if answers:
        raise Refused("it is marked as impossible, and has an answer")
    return ()


def placed(held: Any, start: Any, context: str, where: str, reading: Reading) -> Answer:
    """The place of an answer in its passage; Refused where it is not in it, or near its offset in several places."""
    text = fit(held, "answer")
    if start is None or start == "" or (isinstance(start, float) and math.isnan(start)):
        start = -1
    start = whole(start, "the answer's offset")
    if start >= 0 and context.startswith(text, start):
        return Answer(text, start)
    for candidate in dict.fromkeys((text, text.strip())):
        if start < 0:
            found = context.find(candidate)
            if found >= 0 and context.find(candidate, found + 1) >= 0:
                reading.count(FIRST, where)
            if found >= 0:
                return Answer(candidate, found)
            continue
        low, high = max(0, start - NEAR), start + NEAR + len(candidate)
        found = context.find(candidate, low, high)
        if found >= 0 and context.find(candidate, found + 1, high) < 0:
            reading.count(REPLACED, where)
            return Answer(candidate, found)
    if start > len(context):
        raise Misplaced(
            f"the answer {short(text)} begins at {start:,}, and the passage has {len(context):,} characters, in which "
            "it is not found near its end"
        )
    if start >= 0 and text in context:
        raise Misplaced(f"the answer {short(text)} is not at {start:,}, and not at exactly one place near it")
    raise Misplaced(f"the answer {short(text)} is not in its passage")


def flat(file: File, names: list[str], rows: Sequence[columns.Row], reading: Reading) -> Rows:
    """Rows of context, question and answers, as tables and Parquet files of question answering have them."""
    roles = columns.chosen(file, names, rows, reading, ("context", "question", "answer"))
    for line, row in rows:
        where = file.at(line)
        try:
            context = fit(columns.value(row, roles["context"]), "passage")
            question = fit(columns.value(row, roles["question"]), "question")
            start = columns.value(row, roles["start"]) if "start" in roles else None
            held = columns.value(row, roles["answer"])
            answers = _unless(row.get("is_impossible"), _answers(held, start, context, where, reading))
            key = columns.value(row, roles["id"]) if "id" in roles else None
            group = columns.value(row, roles["group"]) if "group" in roles else row.get("title")
            held = together(group)
            yield Example(identity(key, where), where, context, question=question, answers=answers, group=held)
        except Refused as refused:
            yield Bad(where, str(refused))


def parsed(file: File, text: str, values: Sequence[tuple[int, Any] | Bad], reading: Reading) -> Rows:
    """The trees of a file, one or several; raises FileError where there is none."""
    if not any(is_tree(item[1]) for item in values if not isinstance(item, Bad)):
        raise FileError(f"{file.path}: no questions in it; SQuAD's data → paragraphs → qas are needed")
    columns.ignored(file, reading)
    lines = _Lines(file, text)
    for item in values:
        if isinstance(item, Bad):
            yield item
        elif is_tree(item[1]):
            yield from tree(file, lines, item, reading)
        elif not (isinstance(item[1], dict) and "header" in item[1]):  # MRQA's files begin with one
            yield Bad(file.at(item[0]), "it has no context and qas, as the others have")
