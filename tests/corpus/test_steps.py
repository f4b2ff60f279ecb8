"""Dumps and archives are read like any text, their losses are in the books, and the steps do what was asked for."""

from __future__ import annotations

import bz2
import json

import pytest

from tests.corpus.test_warc import packed
from tests.corpus.test_wikipedia import PAGES
from yanmo.cli import main
from yanmo.corpus.build import build_corpus
from yanmo.corpus.documents import new_document
from yanmo.corpus.ledger import ReadReport
from yanmo.corpus.settings import load_settings
from yanmo.corpus.steps import REASONS
from yanmo.corpus.text import read_documents
from yanmo.errors import FileError

PROSE = "The ship left the harbour early in the morning, and the people on the pier waved for a long time. " * 6
PAGE = (
    "The museum in the old railway station opened its doors again on Saturday after two years of repairs. Visitors "
    "may now walk through the engine hall, where a steam locomotive from 1911 stands beside the first electric tram "
    "of the city. A small exhibition upstairs tells how engineers built the bridge over the river, and which of their "
    "plans were never carried out. Children can try the signals themselves, while their parents rest in the café with "
    "a view of the tracks. Entrance is free until the end of the month, said the director, who hopes that schools will "
    "come as well. "
)
中文 = "今天的天气很好，我们一起去公园里散步，看见许多人在湖边钓鱼，也有孩子在草地上放风筝。" * 6


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def dump(*extra: str) -> bytes:
    head = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="zh"><siteinfo>'
        "<sitename>W</sitename><dbname>zhwiki</dbname><base>https://zh.wikipedia.org/wiki/Main</base></siteinfo>"
    )
    return (head + "".join([*PAGES[:5], *extra]) + "</mediawiki>").encode()


def test_dumps_and_archives_stand_beside_texts_and_the_books_balance(tmp_path):
    redirect = "<page><title>R</title><ns>0</ns><id>90</id><redirect title='S'/><revision><id>1</id>"
    redirect += "<text>#REDIRECT [[S]]</text></revision></page>"
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "zhwiki-pages-articles1.xml-p1p9.bz2").write_bytes(bz2.compress(dump(redirect)))
    (folder / "a.warc.gz").write_bytes(b"".join(packed(6))[:-20])
    (folder / "hidden.txt").write_bytes(b"".join(packed(4)))
    (folder / "prose.txt").write_text(PROSE, "utf-8")
    (folder / "feed.xml").write_text("<rss/>", "utf-8")
    report = ReadReport()
    card = build_corpus(read_documents([folder], report), tmp_path / "c", read_report=report).card
    assert card["in"] == card["kept"] + sum(card["removed"].values()) + sum(card["failed"].values())
    of = {name.partition("/")[2]: counts for name, counts in card["sources"].items()}
    assert of["zhwiki-pages-articles1.xml-p1p9.bz2"]["kept"] == 5
    assert of["zhwiki-pages-articles1.xml-p1p9.bz2"]["removed"] == {"redirect": 1}
    assert of["a.warc.gz"]["in"] == 6 and sum(of["a.warc.gz"]["failed"].values()) == 1
    assert of["hidden.txt"]["in"] == 4 and not of["hidden.txt"]["failed"]  # by content, whatever its name
    assert of["feed.xml"]["failed"] == {"not_a_dump": 1} and of["prose.txt"]["kept"] == 1
    sentences = {problem["reason"]: problem["what"] for problem in card["problems"]}
    assert sentences["not_a_dump"].startswith("raw/feed.xml: byte 0: no MediaWiki export begins here")
    assert any(example["reason"] == "redirect" for example in card["examples"])
    readme = (tmp_path / "c" / "README.md").read_text("utf-8")
    assert "leads to another" in readme and "- cc-by-sa-4.0\n" in readme
    assert str(tmp_path) not in json.dumps(card)


def test_each_step_does_its_work(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("forbidden\n", "utf-8")
    texts = [
        PROSE + "Write to anna.smith@example.org.",
        中文,
        "word " * 4000,
        PROSE.replace("ship", "boat") + "A forbidden thing.",
        PROSE.replace("pier", "shore") + "\nAll rights reserved\n" + "It was calm.",
    ]
    texts += ["Das Schiff verließ den Hafen früh am Morgen, und die Leute am Ufer winkten ihm noch lange nach. " * 5]
    settings = ["languages.keep=[en, zh]", "clean.boilerplate=true", "clean.mask=true", f"blocklist.words={words}"]
    corpus = build_corpus([new_document(text, "s") for text in texts], tmp_path / "c", load_settings(None, settings))
    card = corpus.card
    assert card["removed"] == {"blocked_word": 1, "language": 1, "repetitive": 1}
    assert card["changes"] == {"boilerplate_lines": 1, "masked_email": 1}
    assert "| masked email | 1 |" in (tmp_path / "c" / "README.md").read_text("utf-8")
    kept = "".join(document.text for split in ("train", "valid") for document in corpus.documents(split))
    assert "<EMAIL>" in kept and "anna" not in kept and "rights reserved" not in kept
    assert card["language"] == {"en": 2, "zh": 1} and set(card["removed"]) <= set(REASONS)
    assert card["settings"]["blocklist"]["words"] == ["words.txt"] and "words.txt" in card["named_files"]


def test_a_folder_that_is_no_corpus_is_never_replaced(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "card.json").write_text('{"format": "my-cards-1"}', "utf-8")
    (folder / "thesis.txt").write_text("three years of work", "utf-8")
    with pytest.raises(FileError, match="no corpus"):
        build_corpus([new_document(PROSE, "s")], folder)
    assert (folder / "thesis.txt").is_file()


def test_quality_is_judged_in_batches_as_one_by_one(tmp_path, monkeypatch):
    pages = [PAGE + f"It was day {number}." for number in range(20)] + [f"Short page {number}." for number in range(20)]
    documents = [new_document(text, "s") for text in pages]
    cards = []
    for size in (1, 7, 64):
        monkeypatch.setattr("yanmo.corpus.steps.BATCH", size)
        cards.append(build_corpus(documents, tmp_path / f"c{size}", load_settings(None, ["quality.on=true"])).card)
    assert cards[0] == cards[1] == cards[2] and 0 < cards[0]["kept"] <= 20


def test_the_command_prints_the_books(tmp_path, capsys):
    (tmp_path / "zhwiki.xml").write_bytes(dump().replace(b'xml:lang="zh"', b'xml:lang="en"'))
    (tmp_path / "prose.txt").write_text(PROSE, "utf-8")
    assert run("corpus", str(tmp_path), "-o", str(tmp_path / "out"), "--languages", "zh", "--json") == 0
    card = json.loads(capsys.readouterr().out)
    assert card["kept"] == 5 and card["removed"] == {"language": 1} and card["language"] == {"zh": 5}
    assert run("corpus", str(tmp_path / "zhwiki.xml"), "-o", str(tmp_path / "out")) == 0
    assert "kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing-here"], "cannot be read"),
        (["--block-words", "no-such-file", "."], "no-such-file"),
        (["--valid-share", "2", "."], "valid_share is 2"),
        (["--languages", "english", "."], "'english' is no code"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    (tmp_path / "prose.txt").write_text(PROSE, "utf-8")
    monkeypatch.chdir(tmp_path)
    assert run("corpus", *arguments, "-o", "out") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
