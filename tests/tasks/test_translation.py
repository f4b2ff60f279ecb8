"""Translation: the beams of transformers, layout, n best texts, glossaries; a batch is each row alone.

The models have random weights: what they write makes no sense, and so nothing but the search can place a term.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from yanmo.errors import InputError
from yanmo.inference.model import Model, load
from yanmo.recipe import ModelSection
from yanmo.tasks.examples import Example
from yanmo.tasks.glossary import Called, Glossary, holds, read_glossary, terms_of
from yanmo.tasks.translation import Said, _code, _options, _sentences, n_best, predict, prepare, settings_of
from yanmo.tokens.tokenizer import load_tokenizer
from yanmo.training.build import build_network

PAIRS = [
    ("Two men are at the stove preparing food.", "Zwei Männer stehen am Herd und bereiten Essen zu."),
    ("A dog runs along the river bank.", "Ein Hund läuft am Ufer des Flusses entlang."),
    ("A man in a blue shirt is on a ladder.", "Ein Mann in einem blauen Hemd steht auf einer Leiter."),
    ("两个人在厨房里做饭。", "Zwei Leute kochen in der Küche."),
]
EXAMPLES = [Example(str(n), f"pairs:{n}", a, target=b) for n, (a, b) in enumerate(PAIRS * 30)]


@pytest.fixture(scope="module", params=["bart", "t5", "marian"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of random weights that has been saved and loaded, as a run's is; marian has pieces for each side."""
    folder = tmp_path_factory.mktemp(request.param)
    parts = prepare(EXAMPLES, folder / "tokenizer", new=True, vocab_size=120, separate=request.param == "marian")
    tokenizer = load_tokenizer(parts["tokenizer"]["path"])
    section = ModelSection(family=request.param, width=32, layers=2, heads=2)
    network = build_network(section, tokenizer, length=64, seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)  # so that tokens differ in what they are given
    Model(network, tokenizer).save(folder / "model", family=request.param)
    return load(folder / "model")


def rows(*texts: str) -> list[dict[str, Any]]:
    return [{"id": str(n), "text": text} for n, text in enumerate(texts)]


