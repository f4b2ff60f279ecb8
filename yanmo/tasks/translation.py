"""Translate: texts with their layout, sentence by sentence, by beam search, with a glossary.

In: a model that reads a source and writes a target (Marian, T5, BART, mBART, M2M100, NLLB, or trained here), settings,
rows with `text`. Out: rows with `translation` and `score`.

    prepare      training examples → the parts of a recipe, and a tokenizer for a model that starts from nothing
    settings_of  what the finished model's task.json holds
    predict      model, settings, rows → translations
    languages    a model whose vocabulary has language codes (mBART, M2M100, NLLB), set to a pair of them

    A text is cut into blocks and sentences (sentences.py), all sentences of all rows are searched together, those of
    about the same length in one batch, and the translations are put back in their places.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yanmo.corpus.script import script
from yanmo.errors import InputError, nearest
from yanmo.inference.generate import Options, positions_held
from yanmo.inference.search import Beams, Found, search_ids
from yanmo.inference.terms import Terms
from yanmo.tasks.examples import Example
from yanmo.tasks.glossary import Called, Glossary, holds, read_glossary, terms_of
from yanmo.tasks.sentences import Block, joined, rebuild, split
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tokens.train import train_pair, train_tokenizer

if TYPE_CHECKING:
    from yanmo.inference.model import Model

BATCH = 2048  # tokens of sources that are searched together, each with all its beams
# a model from nothing for some ten thousand pairs, and how it is trained: Multi30k in minutes (docs/log.md)
SIZES: dict[str, Any] = {"family": "bart", "width": 192, "layers": 3, "heads": 3, "ffn_width": 512, "dropout": 0.1}
TRAINING: dict[str, Any] = {"optimizer": "muon", "schedule": "cosine", "warmup": 0.04, "ema": 0.99}
STEP = 8  # tokens by which limits grow
LONGEST = 512  # tokens of a sentence where the model has no table of positions
CODE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}|__[a-z]{2,3}__")  # en_XX of mBART, eng_Latn of NLLB, __en__ of M2M100
CLAUSES = re.compile(r"(?<=[;:,，；：、。．])\s*|\s+")
VOCAB, FEWEST = 8000, 500  # ids of a new vocabulary; of a small one
OPTIONS: dict[str, Any] = {
    "beams": 5,
    "nbest": 1,
    "length_penalty": 1.0,
    "coverage_penalty": 0.0,
    "patience": "likely",
    "prefix": "",
    "source_language": "",
    "target_language": "",
    "glossary": None,
    "strict": False,
    "max_ratio": 2.0,
}


@dataclass(frozen=True)
class Said:
    """A translation of a sentence. total: Σ log p of its tokens; score: what beam search ranked it by."""

    text: str
    total: float
    tokens: int
    score: float


@dataclass
class Sentence:
    """One sentence (or a part of one too long for the model) with what it calls for, and what was found.

    cut: terms of the whole sentence that stand in none of its parts, told by the first one.
    """

    row: int
    text: str
    ids: list[int]
    called: Called
    terms: Terms
    cut: tuple[str, ...] = ()
    found: list[Said] = field(default_factory=list)  # best first
    missed: tuple[str, ...] = ()


# --- before training


def prepare(
    train: Sequence[Example],
    folder: Path,
    *,
    new: bool,
    kind: str = "unigram",
    vocab_size: int = 0,
    separate: bool = False,
) -> dict[str, dict[str, Any]]:
    """The parts of a recipe that translation needs; a new model's tokenizer is trained on both sides, in `folder`.

    vocab_size: 0 takes 8,000, or fewer for few texts. separate: of each side a model of that size.
    Raises InputError for an example without a target.
    """
    bare = next((e for e in train if not e.text.strip() or not (e.target or "").strip()), None)
    if bare is not None:
        raise InputError(f"{bare.where}: a source and its translation are needed, and one of them is empty")
    parts: dict[str, dict[str, Any]] = {"objective": {"kind": "seq2seq", "source": "text", "target": "target"}}
    if not new:
        return parts
    if not folder.is_dir():
        sides = [e.text for e in train], [str(e.target) for e in train]
        if separate:
            train_pair(*sides, vocab_size or max(map(_vocabulary, sides)), folder)
        else:
            texts = [*sides[0], *sides[1]]
            train_tokenizer(texts, kind, vocab_size or _vocabulary(texts)).save(folder)
    parts["tokenizer"] = {"path": str(folder)}
    parts["objective"]["smoothing"] = 0.1
    return parts


def _vocabulary(texts: Sequence[str]) -> int:
    """A size for a vocabulary: 8,000, and fewer where a piece would be seen less than about twenty times."""
    letters = len({letter for text in texts for letter in text})
    return max(min(VOCAB, sum(map(len, texts)) // 60), letters + FEWEST)


def settings_of(train: Sequence[Example], *, length: int, prefix: str = "") -> dict[str, Any]:
    """What task.json holds: the languages are those of the texts' scripts, for cutting into sentences alone."""
    some = " ".join(example.text for example in train[:200])
    return {"task": "translate", "format": 1, "length": length, "prefix": prefix, "script": script(some)}


