"""Texts with translations, and conversations: all forms give source and target, or messages; hostile XML is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.errors import Error, FileError, InputError
from yanmo.tasks import reading
from yanmo.tasks.examples import Data

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ENGLISH = ["A dog runs.", "Two men 🙂 talk."]
GERMAN = ["Ein Hund läuft.", "Zwei Männer 🙂 reden."]
PAIRS = list(zip(ENGLISH, GERMAN))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pairs(data: Data) -> list[tuple[str, str | None]]:
    return [(example.text, example.target) for example in data.examples]


def sides(folder: Path) -> list[Path]:
    english = write(folder, "train.en", "\n".join(ENGLISH) + "\n")
    return [english, write(folder, "train.de.gz", gzip.compress(("\n".join(GERMAN) + "\n").encode()))]


def test_two_files_of_lines(tmp_path):
    files = sides(tmp_path)
    assert pairs(reading.read("translate", files)) == PAIRS
    assert pairs(reading.read("translate", files[::-1])) == [pair[::-1] for pair in PAIRS]
    assert pairs(reading.read("translate", files, columns={"text": "de"})) == [pair[::-1] for pair in PAIRS]
    more = [write(tmp_path, "other.en", "One.\n"), write(tmp_path, "other.de", "Eins.\n")]
    data = reading.read("translate", [*files, *more])
    assert pairs(data) == [*PAIRS, ("One.", "Eins.")] and data.examples[2].where == "other.en:1"
    with pytest.raises(InputError, match="none of them ends in 'fr'; name en or de"):
        reading.read("translate", files, columns={"text": "fr"})
    write(tmp_path, "other.de", "Eins.\nZwei.\n")
    with pytest.raises(FileError, match="other.en has 1 lines and other.de has 2"):
        reading.read("translate", more)
    write(tmp_path, "other.de", " \n")
    with pytest.raises(FileError, match="other.en:1: the target is empty"):
        reading.read("translate", more)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "".join(f"{a}\t{b}\n" for a, b in PAIRS)),
        ("a.tsv", "".join(f"{a}\t{b}\tCC-BY {n}\n" for n, (a, b) in enumerate(PAIRS))),
        ("a.tsv", "en\tde\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS)),
        ("a.csv", "id,source,target\n" + "".join(f'{n},"{a}","{b}"\n' for n, (a, b) in enumerate(PAIRS))),
        ("a.jsonl", "".join(json.dumps({"translation": {"en": a, "de": b}}) + "\n" for a, b in PAIRS)),
        ("a.jsonl", "".join(json.dumps({"tgt": b, "src": a}) + "\n" for a, b in PAIRS)),
    ],
)
def test_tables_and_json(tmp_path, name, content):
    assert pairs(reading.read("translate", write(tmp_path, name, content))) == PAIRS


def test_columns_say_the_direction(tmp_path):
    path = write(tmp_path, "a.tsv", "".join(f"{a}\t{b}\n" for a, b in PAIRS))
    assert pairs(reading.read("translate", path, columns={"text": "2", "target": "1"})) == [
        pair[::-1] for pair in PAIRS
    ]


HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4">'
HEAD += '<header srclang="en" segtype="sentence"/><body>\n'


def unit(english: str, german: str) -> str:
    return (
        f'<tu tuid="u"><tuv xml:lang="de"><seg>{german}</seg></tuv>\n'
        f'<tuv xml:lang="en"><seg>{english}</seg></tuv></tu>\n'
    )


TMX = HEAD + "".join(unit(a.replace("dog", "<bpt i='1'>{b}</bpt>dog<hi/>"), b) for a, b in PAIRS) + "</body></tmx>"


def test_translation_memories(tmp_path):
    for content in (TMX.encode(), TMX.replace("UTF-8", "UTF-16").encode("utf-16"), b"\xef\xbb\xbf" + TMX.encode()):
        data = reading.read("translate", write(tmp_path, "a.tmx", content))
        assert pairs(data) == PAIRS
    assert data.examples[1].where == "a.tmx:6"
    data = reading.read("translate", tmp_path / "a.tmx", columns={"text": "de", "target": "en"})
    assert pairs(data) == [pair[::-1] for pair in PAIRS]
    third = TMX.replace("</tu>", '<tuv xml:lang="fr"><seg>x</seg></tuv></tu>')
    with pytest.raises(InputError, match="the languages de, en, fr; name text and target"):
        reading.read("translate", write(tmp_path, "b.tmx", third))
    assert pairs(reading.read("translate", tmp_path / "b.tmx", columns={"text": "en", "target": "de"})) == PAIRS


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (TMX.replace('"tmx14.dtd">', '"tmx14.dtd" [<!ENTITY a "b">]>'), "a.tmx:2: it declares entities"),
        (
            TMX.replace('"tmx14.dtd">', '"t" [<!ENTITY a SYSTEM "file:///etc/passwd">]>').replace("dog", "&a;"),
            "a.tmx:2: it declares entities",
        ),
        (TMX.replace("dog", "&nbsp;dog"), "a.tmx:5: the entity '&nbsp;' is not known"),
        (TMX[:-30], "a.tmx:7: no XML that can be read"),
        (TMX.replace("UTF-8", "no-such-code"), "a.tmx:1: "),
    ],
)
def test_hostile_or_damaged_memories_are_one_sentence(tmp_path, content, sentence):
    with pytest.raises(Error) as caught:
        reading.read("translate", write(tmp_path, "a.tmx", content))
    assert sentence in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(TMX) - 1), st.binary(max_size=6)), max_size=4))
def test_damage_anywhere_in_a_memory_gives_examples_or_an_error(tmp_path, changes):
    content = TMX.encode()
    for place, piece in changes:
        content = content[:place] + piece + content[place + len(piece) // 2 :]
    try:
        assert reading.read("translate", write(tmp_path, "a.tmx", content)).examples
    except Error as error:
        assert "\n" not in str(error)


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("row", "asked", "answered"),
    [
        ({"messages": MESSAGES}, "Hi", "Hello"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "Hi", "Hello"),
        ({"instruction": "Add", "input": "1 2", "output": "3"}, "Add\n\n1 2", "3"),
        ({"instruction": "Add", "input": "", "output": "3"}, "Add", "3"),
        ({"prompt": "Hi", "response": "Hello"}, "Hi", "Hello"),
        ({"article": "long", "summary": "short"}, "long", "short"),
        ({"a": "x", "b": "y"}, "x", "y"),
    ],
)
def test_conversations(tmp_path, row, asked, answered):
    example = reading.read("generate", write(tmp_path, "a.jsonl", json.dumps(row))).examples[0]
    assert (example.text, example.target) == (asked, answered)
    assert [message["role"] for message in example.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"messages": MESSAGES[:1]}, "it has no answer of the assistant"),
        ({"messages": [{"role": "usr", "content": "x"}, MESSAGES[1]]}, "the role 'usr' (nearest: 'user')"),
        ({"messages": [{"role": "user", "content": 5}, MESSAGES[1]]}, "the content of message 0 is a int"),
        ({"messages": [{"role": "user", "content": "\ud800"}, MESSAGES[1]]}, "half of a surrogate pair"),
    ],
)
def test_bad_conversations_are_one_sentence(tmp_path, row, sentence):
    path = write(tmp_path, "a.jsonl", json.dumps({"messages": MESSAGES}) + "\n" + json.dumps(row))
    with pytest.raises(FileError) as caught:
        reading.read("generate", path)
    assert str(caught.value).startswith("a.jsonl:2: ") and sentence in str(caught.value)
    assert len(reading.read("generate", path, skip_bad=True).examples) == 1


@pytest.mark.parametrize(
    ("task", "names", "count"),
    [
        ("translate", ["translation/multi30k-val.en.gz", "translation/multi30k-val.de.gz"], 1014),
        ("translate", ["translation/news-zh-en-train.cn", "translation/news-zh-en-train.en"], 6139),
        ("translate", ["translation/tatoeba-cmn-eng-a.tsv.gz"], 25588),
        ("generate", ["generation/dolly_hhrlhf_train_small.jsonl.gz"], 1000),
        ("generate", ["generation/e2e-devset.csv.gz"], 4672),
    ],
)
def test_real_files(task, names, count):
    if not all((SHARED / name).exists() for name in names):
        pytest.skip("the shared data are absent")
    assert len(reading.read(task, [SHARED / name for name in names]).examples) == count
