"""Questions on a folder of documents → answers, each with its source and its place.

In: a library (library.py), a reader (answering.py) or a model that writes, questions. Out: one dict for each question.

    open_answerer   a reader or an instruct model, and paths of documents → Answerer
    Answerer        predict(questions), stream(rows)
    extract         the words of the documents that answer, read in the passages that BM25 finds
    compose         an answer that an instruct model writes from numbered passages, with those it cites
    cited           which passages a written answer cites; numbers that no passage has are taken out and told

Extracted answers are ranked by how far the reader prefers each to "no answer", and by BM25 (docs/log.md).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yanmo.errors import InputError
from yanmo.hub import resolve
from yanmo.inference.model import load
from yanmo.tasks.answering import Read, read, withheld
from yanmo.tasks.library import Hit, Library, Passage, find, open_library
from yanmo.tasks.metrics_answers import HAN
from yanmo.tasks.opening import SETTINGS
from yanmo.tasks.predictor import load_predictor
from yanmo.tokens.chat import chat_ids, template_of

if TYPE_CHECKING:
    from yanmo.inference.model import Model

PASSAGES = 5
AT_ONCE = 16  # questions that are answered together
SHARE = 8.0  # of the best BM25 score, in nats of the reader (docs/log.md)

ENGLISH = (
    "Answer the question from the numbered passages alone. After each statement cite the passage that says it by its "
    "number in brackets, such as [1]. If the passages do not answer the question, say so."
)
CHINESE = (
    "请只根据下面带编号的段落回答问题。每句话后用方括号写出所依据段落的编号，例如[1]。如果段落中没有答案，请直接说明。"
)
_CITATION = re.compile(r"\s?[\[【［]\s*(\d{1,4}(?:\s*[,，、;；]\s*\d{1,4})*)\s*[\]】］]")


@dataclass
class Answerer:
    """Answers from a library: a reader's words of the documents, or what a model without settings writes from them."""

    model: Model
    settings: dict[str, Any] | None
    library: Library
    passages: int = PASSAGES
    options: dict[str, Any] = field(default_factory=dict)  # of Model.generate, where the model writes

    def predict(self, questions: Any) -> Any:
        """The answer to a question (a text, or a mapping with `question`), or to each of many, in their order."""
        if isinstance(questions, (str, Mapping)):
            return self.predict([questions])[0]
        return list(self.stream(questions))

    def stream(self, rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """The same of any number of rows, of which few are held at a time; an `id` is given back."""
        source, first = iter(rows), 0
        while chunk := list(itertools.islice(source, AT_ONCE)):
            questions = [_question(row, first + place) for place, row in enumerate(chunk)]
            for row, found in zip(chunk, self._answers(questions), strict=True):
                yield ({"id": row["id"]} if isinstance(row, Mapping) and "id" in row else {}) | found
            first += len(chunk)

    def _answers(self, questions: list[str]) -> list[dict[str, Any]]:
        if self.settings is None:
            return compose(self.model, self.library, questions, self.passages, **self.options)
        return extract(self.model, self.settings, self.library, questions, self.passages)


def open_answerer(
    path_or_id: str | Path,
    documents: Sequence[str | Path],
    *,
    passages: int = PASSAGES,
    device: Any = None,
    **options: Any,
) -> Answerer:
    """A trained reader (its run or model folder) or an instruct model, with the documents that it answers from.

    options: of Model.generate, for a model that writes. A model that neither reads nor writes is a FileError.
    """
    folder = resolve(str(path_or_id))
    model = None if (folder / SETTINGS).is_file() else load(path_or_id, device=device)
    if model is not None and getattr(model.config, "head", "causal") == "causal":
        model.check_writes()
        template_of(model.tokenizer)
        return Answerer(model, None, open_library(documents), passages, options)
    reader = load_predictor(path_or_id, task="answer", device=device)
    if options:
        raise InputError(f"{folder}: a reader writes nothing; leave out {', '.join(options)}")
    return Answerer(reader.model, reader.settings, open_library(documents), passages)


def _question(row: Any, number: int) -> str:
    question = row.get("question") if isinstance(row, Mapping) else row
    if not isinstance(question, str) or not question.strip():
        name = row.get("id", number) if isinstance(row, Mapping) else number
        raise InputError(f'row {name!r} has no question; give a text, or an object with "question"')
    return question


# --- extracted


def extract(
    model: Model, settings: dict[str, Any], library: Library, questions: Sequence[str], passages: int = PASSAGES
) -> list[dict[str, Any]]:
    """For each question: answer, score, source, start, end, line, passage.

    start, end: characters of the document; passage: the text that was read. An answer that is not found, or withheld in
    all passages, is "" with None in the other fields, and its score that of "no answer" where this was most in doubt.
    """
    hits = find(library, questions, passages)
    rows = [
        {"id": question, "question": question, "context": library.passages[hit.passage].text}
        for question, found in zip(questions, hits, strict=True)
        for hit in found
    ]
    readings = iter(read(model, settings, rows))
    return [_best(settings, library, found, [next(readings) for _ in found]) for found in hits]


def _best(settings: dict[str, Any], library: Library, hits: list[Hit], readings: list[Read]) -> dict[str, Any]:
    found: list[tuple[float, Hit, Read]] = []
    for hit, one in zip(hits, readings, strict=True):
        if one.place is not None and not withheld(settings, one.margin):
            worth = one.margin if settings.get("no_answer") else one.span
            found.append((worth + SHARE * hit.score / hits[0].score, hit, one))
    if not found:
        doubt = min((one.null for one in readings), default=0.0)
        names = ("start", "end", "source", "line", "passage")
        return {"answer": "", "score": math.exp(doubt)} | dict.fromkeys(names)
    _, hit, one = max(found, key=lambda three: three[0])
    passage, place = library.passages[hit.passage], one.place
    assert place is not None
    answer = {"answer": passage.text[place[0] : place[1]], "score": math.exp(one.span)}
    return answer | passage.place(*place) | {"passage": passage.text}


# --- written


def compose(
    model: Model,
    library: Library,
    questions: Sequence[str],
    passages: int = PASSAGES,
    *,
    template: str | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """For each question: answer, sources (those cited: number, source, start, end, line, passage), invented, passages.

    invented: numbers that the model cited and no passage has, which the answer no longer holds; passages: how many the
    model was given, the best ones that fit into its positions. options: those of Model.generate.
    """
    model.check_writes()
    limit = options.setdefault("max_new_tokens", 256)
    hits = find(library, questions, passages)
    asked: list[tuple[list[int], list[Passage]]] = []
    for question, found in zip(questions, hits, strict=True):
        asked.append(_prompt(model, question, [library.passages[hit.passage] for hit in found], template, limit))
    with model.engine() as engine:
        handles = [engine.submit(ids, **options) for ids, _ in asked]
        texts = [handle.result().text for handle in handles]
    return [_composed(text.strip(), given) for text, (_, given) in zip(texts, asked, strict=True)]


def _prompt(
    model: Model, question: str, given: list[Passage], template: str | None, room: int
) -> tuple[list[int], list[Passage]]:
    """The ids of the question with as many of the passages, best first, as the model's positions hold."""
    limit = getattr(model.config, "max_positions", 0) or 1 << 30
    for count in range(len(given), -1, -1):
        ids = chat_ids(model.tokenizer, messages(question, given[:count]), template=template)
        if len(ids) + room <= limit and (count or not given):
            return ids, given[:count]
    raise InputError(
        f"the question {question!r:.60} with its best passage and {room} tokens to write do not fit into the model's "
        f"{limit:,} positions; take shorter passages, or write fewer tokens"
    )


def messages(question: str, passages: Sequence[Passage]) -> list[dict[str, str]]:
    """The conversation that asks for an answer with citations, in Chinese where the question has Chinese."""
    chinese = HAN.search(question) is not None
    numbered = [f"[{number}] {passage.source}\n{passage.text.strip()}" for number, passage in enumerate(passages, 1)]
    none, asks = ("（没有找到段落）", "问题：") if chinese else ("(no passages were found)", "Question: ")
    parts = [CHINESE if chinese else ENGLISH, *(numbered or [none]), asks + question.strip()]
    return [{"role": "user", "content": "\n\n".join(parts)}]


def _composed(text: str, given: list[Passage]) -> dict[str, Any]:
    answer, numbers, invented = cited(text, len(given))
    sources = []
    for number in numbers:
        passage = given[number - 1]
        sources.append({"number": number} | passage.place(0, len(passage.text)) | {"passage": passage.text})
    return {"answer": answer, "sources": sources, "invented": invented, "passages": len(given)}


def cited(text: str, count: int) -> tuple[str, list[int], list[int]]:
    """(the text without invented citations, the passages it cites in their order, the invented numbers).

    A citation is a number in brackets, or several; one of 1 to `count` is a passage, any other is invented.
    """
    known: list[int] = []
    invented: list[int] = []

    def keep(match: re.Match[str]) -> str:
        numbers = [int(number) for number in re.findall(r"\d+", match[1])]
        real = [number for number in numbers if 1 <= number <= count]
        known.extend(real)
        invented.extend(number for number in numbers if number not in real)
        space = match[0][: len(match[0]) - len(match[0].lstrip())]
        return f"{space}[{', '.join(map(str, real))}]" if real else ""

    kept = _CITATION.sub(keep, text)
    return kept, list(dict.fromkeys(known)), list(dict.fromkeys(invented))