def test_the_beams_are_those_of_transformers(model: Model) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    theirs = AutoModelForSeq2SeqLM.from_pretrained(model.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Marian's recommends a package that changes punctuation
        words = AutoTokenizer.from_pretrained(model.folder)
    for text, _ in PAIRS:
        ids = words(text, return_tensors="pt").input_ids
        limit = min((-(-ids.shape[1] // 8) * 8) + 16, 63)
        out = theirs.generate(ids, num_beams=4, max_new_tokens=limit, do_sample=False, early_stopping=False)
        found = predict(model, {"beams": 4, "max_ratio": 1.0}, rows(text))[0]
        assert found["translation"] == words.decode(out[0], skip_special_tokens=True).strip()


def test_a_batch_is_each_row_alone_and_n_best_texts_are_ranked(model: Model) -> None:
    texts = [a for a, _ in PAIRS] + ["A dog. Two men!\n\n - a list\n - of food", "", "   \n"]
    settings = {"beams": 3, "nbest": 3, "max_ratio": 1.0}
    together = predict(model, settings, rows(*texts))
    alone = [predict(model, settings, [row])[0] for row in rows(*texts)]
    for one, other in zip(together, alone, strict=True):
        assert one["id"] == other["id"] and one["translation"] == other["translation"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["translations"][0]["translation"] == one["translation"]
    assert len(together[0]["translations"]) == 3
    assert together[4]["translation"].count("\n") == 3 and "\n - " in together[4]["translation"]
    assert together[5]["translation"] == "" and together[6]["translation"] == "   \n"


def test_a_glossary_is_kept_by_a_model_that_knows_no_words(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "glossary.tsv"
    path.write_text("river bank\tUfer\ndog\tHund\nmen\tMänner\n\nladder\t!Leiter\n\t!Essen\n", encoding="utf-8")
    settings = {"beams": 4, "glossary": str(path), "max_ratio": 1.0}
    found = predict(model, settings, rows(*(a for a, _ in PAIRS)))
    wanted = [["Männer"], ["Ufer", "Hund"], [], []]
    for row, terms in zip(found, wanted, strict=True):
        assert row["missed"] == [] and all(holds(row["translation"], term) for term in terms), row
        assert not holds(row["translation"], "Essen", whole=True)
    assert "Leiter" not in found[2]["translation"]


def test_a_term_that_the_vocabulary_cannot_spell_is_counted_or_an_error(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "glossary.tsv"
    path.write_text("dog\t犬\n", encoding="utf-8")
    assert predict(model, {"glossary": str(path), "beams": 2}, rows("A dog runs."))[0]["missed"] == ["犬"]
    with pytest.raises(InputError, match="row '0': 犬 of the glossary could not be kept"):
        predict(model, {"glossary": str(path), "beams": 2, "strict": True}, rows("A dog runs."))


def test_the_longest_entry_counts_and_words_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "glossary.tsv"
    path.write_text("bank\tBank\nriver bank\tUfer\n人\tMensch\nbank\t!Ufer\n", encoding="utf-8")
    glossary = read_glossary(path)
    assert glossary.of("The River Bank, not the banker.") == Called(("Ufer",), ())
    assert glossary.of("bank and 两个人") == Called(("Bank", "Mensch"), ("Ufer",))
    assert holds("Des Hundes", "hund") and not holds("Schäferhund", "Hund") and not holds("Hundes", "Hund", whole=True)


def test_a_glossary_s_patterns_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "glossary.tsv"
    path.write_text("".join(f"word{n}\tWort{n}\n" for n in range(700)), encoding="utf-8")
    glossary, made = read_glossary(path), []
    compiled = re.compile
    monkeypatch.setattr(re, "compile", lambda *given: made.append(given) or compiled(*given))
    assert glossary.of("word3 and word600").wanted == ("Wort3", "Wort600")
    known = len(made)
    assert glossary.of("a word7, word3").wanted == ("Wort7", "Wort3") and len(made) == known


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("one column", "1 columns"),
        ("a\tb\tc", "3 columns"),
        ("a\t", "no target"),
        ("\tb", "no source"),
        ("a\tb\na\t!b", "glossary.tsv:2: 'b' is wanted and forbidden"),
        ("\n", "no entries"),
    ],
)
def test_a_bad_glossary_is_one_sentence(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "glossary.tsv"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        read_glossary(path)


def test_a_term_is_spelt_as_it_stands_inside_a_text(model: Model) -> None:
    size = model.config.output_size
    terms = terms_of(model.tokenizer, Called(("Ufer",), ("Hund",)), size)
    inside = model.tokenizer.encode("am Ufer entlang", add_special_tokens=False, target=True)
    assert any(tuple(inside[i : i + len(way)]) == way for way in terms.wanted[0] for i in range(len(inside))), (
        "one of the ways is that of the middle of a text"
    )
    assert Glossary(()).of("anything") == Called()


def test_a_sentence_longer_than_the_model_is_cut_between_clauses(model: Model) -> None:
    text = "a man runs, " * 40 + "and a dog stands"
    found = predict(model, {"beams": 1, "max_ratio": 0.1}, rows(text))
    assert found[0]["translation"] and "\n" not in found[0]["translation"]
    text = "a man runs, " * 300 + "and a dog stands"
    parts = _sentences(model, _options({}), None, 0, text)
    assert len(parts) > 1 and " ".join(part.text for part in parts) == text
    assert all(len(part.ids) <= (model.config.max_positions or 512) for part in parts)


def test_a_sentence_is_not_cut_inside_a_term_unless_the_term_is_too_long(model: Model, tmp_path: Path) -> None:
    room, path = min(model.config.max_positions or 512, 512), tmp_path / "glossary.tsv"
    path.write_text("river bank\tUfer\n", encoding="utf-8")
    text = "the dog " * (room // 2) + "river bank" + " the dog" * (room // 2)
    assert abs(text.index(" bank") - len(text) // 2) < 2, "the middle, where it would be cut"
    found = predict(model, {"beams": 3, "max_ratio": 0.2, "glossary": str(path)}, rows(text))[0]
    assert found["missed"] == [] and holds(found["translation"], "Ufer")
    path.write_text(f"{text}\tUferlos\n", encoding="utf-8")
    found = predict(model, {"beams": 3, "max_ratio": 0.2, "glossary": str(path)}, rows(text))[0]
    assert found["missed"] == ["Uferlos"]
    with pytest.raises(InputError, match="Uferlos of the glossary could not be kept"):
        predict(model, {"beams": 3, "max_ratio": 0.2, "glossary": str(path), "strict": True}, rows(text))


def test_combinations_lose_the_least() -> None:
    first = [Said("a", -1.0, 1, -1.0), Said("b", -1.5, 1, -1.5)]
    second = [Said("x", -2.0, 2, -1.0), Said("y", -2.2, 2, -1.1), Said("z", -9.0, 2, -4.5)]
    found = n_best([first, second], 3)
    assert [texts for texts, _, _ in found] == [("a", "x"), ("a", "y"), ("b", "x")]
    assert found[0][1:] == (-3.0, 3)
    assert n_best([], 2) == [((), 0.0, 0)]


def test_preparing_names_a_row_without_translation(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pairs:7: a source and its translation"):
        prepare([Example("7", "pairs:7", "text", target=" ")], tmp_path / "t", new=True)
    assert prepare(EXAMPLES, tmp_path / "t", new=False) == {
        "objective": {"kind": "seq2seq", "source": "text", "target": "target"}
    }
    assert settings_of(EXAMPLES, length=64)["script"] == "latin"


@pytest.mark.parametrize("bad", [{"nbest": 0}, {"beams": 0}, {"max_ratio": 0}, {"length_penalty": "x"}])
def test_a_bad_setting_is_one_sentence(model: Model, bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be"):
        predict(model, bad, rows("A dog."))


def test_the_languages_of_mbart_are_chosen_by_their_codes(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    from tests.models.tiny import BART, make
    from yanmo.tokens.train import train_tokenizer

    texts = [text for pair in PAIRS for text in pair] * 20
    tokenizer = train_tokenizer(texts, "unigram", 180, special_tokens=("en_XX", "de_DE", "zh_CN"))
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1}
    sizes = {"vocab_size": tokenizer.vocab_size, "scale_embedding": True, "forced_eos_token_id": 1}
    make("MBartForConditionalGeneration", BART | sizes | ids, tmp_path)
    tokenizer.save(tmp_path)
    model, theirs = load(tmp_path), AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    english, german = tokenizer.id("en_XX"), tokenizer.id("de_DE")
    source = [english, *tokenizer.encode(PAIRS[0][0])]
    limit = -(-len(source) // 8) * 8 + 16
    out = theirs.generate(
        torch.tensor([source]),
        num_beams=3,
        max_new_tokens=min(limit, 39),
        forced_bos_token_id=german,
        early_stopping=False,
    )
    settings = {"beams": 3, "max_ratio": 1.0, "source_language": "en", "target_language": "de_DE"}
    found = predict(model, settings, rows(PAIRS[0][0]))[0]
    assert out[0, 1] == german
    assert found["translation"] == tokenizer.decode(out[0].tolist()).strip()
    other = predict(model, settings | {"target_language": "zh_CN"}, rows(PAIRS[0][0]))[0]
    assert other["translation"] != found["translation"]
    with pytest.raises(InputError, match="no language 'fr'"):
        predict(model, settings | {"target_language": "fr"}, rows("A dog."))


def test_the_languages_of_m2m_are_chosen_by_their_codes(tmp_path: Path) -> None:
    import json

    from transformers import M2M100ForConditionalGeneration, M2M100Tokenizer

    from tests.models.tiny import BART, make
    from yanmo.tokens.train import piece_model

    pieces = piece_model(iter([text for pair in PAIRS for text in pair] * 20), 150)
    table = {p: n for n, p in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces.pieces[3:]])}
    (tmp_path / "sentencepiece.bpe.model").write_bytes(pieces.data)
    (tmp_path / "vocab.json").write_text(json.dumps(table), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "M2M100Tokenizer"}', "utf-8")
    sizes = {"vocab_size": len(table) + 108, "pad_token_id": 1, "bos_token_id": 0}
    theirs = make("M2M100ForConditionalGeneration", BART | sizes, tmp_path)
    words = M2M100Tokenizer.from_pretrained(tmp_path, src_lang="de")
    model, settings = load(tmp_path), {"beams": 3, "max_ratio": 1.0, "source_language": "de", "target_language": "zh"}
    model.save(tmp_path / "saved")
    again = M2M100ForConditionalGeneration.from_pretrained(tmp_path / "saved")
    for _, text in PAIRS:
        ids = words(text, return_tensors="pt").input_ids
        assert ids[0, 0] == words.get_lang_id("de")
        limit = min(-(-ids.shape[1] // 8) * 8 + 16, 39)
        given = {"num_beams": 3, "max_new_tokens": limit, "early_stopping": False}
        out = theirs.generate(ids, forced_bos_token_id=words.get_lang_id("zh"), **given)
        assert torch.equal(out, again.generate(ids, forced_bos_token_id=words.get_lang_id("zh"), **given))
        found = predict(model, settings, rows(text))[0]
        assert found["translation"] == model.tokenizer.decode(out[0].tolist()).strip()
    with pytest.raises(InputError, match="no language 'xx'"):
        predict(model, settings | {"target_language": "xx"}, rows("A dog."))


def test_a_language_of_several_scripts_is_asked_for() -> None:
    codes = {"eng_Latn": 1, "zho_Hans": 2, "zho_Hant": 3}
    assert _code(codes, "eng") == "eng_Latn" and _code(codes, "zho_Hant") == "zho_Hant"
    with pytest.raises(InputError, match="2 languages 'zho': zho_Hans, zho_Hant; name one"):
        _code(codes, "zho")
