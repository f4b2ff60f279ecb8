"""A corpus folder: the books, the split, the card, and what happens when something goes wrong."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.made_sources import fingerprints
from yanmo.corpus.build import Corpus, build_corpus, load_corpus
from yanmo.corpus.documents import new_document, read_shard
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.text import read_documents
from yanmo.errors import ConfigError, Error, FileError, InputError

SENTENCE = "the cat sat on a mat and looked at the moon while the old clock in the hall struck ten"
WORDS = SENTENCE.split()


def prose(number, words=30):
    random = np.random.default_rng(number)
    return f"Document {number}. " + " ".join(WORDS[i] for i in random.integers(len(WORDS), size=words)) + "."


def some(n, source="books.txt", **stated):
    return [new_document(prose(i), source, **stated) for i in range(n)]


def everything(corpus):
    return [document for split in ("train", "valid") for document in corpus.documents(split)]


def test_documents_are_cleaned_and_split_and_none_is_lost(tmp_path):
    given = some(200, license="MIT", language="en")
    corpus = build_corpus(given, tmp_path / "c", valid_share=0.1)
    train, valid = (list(corpus.documents(split)) for split in ("train", "valid"))
    assert sorted(train + valid, key=lambda d: d.id) == sorted(given, key=lambda d: d.id)
    assert 8 <= len(valid) <= 35
    assert (corpus.card["in"], corpus.card["kept"], corpus.card["removed"], corpus.card["failed"]) == (200, 200, {}, {})
    assert corpus.card["splits"]["train"] == {
        "documents": len(train),
        "bytes": sum(len(d.text.encode()) for d in train),
        "characters": sum(len(d.text) for d in train),
        "words": sum(len(d.text.split()) for d in train),
    }
    assert corpus.card["license"] == {"MIT": 200} and corpus.card["language"] == {"en": 200}
    assert corpus.card["script"] == {"latin": 200}
    assert repr(load_corpus(tmp_path / "c")).endswith(f"train {len(train):,}, valid {len(valid):,} documents)")


def test_what_is_left_out_is_counted_by_reason_and_source_and_shown(tmp_path):
    documents = [
        *some(5, "a"),
        *some(3, "b"),  # the same texts again
        new_document("", "b"),
        new_document("\x00 \u200b\n", "b"),
        new_document("...---...---...---", "c"),
        new_document(prose(0).replace(" ", "\n"), "c"),
        new_document(prose(9) + "\u200b", "c"),
    ]
    report = ReadReport()
    report.fail("d", "damaged", "d: damaged")
    report.fail("a", "line_not_json", "a: line 3")
    card = build_corpus(documents, tmp_path / "c", read_report=report).card
    assert card["removed"] == {"duplicate": 4, "empty": 2, "mostly_symbols": 1}
    assert card["failed"] == {"damaged": 1, "line_not_json": 1}
    assert card["in"] == 15 and card["kept"] == 6
    assert card["sources"] == {
        "a": {"in": 6, "kept": 5, "removed": {}, "failed": {"line_not_json": 1}},
        "b": {"in": 5, "kept": 0, "removed": {"duplicate": 3, "empty": 2}, "failed": {}},
        "c": {"in": 3, "kept": 1, "removed": {"duplicate": 1, "mostly_symbols": 1}, "failed": {}},
        "d": {"in": 1, "kept": 0, "removed": {}, "failed": {"damaged": 1}},
    }
    examples = {(example["reason"], example["source"]) for example in card["examples"]}
    assert {("mostly_symbols", "c"), ("empty", "b"), ("duplicate", "b")} <= examples
    assert [problem["what"] for problem in card["problems"]] == ["d: damaged", "a: line 3"]


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.sampled_from([prose(1), prose(2), prose(3), prose(2) + " ", "", "??", "中文" * 9, "\x00"])),
    st.integers(),
)
def test_the_books_balance(tmp_path_factory, texts, seed):
    out = tmp_path_factory.getbasetemp() / "balance"
    seed %= 2**32
    try:
        corpus = build_corpus([new_document(t, f"s{i % 2}") for i, t in enumerate(texts)], out, seed=seed)
    except InputError:
        assert not {prose(1), prose(2), prose(3), prose(2) + " ", "中文" * 9} & set(texts)
        return
    columns = [corpus.card, *corpus.card["sources"].values()]
    for books in columns:
        assert books["in"] == books["kept"] + sum(books["removed"].values()) + sum(books["failed"].values())
    assert corpus.card["in"] == len(texts)
    sizes = {split: len(list(corpus.documents(split))) for split in ("train", "valid")}
    assert min(sizes.values()) >= 1
    assert sum(sizes.values()) == max(corpus.card["kept"], 2)
    assert bool(corpus.card["notes"]) == (corpus.card["kept"] == 1)


def test_a_document_stays_on_its_side_when_others_come(tmp_path):
    few = build_corpus(some(100), tmp_path / "few", valid_share=0.2)
    more = build_corpus(some(150)[::-1], tmp_path / "more", valid_share=0.2)
    other = build_corpus(some(100), tmp_path / "other", valid_share=0.2, seed=1)
    valid = {d.id for d in few.documents("valid")}
    known = {d.id for d in few.documents("train")}
    assert valid <= {d.id for d in more.documents("valid")}
    assert known <= {d.id for d in more.documents("train")}
    assert valid != {d.id for d in other.documents("valid")}


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_sides_get_a_document_whatever_the_share(tmp_path, share):
    corpus = build_corpus(some(2), tmp_path / "c", valid_share=share)
    assert [corpus.card["splits"][split]["documents"] for split in ("train", "valid")] == [1, 1]
    assert not corpus.card["notes"]


def test_a_single_document_is_cut_at_a_paragraph_and_the_card_says_so(tmp_path):
    text = "\n\n".join(prose(i) for i in range(40))
    corpus = build_corpus([new_document(text, "one.txt", license="MIT")], tmp_path / "c", valid_share=0.25)
    train, valid = everything(corpus)
    assert train.text + "\n\n" + valid.text == text
    assert train.text.endswith(".") and valid.text.startswith("Document 3")
    assert 0.2 < len(valid.text) / len(text) < 0.35
    assert (train.license, valid.license, train.id != valid.id) == ("MIT", "MIT", True)
    assert "cut in two" in corpus.card["notes"][0] and corpus.card["kept"] == 1
    assert "cut in two" in (tmp_path / "c/README.md").read_text("utf-8")


@pytest.mark.parametrize("text", ["一" * 3 + "二" * 3, "word word word word"])
def test_even_a_line_can_be_cut(tmp_path, text):
    train, valid = everything(build_corpus([new_document(text, "x")], tmp_path / "c"))
    assert (train.text + valid.text).replace(" ", "") == text.replace(" ", "")


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("a", "b"):
        build_corpus(some(50), tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_file())
    shards = ["train-00000.parquet", "valid-00000.parquet"]
    assert names == ["README.md", "card.html", "card.json", "quarantine.jsonl", *shards]
    assert fingerprints(tmp_path / "a") == fingerprints(tmp_path / "b")


def test_the_card_names_inputs_shards_and_versions(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(5):
        (tmp_path / "in" / f"{i}.txt").write_text(prose(i), "utf-8")
    (tmp_path / "in" / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "in" / "x.pdf").write_bytes(b"")
    report = ReadReport()
    card = build_corpus(read_documents([tmp_path / "in"], report), tmp_path / "c", read_report=report).card
    files = card["inputs"]["files"]
    assert [file["name"] for file in files] == [f"in/{i}.txt" for i in range(5)] + ["in/bad.txt"]
    assert files[0]["sha256"] == hashlib.sha256(prose(0).encode()).hexdigest()
    lines = "".join(f"{file['sha256']}  {file['name']}\n" for file in files)
    assert card["inputs"]["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert card["inputs"]["bytes"] == sum(file["bytes"] for file in files) == report.bytes_total
    for shard in card["shards"]:
        data = (tmp_path / "c" / shard["name"]).read_bytes()
        assert (shard["sha256"], shard["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert card["failed"] == {"unknown_encoding": 1} and card["skipped"] == {"another suffix": 1}
    packages = {"numpy", "pyarrow", "resiliparse", "trafilatura", "pycld2", "py3langid", "ftfy"}
    assert set(card["versions"]) == {"yanmo", "python", "unicode"} | packages
    assert str(tmp_path) not in json.dumps(card)


def test_progress_ends_at_the_total(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(prose(i) for i in range(9000)), "utf-8")
    report, calls = ReadReport(), []
    build_corpus(
        read_documents([tmp_path / "a.txt"], report),
        tmp_path / "c",
        progress=lambda done, total: calls.append((done, total)),
        read_report=report,
    )
    size = (tmp_path / "a.txt").stat().st_size
    assert calls == sorted(calls) and calls[-1] == (size, size) and len(calls) > 10
    calls.clear()
    build_corpus(some(3), tmp_path / "c", progress=lambda done, total: calls.append((done, total)))
    assert [total for _, total in calls] == [0, 0, 0]
    assert calls[-1][0] == sum(len(d.text) for d in some(3))


def test_a_corpus_is_built_again_from_itself(tmp_path):
    first = build_corpus(some(60), tmp_path / "c")
    again = build_corpus(read_documents([tmp_path / "c"]), tmp_path / "c")
    assert {d.id for d in first.documents("valid")} <= {d.id for d in everything(again)}
    assert again.card["kept"] == 60
    assert [again.card["splits"][s]["documents"] for s in ("train", "valid")] == [
        first.card["splits"][s]["documents"] for s in ("train", "valid")
    ]


def test_readme_is_a_dataset_card_with_licences(tmp_path):
    yaml = pytest.importorskip("yaml")
    documents = [*some(3, license="MIT"), new_document(prose(7), "a|b", license="PSF-2.0", language="no")]
    build_corpus(documents, tmp_path / "c")
    readme = (tmp_path / "c/README.md").read_text("utf-8")
    header = yaml.safe_load(readme.split("---\n")[1])
    assert header["license"] == ["mit", "other"] and header["license_name"] == "PSF-2.0"
    assert header["language"] == ["no"]  # which unquoted YAML would read as false
    assert header["configs"][0]["data_files"][0] == {"split": "train", "path": "train-*.parquet"}
    assert "| a\\|b | 1 | 1 |" in readme
    build_corpus(some(3), tmp_path / "c")
    assert yaml.safe_load((tmp_path / "c/README.md").read_text("utf-8").split("---\n")[1])["license"] == ["unknown"]


def test_thousands_of_sources_are_summed_up(tmp_path):
    corpus = build_corpus((new_document(prose(i), f"s{i}") for i in range(1200)), tmp_path / "c")
    assert corpus.card["sources"] == {} and corpus.card["n_sources"] == 1200
    assert corpus.card["kept"] == 1200


@pytest.mark.parametrize(
    ("documents", "match"),
    [
        ([], "none came"),
        ([new_document("", "x")], "no text is left of 1 documents .1 empty."),
        ([new_document("short", "x")] * 2, "2 too_short"),
    ],
)
def test_an_empty_corpus_is_an_error_and_nothing_is_written(tmp_path, documents, match):
    with pytest.raises(InputError, match=match):
        build_corpus(documents, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_corpus_says_what_went_wrong_first(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    report = ReadReport()
    with pytest.raises(InputError, match="bad.txt: byte 3 is not UTF-8.*convert the file to UTF-8"):
        build_corpus(read_documents([tmp_path / "bad.txt"], report), tmp_path / "c", read_report=report)


@pytest.mark.parametrize("settings", [{"valid_share": 0}, {"valid_share": 1}, {"valid_share": -3}, {"seed": 2**130}])
def test_wrong_settings_are_named(tmp_path, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        build_corpus(some(3), tmp_path / "c", **settings)


def test_a_folder_that_is_no_corpus_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", "utf-8")
    with pytest.raises(FileError, match="choose an empty or new folder"):
        build_corpus(some(3), tmp_path / "mine")
    with pytest.raises(FileError, match="a file, where"):
        build_corpus(some(3), tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text("utf-8") == "years of work"


def test_an_error_midway_leaves_the_older_corpus(tmp_path):
    build_corpus(some(3), tmp_path / "c")

    def failing():
        yield from some(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus(failing(), tmp_path / "c")
    assert len(everything(load_corpus(tmp_path / "c"))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_damaged_corpus_is_refused(tmp_path):
    corpus = build_corpus(some(30), tmp_path / "c")
    with pytest.raises(InputError, match="must be 'train' or 'valid'"):
        corpus.documents("test")
    with pytest.raises(FileError, match="card.json: no such file"):
        load_corpus(tmp_path)
    card = json.loads((tmp_path / "c/card.json").read_text("utf-8"))

    def rewrite(**changes):
        (tmp_path / "c/card.json").write_text(json.dumps({**card, **changes}), "utf-8")
        return tmp_path / "c"

    for changes in (
        {"format": "other"},
        {"splits": None},
        {"splits": {"train": 3}},
        {"shards": 7},
        {"shards": [{"split": "train", "name": "../x.parquet"}]},
        {"shards": [{"split": "train", "name": "absent.parquet"}]},
    ):
        with pytest.raises(FileError, match="card|inside|no such file"):
            Corpus(rewrite(**changes))
    short = Corpus(rewrite(shards=[shard for shard in card["shards"] if shard["split"] == "valid"]))
    with pytest.raises(FileError, match="0 train documents, its card says"):
        list(short.documents("train"))


@settings(deadline=None, max_examples=100)
@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)),
    st.data(),
)
def test_any_card_ends_in_a_corpus_or_one_sentence(tmp_path_factory, value, data):
    folder = tmp_path_factory.getbasetemp() / "anycard"
    if not folder.exists():
        build_corpus(some(5), folder)
        (folder / "kept.json").write_bytes((folder / "card.json").read_bytes())
    card = json.loads((folder / "kept.json").read_text("utf-8"))
    card[data.draw(st.sampled_from(["splits", "shards", "format"]))] = value
    (folder / "card.json").write_text(json.dumps(card), "utf-8")
    try:
        everything(Corpus(folder))
    except Error as error:
        assert "\n" not in str(error)


def test_shards_open_without_this_package(tmp_path):
    corpus = build_corpus(some(10), tmp_path / "c")
    assert [d.text for d in read_shard(tmp_path / "c/train-00000.parquet")] == [
        d.text for d in corpus.documents("train")
    ]


def test_real_books_english_and_chinese(tmp_path, shared_data):
    paths = [shared_data / "corpora" / name for name in ("gutenberg-1342-0.txt.gz", "zh-novel-西游记.txt.gz")]
    report = ReadReport()
    card = build_corpus(read_documents(paths, report), tmp_path / "c", read_report=report).card
    assert set(card["script"]) == {"latin", "han"} and card["failed"] == {}
    assert sum(split["characters"] for split in card["splits"].values()) > 1_200_000
    assert card["in"] == card["kept"] + sum(card["removed"].values())
