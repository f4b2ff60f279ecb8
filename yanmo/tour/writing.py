"""Inference in a tour: three beginnings out of the validation set, continued; and the attention of one sentence.

In: the models and the validation documents. Out: JSON for the report; the samples appear on the terminal as they grow.

    make_samples      pick_prompts: documents → prompts; each continued by all three models
    make_attention    pick_sentence, look: one sentence → the attention weights of its most different heads
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from yanmo import machine
from yanmo.corpus.documents import Document
from yanmo.corpus.ngram import NGram
from yanmo.inference.model import Model
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tour.counting import FILE, write_on
from yanmo.tour.folder import Tour
from yanmo.tour.learning import load_net
from yanmo.tour.show import Show
from yanmo.tour.texts import documents_of

SAMPLING: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95, "seed": 1}
PROMPT_TOKENS, NEW_TOKENS = 16, 64
SENTENCE_TOKENS = (10, 18)  # short enough that every token can be labelled on a phone
SHOWN_HEADS = 6
PARAGRAPH = re.compile(r"(?:^|(?<=\n\n))[^\s]")
LINE = re.compile(r"(?:^|(?<=\n))[ \t\u3000]*\S", re.M)
HAN = re.compile(r"[\u3400-\u9fff]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。!?])|\n\s*\n")


def pick_prompts(documents: Sequence[Document], tokenizer: Tokenizer, count: int = 3) -> list[dict[str, str]]:
    """Cut `count` beginnings of paragraphs out of the set, spread over it: prompt, how it goes on, source.

    Paragraphs of prose are preferred, of documents of their own; where there are fewer, whatever text there is.
    """
    places = [(document, begin) for document in documents for begin in _paragraphs(document.text)]
    prose = [place for place in places if _is_prose(place[0].text[place[1] : place[1] + 200])]
    firsts = list({place[0].id: place for place in reversed(prose)}.values())[::-1]  # the first one of each document
    pool = next((found for found in (firsts, prose, places) if len(found) >= count), [(documents[0], 0)])
    chosen = [pool[(2 * i + 1) * len(pool) // (2 * count)] for i in range(count)]
    return [_cut(document, begin, tokenizer) for document, begin in chosen]


def _paragraphs(text: str) -> list[int]:
    """Where paragraphs begin: behind blank lines, or, in a text that has none, behind the ends of lines."""
    found = [match.start() for match in PARAGRAPH.finditer(text)]
    return found if len(found) > 1 else [match.start() for match in LINE.finditer(text)]


def _is_prose(text: str) -> bool:
    """Mostly letters and spaces, and long enough to be cut in two."""
    head = text.split("\n\n")[0]
    letters = sum(character.isalpha() or character.isspace() for character in head)
    return len(head.encode()) >= 80 and letters >= (0.75 if HAN.search(head) else 0.9) * len(head)


def _cut(document: Document, begin: int, tokenizer: Tokenizer) -> dict[str, str]:
    """The first tokens of a paragraph as prompt, up to the end of a word, and what follows as truth."""
    ids = tokenizer.encode(document.text[begin : begin + 2000], add_special_tokens=False)
    size = max(1, min(PROMPT_TOKENS, len(ids) // 2))
    prompt = tokenizer.decode(ids[:size]).rstrip("\ufffd")
    space = prompt.rstrip().rfind(" ")
    if space > len(prompt) // 2 and not prompt.endswith(" "):
        prompt = prompt[:space]  # the last word may have been cut
    truth = tokenizer.decode(ids[: size + NEW_TOKENS])[len(prompt) :].rstrip("\ufffd")
    return {"prompt": prompt, "truth": truth, "source": _source(document)}


def _source(document: Document) -> str:
    parts = [document.url or document.source, document.license]
    return ", licence ".join(part for part in parts if part)


def make_samples(tour: Tour, show: Show) -> dict[str, Any]:
    """Continue three prompts with all three models; the Transformer's text is streamed to the terminal."""
    transformer, lstm = load_net(tour, "transformer"), load_net(tour, "lstm")
    ngram = NGram.load(tour.out / FILE)
    texts = []
    for one in pick_prompts(list(documents_of(tour, "valid")), transformer.tokenizer):
        prompt = one["prompt"]
        written = show.continue_(prompt, transformer.stream(prompt, max_new_tokens=NEW_TOKENS, **SAMPLING))
        show.say("")
        other = lstm.generate(prompt, max_new_tokens=NEW_TOKENS, **SAMPLING)
        counted = write_on(ngram, transformer.tokenizer, prompt, NEW_TOKENS, SAMPLING["temperature"], SAMPLING["seed"])
        texts.append({**one, "transformer": written, "lstm": other, "ngram": counted})
    return {**SAMPLING, "texts": texts, "peak_memory": machine.peak_memory()}


def make_attention(tour: Tour) -> dict[str, Any]:
    """The attention of one validation sentence, for the report."""
    model = load_net(tour, "transformer")
    return look(model, pick_sentence(list(documents_of(tour, "valid")), model.tokenizer))


def pick_sentence(documents: Sequence[Document], tokenizer: Tokenizer) -> dict[str, str]:
    """The first sentence of the validation set whose tokens can be labelled, or the beginning of the first document."""
    low, high = SENTENCE_TOKENS
    for document in documents:
        for sentence in SENTENCE_END.split(document.text[:4000]):
            sentence = " ".join((sentence or "").split())
            words = len(sentence) > 20 and sentence[-1] in ".!?。!?"
            if words and low <= len(tokenizer.encode(sentence, add_special_tokens=False)) <= high:
                return {"sentence": sentence, "source": _source(document)}
    first = documents[0]
    ids = tokenizer.encode(first.text, add_special_tokens=False)[:high]
    return {"sentence": tokenizer.decode(ids), "source": _source(first)}


@torch.inference_mode()
def look(model: Model, sentence: dict[str, str]) -> dict[str, Any]:
    """The attention weights over one sentence: of the heads that differ most from each other, rounded for the page."""
    ids = model.tokenizer.encode(sentence["sentence"])
    weights = torch.stack([layer[0] for layer in model.attentions(ids)]).float().cpu()  # (L, H, T, T)
    layers, heads, columns, _ = weights.shape
    flat = weights.reshape(layers * heads, columns * columns)
    chosen = sorted(_most_different(flat, SHOWN_HEADS))
    shown = [
        {
            "name": f"layer {number // heads + 1}, head {number % heads + 1}",
            "weights": [[round(value, 3) for value in row] for row in flat[number].view(columns, columns).tolist()],
        }
        for number in chosen
    ]
    return {**sentence, "tokens": pieces(model.tokenizer, ids), "heads": shown, "of": layers * heads}


def _most_different(flat: torch.Tensor, count: int) -> list[int]:
    """Start from the map of the sharpest head, then add the one farthest from all that are chosen."""
    chosen = [int(flat.square().sum(1).argmax())]
    nearest = (flat - flat[chosen[0]]).norm(dim=1)
    while len(chosen) < min(count, len(flat)):
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (flat - flat[chosen[-1]]).norm(dim=1))
    return chosen


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token stands for; a token that is a part of a character is shown as its bytes' sign."""
    return [tokenizer.decode([i], skip_special_tokens=False) or "∅" for i in ids]
