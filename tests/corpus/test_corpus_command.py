"""`yanmo corpus`: kinds by content, the recipe, the card in its three forms, show, and mistakes of one sentence."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus.made_sources import prose, sources, 中文
from tests.corpus.test_steps import run
from yanmo.corpus.build import load_corpus
from yanmo.corpus.engine import make_corpus
from yanmo.corpus.engine_files import fit
from yanmo.corpus.settings import CorpusRecipe, for_card, load_settings
from yanmo.corpus.show import draw, why
from yanmo.errors import ConfigError, Error, FileError

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "corpus.toml"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    raw = sources(folder / "raw", files=6)
    return make_corpus(
        [raw], folder / "out", load_settings(None, ["clean.mask=true", "duplicates.near=true"]), workers=2
    )


def test_the_words_build_may_be_left_out_and_a_recipe_is_changed_by_options(tmp_path, capsys):
    (tmp_path / "zh.txt").write_text(中文(1, 900), "utf-8")
    (tmp_path / "en.txt").write_text(prose(1), "utf-8")
    (tmp_path / "one.toml").write_text("[languages]\nkeep = ['en']\n[out]\nseed = 3\n", "utf-8")
    words = [str(tmp_path), "-o", str(tmp_path / "out"), "--recipe", str(tmp_path / "one.toml"), "--workers", "1"]
    assert run("corpus", *words, "--json") == 0
    card = json.loads(capsys.readouterr().out)
    assert card["removed"] == {"language": 1} and card["settings"]["out"]["seed"] == 3
    assert run("corpus", "build", *words, "--languages", "zh", "--set", "out.valid_share=0.2", "--seed", "4") == 0
    assert "kept" in capsys.readouterr().out
    card = load_corpus(tmp_path / "out").card
    assert card["settings"]["languages"]["keep"] == ["zh"] and card["language"] == {"zh": 1}
    assert (card["settings"]["out"]["seed"], card["settings"]["out"]["valid_share"]) == (4, 0.2)


def test_a_file_is_what_it_holds_whatever_its_name(tmp_path, capsys):
    row = json.dumps({"text": prose(3), "url": "https://example.org/3"})
    made = {
        "notes": prose(1).encode(),
        "page.dat": f"<!DOCTYPE html><html><body><p>{prose(2)}</p></body></html>".encode(),
        "rows.json": (row + "\n").encode(),
        "rows.bin": (row + "\n").encode(),
        "a.txt.xz": lzma.compress(prose(4).encode()),
        "b.md.bz2": bz2.compress(prose(5).encode()),
        "c.log": gzip.compress(prose(6).encode()),
        "d.tsv": f"text\ttitle\n{prose(7)}\tSeven\n".encode(),
    }
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    made_of = make_corpus([tmp_path / name for name in made], tmp_path / "out", workers=1)
    texts = {document.text: document for split in ("train", "valid") for document in made_of.documents(split)}
    assert set(texts) == {prose(k) for k in range(1, 8)}
    assert texts[prose(7)].title == "Seven" and made_of.card["removed"] == {"duplicate": 1}


def test_zstandard_is_read_and_a_cut_file_is_a_loss(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    data = "\n".join(json.dumps({"text": prose(k)}) for k in range(300)).encode()
    packed = arrow.Codec("zstd").compress(data, asbytes=True)
    (tmp_path / "whole.jsonl.zst").write_bytes(packed)
    (tmp_path / "cut.jsonl.zst").write_bytes(packed[: len(packed) // 2])
    card = make_corpus([tmp_path / "whole.jsonl.zst"], tmp_path / "out", workers=1).card
    assert card["kept"] == 300
    make_corpus([tmp_path / "whole.jsonl.zst", tmp_path / "cut.jsonl.zst"], tmp_path / "out", workers=1)
    failed = load_corpus(tmp_path / "out").card["sources"]["cut.jsonl.zst"]["failed"]
    assert sum(failed.values()) == 1


def test_a_file_that_grows_beyond_reason_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("yanmo.corpus.sources.GRACE", 1000)
    from yanmo.corpus.ledger import ReadReport
    from yanmo.corpus.text import read_documents

    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"all work and no play\n" * 200_000))
    (tmp_path / "good.txt.gz").write_bytes(gzip.compress(prose(1).encode()))
    report = ReadReport()
    assert [document.text for document in read_documents([tmp_path], report)] == [prose(1)]
    assert [dict(reasons) for reasons in report.failed.values()] == [{"too_large": 1}]


def test_zip_and_tar_are_named_and_refused(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text(prose(1), "utf-8")
    with zipfile.ZipFile(tmp_path / "raw" / "more.zip", "w") as file:
        file.write(tmp_path / "raw" / "a.txt")
    with tarfile.open(tmp_path / "raw" / "more.tar.gz", "w:gz") as file:
        file.add(tmp_path / "raw" / "a.txt")
    for name in ("more.zip", "more.tar.gz"):
        assert run("corpus", str(tmp_path / "raw" / name), "-o", str(tmp_path / "out")) == 2
        assert "unpack it and name the folder" in capsys.readouterr().err
    card = make_corpus([tmp_path / "raw"], tmp_path / "out", workers=1).card
    assert card["skipped"] == {"zip or tar, to be unpacked first": 2} and card["kept"] == 1


def test_the_card_has_three_forms(corpus):
    card, folder = corpus.card, corpus.folder
    readme, page = ((folder / name).read_text("utf-8") for name in ("README.md", "card.html"))
    assert readme.startswith("---\n") and "- split: validation" in readme and f"{card['kept']:,}" in readme
    assert f"{card['in']:,}" in page and "<script" not in page and "near duplicate" in page
    assert card["sizes"]["language"]["en"]["words"] > 100 and card["versions"]["yanmo"]
    assert card["inputs"]["n_files"] == len(card["inputs"]["files"]) and all(
        f["sha256"] for f in card["inputs"]["files"]
    )


def test_datasets_from_the_hub_would_find_the_shards(corpus):
    yaml = pytest.importorskip("yaml")
    head = yaml.safe_load((corpus.folder / "README.md").read_text("utf-8").split("---\n")[1])
    patterns = {each["split"]: each["path"] for each in head["configs"][0]["data_files"]}
    for split, pattern in (("train", "train"), ("valid", "validation")):
        assert sorted(p.name for p in corpus.folder.glob(patterns[pattern])) == [
            shard["name"] for shard in corpus.card["shards"] if shard["split"] == split
        ]


def test_every_source_is_listed_even_where_they_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr("yanmo.corpus.card.MAX_LISTED", 3)
    monkeypatch.setattr("yanmo.corpus.engine_card.MAX_LISTED", 3)
    raw = tmp_path / "raw"
    raw.mkdir()
    for k in range(5):
        (raw / f"{k}.txt").write_text(prose(k), "utf-8")
    made = make_corpus([raw], tmp_path / "out", workers=1)
    assert made.card["sources"] == {} and made.card["sources_file"] == "sources.jsonl"
    lines = [json.loads(line) for line in (tmp_path / "out" / "sources.jsonl").read_text("utf-8").splitlines()]
    assert [line["kept"] for line in lines] == [1] * 5
    assert len((tmp_path / "out" / "inputs.jsonl").read_text("utf-8").splitlines()) == 5


def test_a_corpus_is_a_source_again_and_its_fates_are_not(corpus, tmp_path):
    again = make_corpus([corpus.folder], tmp_path / "out", workers=1)
    assert again.card["in"] == again.card["kept"] == corpus.card["kept"]
    assert again.card["skipped"] == {"part of a corpus folder": 6}


def test_show_draws_the_same_documents_for_the_same_seed(corpus, capsys):
    assert draw(corpus, 5, 1) == draw(corpus, 5, 1) != draw(corpus, 5, 2)
    everything = [document for split in ("train", "valid") for document in corpus.documents(split)]
    assert draw(corpus, 10**6) == everything and draw(corpus, 0) == []
    assert run("corpus", "show", str(corpus.folder), "--seed", "1", "--documents", "2") == 0
    said = capsys.readouterr().out
    assert all(document.id in said for document in draw(corpus, 2, 1)) and "language:" in said
    assert run("corpus", "show", str(corpus.folder), "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["documents"]) == 3


def test_why_says_what_became_of_a_document(corpus, capsys):
    kept = draw(corpus, 1)[0]
    assert [fate["fate"] for fate in why(corpus, kept.id)] == ["kept"]
    assert run("corpus", "show", str(corpus.folder), "--why", "https://www.example1.org/1") == 0
    said = capsys.readouterr().out.splitlines()  # a file that was cut holds it too, and comes first
    assert said[0].startswith("kept: in train-00000.parquet (raw/cut.jsonl.gz")
    assert said[1].startswith("removed: duplicate, the same text, white space aside, came before, of ")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(corpus.folder / "fates" / "00000.parquet").to_pylist()
    assert len(rows) == sum(corpus.card["removed"].values()) + sum(corpus.card["failed"].values())
    near = next(row for row in rows if row["reason"] == "near_duplicate")
    said = why(corpus, near["id"])
    assert said[0]["fate"] == "removed" and why(corpus, near["what"].removeprefix("of "))[0]["fate"] == "kept"
    assert run("corpus", "show", str(corpus.folder), "--why", near["id"]) == 0
    assert "nearly the same text is kept" in capsys.readouterr().out
    assert run("corpus", "show", str(corpus.folder), "--why", "nobody") == 2


def test_evaluation_sets_are_kept_out(tmp_path):
    (tmp_path / "raw").mkdir()
    for k in range(4):
        (tmp_path / "raw" / f"{k}.txt").write_text(prose(k), "utf-8")
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": prose(2)}) + "\n", "utf-8")
    given = [f"contamination.sets={tmp_path / 'test.jsonl'}"]
    card = make_corpus([tmp_path / "raw"], tmp_path / "out", load_settings(None, given), workers=1).card
    assert card["removed"] == {"contaminated": 1} and card["changes"] == {"contaminated_test.jsonl": 1}
    assert list(card["named_files"]) == ["test.jsonl"] and card["settings"]["contamination"]["sets"] == ["test.jsonl"]
    fate = why(load_corpus(tmp_path / "out"), "no such") or parquet_rows(tmp_path / "out")
    assert fate[0]["what"] == "100% of item 1 of test.jsonl"
    counted = load_settings(None, [*given, "contamination.remove=false"])
    card = make_corpus([tmp_path / "raw"], tmp_path / "out", counted, workers=1).card
    assert card["kept"] == 4 and card["changes"] == {"contaminated_test.jsonl": 1}


def parquet_rows(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(folder / "fates" / "00000.parquet").to_pylist()


def test_repeated_paragraphs_are_taken_out(tmp_path):
    (tmp_path / "raw").mkdir()
    notice = "This paragraph stands below every page of the newspaper, word for word, since the year of its foundation."
    for k in range(6):
        (tmp_path / "raw" / f"{k}.txt").write_text(f"{prose(k)}\n\n{notice}", "utf-8")
    given = ["duplicates.paragraphs=true"]
    made = make_corpus([tmp_path / "raw"], tmp_path / "out", load_settings(None, given), workers=2)
    texts = [document.text for split in ("train", "valid") for document in made.documents(split)]
    assert len(texts) == 6 and made.card["changes"]["paragraphs_removed"] in (3, 4, 5)
    assert sum(notice in text for text in texts) == 6 - made.card["changes"]["paragraphs_removed"]


def test_the_recipe_that_ships_is_read():
    recipe = load_settings(RECIPE)
    assert recipe.languages.keep == ["en", "zh"] and recipe.quality.on and recipe.clean.mask


def test_no_path_of_this_machine_is_in_a_card():
    recipe = load_settings(None, ["blocklist.words=[/mine/bad.txt]", "perplexity.models=[en=/mine/m.npz]"])
    assert for_card(recipe)["blocklist"]["words"] == ["bad.txt"]
    assert for_card(recipe)["perplexity"]["models"] == ["en=m.npz"]
    assert for_card(CorpusRecipe()) == CorpusRecipe().model_dump()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[qualty]\non = true", "unknown section qualty (nearest: 'quality')"),
        ("[quality]\nmin_wrods = 3", "unknown key quality.min_wrods (nearest: 'min_words')"),
        ("[out]\nvalid_share = 2", "out.valid_share is 2, below 1"),
        ("[languages]\nkeep = 7", "languages.keep is 7, a list of texts is needed"),
        ("[perplexity]\nmodels = ['m.npz']", "write language=file"),
        ("nonsense", "not TOML"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_sentence(tmp_path, text, said):
    (tmp_path / "r.toml").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "r.toml")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "spark"], "engine='spark'"),
        (["--workers", "0"], "workers=0"),
        (["--set", "out.sed=1"], "nearest: 'seed'"),
        (["--recipe", "none.toml"], "no such file"),
        (["--against", "nowhere"], "keeps no index"),
        (["--contamination", "nowhere.jsonl"], "no such file"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    (tmp_path / "prose.txt").write_text(prose(1), "utf-8")
    monkeypatch.chdir(tmp_path)
    assert run("corpus", ".", "-o", "out", *arguments) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_show_of_what_is_no_corpus_is_one_sentence(tmp_path, corpus):
    with pytest.raises(FileError):
        load_corpus(tmp_path)
    name = corpus.card["shards"][0]["name"]
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "card.json").write_text(json.dumps(corpus.card), "utf-8")
    for shard in corpus.card["shards"]:
        (folder / shard["name"]).write_bytes(b"PAR1 no more")
    with pytest.raises(FileError, match=name):
        draw(load_corpus(folder), 1)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["a", "a.txt.bz2", "a.csv", "a.tsv.gz", "a.json", "a.jsonl.xz", "a.zst", "a.xml.bz2", "a.warc"]),
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"BZh91AY&SY", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"text,url\n", b'{"text": "', b"PK\x03\x04"]
    ),
)
def test_foreign_bytes_end_in_documents_or_losses_or_one_sentence(tmp_path, name, data, head):
    from yanmo.corpus.ledger import ReadReport
    from yanmo.corpus.text import read_documents

    (tmp_path / name).write_bytes(head + data)
    try:
        with warnings.catch_warnings():  # of a column that is taken for the text
            warnings.simplefilter("ignore")
            for document in read_documents([tmp_path / name], ReadReport()):
                assert fit(document.text) is not None
    except Error as error:
        assert "\n" not in str(error)
