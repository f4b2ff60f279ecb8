"""A mix by weight and by temperature, and models of trusted text, in a corpus of many workers."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.corpus.made_sources import fingerprints, prose, 中文
from yanmo.corpus.build import build_corpus
from yanmo.corpus.documents import new_document
from yanmo.corpus.engine import make_corpus
from yanmo.corpus.settings import load_settings
from yanmo.errors import ConfigError


@pytest.fixture
def raw(tmp_path):
    """A large English source and a small Chinese one."""
    for name, lines in (("wiki", [prose(k) for k in range(60)]), ("books", [中文(k, 120) for k in range(20)])):
        (tmp_path / name).mkdir()
        language = {"wiki": "en", "books": "zh"}[name]
        rows = [json.dumps({"text": line, "language": language}) for line in lines]
        (tmp_path / name / "a.jsonl").write_text("\n".join(rows), "utf-8")
    return tmp_path


def mixed(raw, *given, workers=1):
    made = make_corpus(
        [raw / "wiki", raw / "books"], raw / "out", load_settings(None, ["out.shard_mb=0.01", *given]), workers=workers
    )
    return made, Counter(document.id for document in made.documents("train"))


def test_weights_draw_sources_as_often_as_they_say(raw):
    made, drawn = mixed(raw, "mix.weights=[wiki=1, books=3]", "mix.epochs=2")
    card = made.card
    shares = card["mix"]
    assert abs(shares["books"]["share"] - 0.75) < 0.05 and abs(shares["wiki"]["share"] - 0.25) < 0.05
    wanted = 2 * sum(each["bytes"] for each in shares.values())
    assert abs(card["splits"]["train"]["bytes"] - wanted) < 0.1 * wanted
    assert card["in"] == card["kept"] + card["removed"].get("not_drawn", 0) == 80
    assert card["splits"]["train"]["documents"] == drawn.total() and "as often as the mix" in card["notes"][0]
    assert max(drawn.values()) >= 4 and card["sources"]["books/a.jsonl"]["kept"] == 20
    assert not set(drawn) & {document.id for document in made.documents("valid")}


def test_a_temperature_lifts_small_languages(raw):
    plain = mixed(raw, "mix.by=language", "mix.epochs=1.000001")[0].card["mix"]
    warm, drawn = mixed(raw, "mix.by=language", "mix.temperature=4")
    assert warm.card["mix"]["zh"]["share"] > plain["zh"]["share"] + 0.1
    before = fingerprints(raw / "out")
    assert mixed(raw, "mix.by=language", "mix.temperature=4", workers=3)[1] == drawn
    assert fingerprints(raw / "out") == before


def test_a_source_without_a_weight_is_counted_as_not_drawn(raw):
    card = mixed(raw, "mix.weights=books=1", "mix.epochs=0.1")[0].card
    assert card["removed"]["not_drawn"] > 50 and card["mix"]["wiki"]["epochs"] == 0
    with pytest.raises(ConfigError, match="nearest: 'books'"):
        mixed(raw, "mix.weights=boks=1")


def test_one_document_is_not_mixed(tmp_path):
    made = build_corpus([new_document(prose(1), "a")], tmp_path / "c", load_settings(None, ["mix.epochs=3"]))
    assert made.card["splits"]["train"]["documents"] == 1 and not made.card["mix"]


def test_what_is_unlike_trusted_text_is_left_out(raw):
    (raw / "trusted").mkdir()
    for k in range(200, 300):
        (raw / "trusted" / f"{k}.txt").write_text(prose(k), "utf-8")
    odd = [" ".join(f"{a}{b} zq{k}" for a in "qwertz" for b in "yxcvb") for k in range(5)]
    rows = [json.dumps({"text": text, "language": "en"}) for text in [*odd, *(prose(k) for k in range(5))]]
    (raw / "wiki" / "a.jsonl").write_text("\n".join(rows), "utf-8")
    sample = [json.dumps({"text": text}) for text in [*odd, *(prose(k) for k in range(500, 520))]]
    (raw / "sample.jsonl").write_text("\n".join(sample), "utf-8")
    given = [f"perplexity.models=[en={raw / 'trusted'}]", f"perplexity.reference=[en={raw / 'sample.jsonl'}]"]
    made, _ = mixed(raw, *given)
    card = made.card
    assert 5 <= card["removed"]["perplexity"] <= 9
    assert not any(document.text in odd for split in ("train", "valid") for document in made.documents(split))
    assert card["sources"]["books/a.jsonl"]["kept"] == 20  # no model of that language
    assert card["settings"]["perplexity"]["models"] == ["en=trusted"]
    assert set(card["named_files"]) == {"trusted", "sample.jsonl"}
    assert str(raw) not in json.dumps(card)
    again, _ = mixed(raw, *given, "perplexity.keep=[head, middle, tail]")
    assert "perplexity" not in again.card["removed"] and again.card["changes"]["perplexity_tail"] >= 5