# --- predictions


def predict(model: Model, settings: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Translate each row's `text`.

    settings: task.json with the options of OPTIONS. Out: `id`, `translation`, `score` (mean natural logarithm of a
    token's probability), with nbest > 1 `translations`, and with a glossary `missed`: wanted terms that could not be
    placed and forbidden ones that were written all the same, which with `strict` is an InputError.
    """
    options = _options(settings)
    model = languages(model, options["source_language"], options["target_language"])
    glossary = options["glossary"]
    if glossary is not None and not isinstance(glossary, Glossary):
        glossary = read_glossary(glossary)
    laid: list[list[tuple[Block, list[list[Sentence]]]]] = []
    for number, row in enumerate(rows):
        blocks = split(_text(row), options["source_language"][:2] or guess(_text(row), settings))
        laid.append([(b, [_sentences(model, options, glossary, number, s) for s in b.sentences]) for b in blocks])
    flat = [s for parts in laid for _, groups in parts for group in groups for s in group]
    _search(model, options, flat)
    return [_row(row, parts, options) for row, parts in zip(rows, laid)]


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    """The options, checked; what task.json says beside them is left alone."""
    options = OPTIONS | {name: settings[name] for name in OPTIONS if settings.get(name) is not None}
    if isinstance(options["nbest"], bool) or not isinstance(options["nbest"], int) or options["nbest"] < 1:
        raise InputError(f"nbest is {options['nbest']!r}, and must be a whole number, at least 1")
    ratio = options["max_ratio"]
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < math.inf:
        raise InputError(f"max_ratio is {ratio!r}, and must be a number above 0: tokens written for each one read")
    _beams(options)
    return options


def _beams(options: dict[str, Any]) -> Beams:
    given = {name: options[name] for name in ("beams", "length_penalty", "coverage_penalty", "patience")}
    checked = Beams(**given)
    return dataclasses.replace(checked, beams=max(checked.beams, options["nbest"]), n=options["nbest"])


def _text(row: dict[str, Any]) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise InputError(f"row {row.get('id')!r}: text is {type(text).__name__}, and must be a string")
    return text


def guess(text: str, settings: dict[str, Any]) -> str:
    """The language by whose rules a text is cut: Chinese by its script, German by its small words, else English."""
    if "han" in (script(text), settings.get("script")):
        return "zh"
    words = re.findall(r"\w+", text.lower())
    german = sum(word in {"der", "die", "das", "und", "ist", "nicht", "ein", "eine", "mit", "auf"} for word in words)
    english = sum(word in {"the", "and", "is", "not", "a", "of", "to", "in", "with", "on"} for word in words)
    return "de" if german > english else "en"


def _sentences(model: Model, options: dict[str, Any], glossary: Glossary | None, row: int, text: str) -> list[Sentence]:
    """A sentence as the model reads it; one that it cannot hold in several parts, cut between clauses or words."""
    found = []
    room = positions_held(model.network) or LONGEST
    called = Called() if glossary is None else glossary.of(text)
    for part, ids in _parts(model, options["prefix"], text, room, glossary):
        own = called if glossary is None or part == text else glossary.of(part)
        here = Called(tuple(term for term in called.wanted if term in own.wanted), called.forbidden)
        terms = terms_of(model.tokenizer, here, model.config.output_size)
        found.append(Sentence(row, part, ids, here, terms))
    placed = {term for sentence in found for term in sentence.called.wanted}
    if found:
        found[0].cut = tuple(term for term in called.wanted if term not in placed)
    return found


def _parts(
    model: Model, prefix: str, text: str, room: int, glossary: Glossary | None
) -> Iterator[tuple[str, list[int]]]:
    ids = model.prompt_ids(prefix + text)
    if len(ids) <= room:
        yield text, ids
        return
    whole = set() if glossary is None else {n for _, (a, b) in glossary.found(text) for n in range(a + 1, b)}
    clauses = [match.end() for match in CLAUSES.finditer(text) if 0 < match.end() < len(text)]
    cuts = [cut for cut in clauses if cut not in whole] or [cut for cut in range(1, len(text)) if cut not in whole]
    middle = min(cuts or [len(text) // 2], key=lambda cut: abs(cut - len(text) // 2))
    if len(text) < 2:
        raise InputError(f"{text!r} has {len(ids)} tokens, and the model has positions for {room}")
    for half in (text[:middle], text[middle:]):
        if half.strip():
            yield from _parts(model, prefix, half.strip(), room, glossary)


def _search(model: Model, options: dict[str, Any], flat: Sequence[Sentence]) -> None:
    """Fill `found` of all sentences, those of about the same length in one batch."""
    model.check_writes()
    if model.config.kind != "encoder-decoder":
        raise InputError("the model writes on and does not translate; take one that reads a source (Marian, T5, BART)")
    beams = _beams(options)
    for limit, batch in batches(flat, options["max_ratio"]):
        lengths = Options(max_new_tokens=limit)
        ids, terms = [s.ids for s in batch], [s.terms for s in batch]
        found = search_ids(model.network, ids, beams, lengths, model.ends, terms)
        for sentence, texts in zip(batch, found):
            _take(model, sentence, texts)


def batches(flat: Sequence[Sentence], ratio: float) -> Iterator[tuple[int, list[Sentence]]]:
    """(tokens that may be written, sentences): of about the same length, BATCH tokens together, padding included.

    The limit follows from a sentence's own length and terms, so that it is the same in any company.
    """

    def limit(sentence: Sentence) -> int:
        terms = sum(max(map(len, ways)) for ways in sentence.terms.wanted)
        return math.ceil(ratio * -(-len(sentence.ids) // STEP) * STEP) + 16 + -(-terms // STEP) * STEP

    for most, group in itertools.groupby(sorted(flat, key=lambda s: (limit(s), len(s.ids))), key=limit):
        batch: list[Sentence] = []
        for sentence in group:
            if batch and max(len(s.ids) for s in (*batch, sentence)) * (len(batch) + 1) > BATCH:
                yield most, batch
                batch = []
            batch.append(sentence)
        yield most, batch


def _take(model: Model, sentence: Sentence, texts: Sequence[Found]) -> None:
    """Decode what was found; texts that break the glossary come after those that keep it."""
    rated = []
    for rank, found in enumerate(texts):
        text = model.tokenizer.decode([i for i in found.ids if i not in model.ends.eos_ids]).strip()
        missed = [term for term in sentence.called.wanted if not holds(text, term)]
        missed += [f"!{term}" for term in sentence.called.forbidden if holds(text, term, whole=True)]
        rated.append((len(missed), rank, Said(text, found.logprob, len(found.ids), found.score), tuple(missed)))
    rated.sort(key=lambda one: one[:2])
    best = rated[0][2].score
    sentence.found = [dataclasses.replace(one[2], score=min(best, one[2].score)) for one in rated]
    sentence.missed = rated[0][3]


def _row(
    row: dict[str, Any], parts: Iterable[tuple[Block, list[list[Sentence]]]], options: dict[str, Any]
) -> dict[str, Any]:
    parts = list(parts)
    flat = [s for _, groups in parts for group in groups for s in group]
    best = n_best([s.found for s in flat], options["nbest"])
    texts = []
    for chosen, total, tokens in best:
        said = iter(chosen)
        blocks = [[joined([next(said) for _ in group]) for group in groups] for _, groups in parts]
        text = rebuild([block for block, _ in parts], blocks)
        texts.append({"translation": text, "score": total / max(tokens, 1)})
    out: dict[str, Any] = ({"id": row["id"]} if "id" in row else {}) | texts[0]
    if options["nbest"] > 1:
        out["translations"] = texts
    if options["glossary"] is not None:
        missed = [term for s in flat for term in s.missed]
        missed += [term for s in flat for term in s.cut if not holds(out["translation"], term)]
        out["missed"] = missed
        if missed and options["strict"]:
            raise InputError(
                f"row {row.get('id')!r}: {', '.join(missed)} of the glossary could not be kept; "
                "raise beams, or leave out strict to have them counted"
            )
    return out


def n_best(found: Sequence[Sequence[Said]], n: int) -> list[tuple[tuple[str, ...], float, int]]:
    """The n best choices of one text for each sentence: (texts, Σ log p, tokens), best first.

    The first one takes each sentence's first text; the others lose the least of the scores by which texts are ranked.
    """
    best: list[tuple[tuple[str, ...], float, int, float]] = [((), 0.0, 0, 0.0)]
    for texts in found:
        longer = [
            ((*chosen, said.text), total + said.total, tokens + said.tokens, lost + texts[0].score - said.score)
            for chosen, total, tokens, lost in best
            for said in texts
        ]
        best = sorted(longer, key=lambda one: one[3])[:n]
    return [one[:3] for one in best]


# --- languages


def languages(model: Model, source: str, target: str) -> Model:
    """The same model, set to translate from one language code of its vocabulary into another; "" changes nothing.

    A code is what mBART puts beside a text (en_XX); `en` finds the one that begins so. A model without codes has one
    pair of languages, and only cuts sentences by `source`.
    """
    codes = language_codes(model.tokenizer)
    if not codes or not (source or target):
        return model
    ends, tokenizer = model.ends, model.tokenizer
    if target:
        id = codes[_code(codes, target)]
        first = ends.start_id not in codes.values()  # mBART 25 begins with the code itself
        ends = dataclasses.replace(ends, forced_first_id=id) if first else dataclasses.replace(ends, start_id=id)
    from yanmo.inference.model import Model as Opened

    changed = Opened(model.network, tokenizer, ends, model.folder)
    if source:
        changed = _Coded(changed, frozenset(codes.values()), codes[_code(codes, source)])  # type: ignore[assignment]
    return changed


def language_codes(tokenizer: Tokenizer) -> dict[str, int]:
    """Language code → id, of a vocabulary that has them among its special tokens."""
    names = {entry.content for entry in tokenizer.engine.added() if CODE.fullmatch(entry.content)}
    return {name: id for name in sorted(names) if (id := tokenizer.id(name)) is not None}


def _code(codes: dict[str, int], wanted: str) -> str:
    if wanted in codes:
        return wanted
    found = [code for code in codes if code.strip("_").split("_")[0] == wanted]
    if len(found) > 1:
        raise InputError(f"the model has {len(found)} languages {wanted!r}: {', '.join(found)}; name one of them")
    if not found:
        some = ", ".join(list(codes)[:8])
        raise InputError(f"the model has no language {wanted!r}{nearest(wanted, codes)}; it has {some} …")
    return found[0]


class _Coded:
    """A model whose sources begin or end with another language code than its tokenizer's own."""

    def __init__(self, model: Model, codes: frozenset[int], id: int) -> None:
        self._model, self._codes, self._id = model, codes, id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def prompt_ids(self, prompt: str) -> list[int]:
        ids = self._model.prompt_ids(prompt)
        if not self._codes.intersection(ids):  # a tokenizer that was saved without a language
            return [self._id, *ids]
        return [self._id if id in self._codes else id for id in ids]
