"""Columns of tokens and tags: schemes are found, spans are characters of the rebuilt text, broken rows are named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yanmo.errors import Error, FileError, InputError
from yanmo.tasks import reading, schemes
from yanmo.tasks.examples import Data, Example
from yanmo.tasks.rebuilt import rebuild

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "ner"


def read(folder: Path, content: str, name: str = "a.conll", **options) -> Data:
    path = folder / name
    path.write_text(content, "utf-8")
    return reading.read("extract", path, **options)


def shown(example: Example) -> list[tuple[str, str]]:
    return [(span.type, example.text[span.start : span.end]) for span in example.entities or ()]


def lines(tokens: str, tags: str, between: str = " ") -> str:
    return "\n".join(between.join(pair) for pair in zip(tokens.split("|"), tags.split())) + "\n\n"


TOKENS = "Ada|Lovelace|met|Charles|Paris"
MEANT = [("PER", "Ada Lovelace"), ("PER", "Charles"), ("PER", "Paris")]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-PER I-PER O B-PER B-PER", "BIO"),
        ("I-PER I-PER O I-PER B-PER", "IOB1"),
        ("B-PER E-PER O S-PER S-PER", "BIOES"),
        ("B_PER E_PER O S_PER S_PER", "BIOES"),
        ("PER-B PER-I O PER-B PER-B", "BIO"),
        ("B-PER L-PER O U-PER U-PER", "BILOU"),
    ],
)
@pytest.mark.parametrize("between", [" ", "\t"])
def test_schemes_are_found_and_give_the_same_spans(tmp_path, tags, scheme, between):
    # a second sentence, without which some schemes could not be told
    second = {"BIOES": "B-PER I-PER E-PER", "BILOU": "B-PER I-PER L-PER"}.get(scheme)
    content = lines(TOKENS, tags, between)
    content += lines("a|b|c", second.replace("-", "_") if "_" in tags else second, between) if second else ""
    data = read(tmp_path, content)
    assert shown(data.examples[0]) == MEANT
    assert f"a.conll: scheme {scheme}, tokens are words" in data.understood.notes
    assert not any("out of" in note for note in data.understood.notes)


def test_characters_are_joined_and_words_are_spaced(tmp_path):
    data = read(tmp_path, lines("我|在|中|国|用|C|S|，|🙂", "O O B-LOC E-LOC O S-X S-X O O") * 3)
    assert data.examples[0].text == "我在中国用CS，🙂"
    assert shown(data.examples[0]) == [("LOC", "中国"), ("X", "C"), ("X", "S")]
    words = read(tmp_path, lines("我|在|北京|买|iPhone|Pro|。", "O O B-LOC O B-X I-X O"))
    assert words.examples[0].text == "我在北京 买 iPhone Pro 。".replace("京 买", "京买").replace("Pro 。", "Pro 。")


def test_layouts_of_many_files(tmp_path):
    document = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n"
    data = read(tmp_path, document + "Rome NNP I-NP I-LOC\n\n" + document)
    assert [(e.text, e.group) for e in data.examples] == [
        ("EU rejects", "a.conll#1"),
        ("Rome", "a.conll#1"),
        ("EU rejects", "a.conll#2"),
    ]
    comments = "# newdoc id = D\n# sent_id = s1\n# text = x\n1\tAda\tB-PER\n2\tran\tO\n\n1\tYes\tO\n2\tshe\tO\n"
    data = read(tmp_path, comments)
    assert [(e.id, e.text, e.group) for e in data.examples] == [
        ("s1", "Ada ran", "a.conll#D"),
        ("a.conll:7", "Yes she", "a.conll#D"),
    ]
    assert data.understood.columns == {"token": "2", "tag": "3"}
    other = read(tmp_path, "Ada\tB-PER\tx1\nran\tO\tx2\n\nsays\tO\tx3\n", columns={"tag": "2"})
    assert shown(other.examples[0]) == [("PER", "Ada")]
    with pytest.raises(InputError, match="no column '9' for the tag; its columns are 1 to 2"):
        read(tmp_path, lines("a|b", "O O"), columns={"tag": "9"})


def test_headers_and_tables_of_words(tmp_path):
    data = read(tmp_path, "token\ttag\nAda\tB-PER\nran\tO\n\nShe\tO\n")
    assert [(e.text, e.where) for e in data.examples] == [("Ada ran", "a.conll:2"), ("She", "a.conll:5")]
    table = "Sentence #,Word,POS,Tag\nSentence: 1,Near,IN,O\n,London,NNP,B-geo\nSentence: 2,Iran,NNP,B-geo\n"
    data = read(tmp_path, table, "a.csv")
    assert [(e.id, e.text, shown(e)) for e in data.examples] == [
        ("Sentence: 1", "Near London", [("geo", "London")]),
        ("Sentence: 2", "Iran", [("geo", "Iran")]),
    ]
    with pytest.raises(FileError, match="a.csv:3: its word or tag is empty"):
        read(tmp_path, table.replace("London", ""), "a.csv")


def test_a_damaged_type_is_a_bad_row(tmp_path):
    row = json.dumps({"tokens": ["Ada"], "tags": ["B-\ud83d"]})
    with pytest.raises(FileError, match="a.jsonl:1: the type of an entity holds half of a surrogate pair"):
        read(tmp_path, row, "a.jsonl")


def test_separators_digits_and_spaces(tmp_path):
    tab = read(tmp_path, "Ada\tB-X\nran\tO\n\t\nshe\tO\n")  # a line of one tab separates, as in WNUT-17
    assert [e.text for e in tab.examples] == ["Ada ran", "she"]
    digits = read(tmp_path, "女0\tB-PER\n人1\tI-PER\n口0\tO\n罩10\tO\np0\tO\n\n")
    assert digits.examples[0].text == "女人口罩p" and shown(digits.examples[0]) == [("PER", "女人")]
    space = read(tmp_path, "我 O\n  O\n的 B-X\n猫 I-X\n\n")
    assert space.examples[0].text == "我 的猫" and shown(space.examples[0]) == [("X", "的猫")]


def test_broken_orders_are_read_as_published_figures_count_them_and_said(tmp_path):
    data = read(tmp_path, lines("a|b|c|d", "B-X O I-Y I-Y") + lines("e|f", "B-X B-X"))
    assert shown(data.examples[0]) == [("X", "a"), ("Y", "c d")]
    assert any(note.startswith("1 tags stand out of their scheme's order") for note in data.understood.notes)
    data = read(tmp_path, lines("a|b|c|d", "B-X M-X O M-X") + lines("e|f", "B-X E-X"))
    assert shown(data.examples[0]) == [("X", "a b"), ("X", "d")]
    assert any(note.startswith("3 tags stand out") for note in data.understood.notes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            lines("a|b", "B-X I-X") * 9 + lines("c|d", "B-X M-X"),
            "a.conll:29: mixed schemes: the tag 'M-X' stands beside",
        ),
        (lines("a|b", "B-X I-X") * 9 + lines("c", "PER"), "a.conll:28: mixed schemes: the tag 'PER' has no letter"),
        (lines("a|b", "B-X I-X") + "c\n\n" + lines("a|b", "B-X I-X") * 9, "a.conll:4: it has 1 columns, where 2 are"),
        ("a\tB-X\n\tO\nb\tO\n", "a.conll:2: its token is empty"),
    ],
)
def test_bad_columns_are_one_sentence(tmp_path, content, sentence):
    with pytest.raises(FileError) as caught:
        read(tmp_path, content)
    assert sentence in str(caught.value)


def test_tokens_with_tags_in_json(tmp_path):
    row = {"tokens": ["Ada", "ran"], "ner_tags": ["B-PER", "O"], "id": "7"}
    data = read(tmp_path, json.dumps(row) + "\n", "a.jsonl")
    assert (data.examples[0].id, data.examples[0].text) == ("7", "Ada ran") and shown(data.examples[0]) == [
        ("PER", "Ada")
    ]
    with pytest.raises(FileError, match="a.jsonl:1: its tags are numbers without names"):
        read(tmp_path, json.dumps(row | {"ner_tags": [1, 0]}), "a.jsonl")
    with pytest.raises(Error, match="a.jsonl:2: it has 2 tokens and 1 tags"):
        read(tmp_path, json.dumps(row) + "\n" + json.dumps(row | {"ner_tags": ["O"]}), "a.jsonl")


LETTERS = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y", "E-X", "S-X", "E-Y"]), max_size=12)


@given(LETTERS)
def test_spans_are_in_order_and_do_not_overlap(tags):
    found, broken = schemes.spans(tags, schemes.Scheme("BIOES"))
    places = [place for _, first, behind in found for place in range(first, behind)]
    assert places == sorted(set(places)) == [place for place, tag in enumerate(tags) if tag != "O"]
    assert broken >= 0


@given(st.lists(st.tuples(st.sampled_from("XY"), st.integers(1, 4), st.integers(0, 2)), max_size=6))
def test_written_entities_come_back_from_every_scheme(parts):
    meant, letters = [], {name: [] for name in ("BIO", "BIOES", "BMES", "BILOU")}
    size = 0
    for name, length, gap in parts:
        meant.append((name, size, size + length))
        size += length + gap
        for scheme, tags in letters.items():
            begin, inside, end, single = {"BIO": "BIIB", "BIOES": "BIES", "BMES": "BMES", "BILOU": "BILU"}[scheme]
            kinds = [single] if length == 1 else [begin, *[inside] * (length - 2), end]
            tags += [f"{letter}-{name}" for letter in kinds] + ["O"] * gap
    for scheme, tags in letters.items():
        assert schemes.spans(tags, schemes.Scheme(scheme)) == (meant, 0)


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=12), st.booleans())
def test_places_of_tokens_are_code_points_of_the_text(tokens, single):
    text, places = rebuild(tokens, single)
    assert [text[start:end] for start, end in places] == tokens


@pytest.mark.parametrize(
    ("name", "sentences", "groups", "counts"),
    [
        ("conll2003-eng.testa", 3250, 216, {"PER": 1842, "LOC": 1837, "ORG": 1341, "MISC": 922}),
        ("resume-dev.char.bmes", 463, 1, {"TITLE": 690, "ORG": 523, "NAME": 110}),
        ("weiboNER_2nd_conll.dev", 270, 1, {"PER.NOM": 208, "PER.NAM": 90, "ORG.NAM": 47}),
        ("wnut17-dev.conll", 1009, 1, {"person": 470, "product": 114, "creative-work": 105}),
        ("msra-dev.ner.gz", 4636, 1, {"NS": 1657, "NR": 1510, "NT": 1090}),
        ("zh-literature-validation.txt.gz", 1895, 1, {"Person": 4013, "Thing": 3144}),
        ("cluener-train.json", 10748, 1, {"name": 3755, "organization": 3210}),
    ],
)
def test_real_files(name, sentences, groups, counts):
    if not (SHARED / name).exists():
        pytest.skip("the shared data are absent")
    data = reading.read("extract", SHARED / name)
    assert len(data.examples) == sentences and len({e.group for e in data.examples}) == groups
    found = Counter(span.type for example in data.examples for span in example.entities)
    assert counts.items() <= found.items()


def test_the_columns_of_a_sentence_s_id_and_group_are_read(tmp_path):
    content = "d1 s1 Ada B-PER\nd1 s1 met O\n\nd1 s2 Bob B-PER\n\nd2 s3 Eve B-PER\n"
    data = read(tmp_path, content, columns={"token": "3", "group": "1", "id": "2"})
    assert [(e.id, e.group) for e in data.examples] == [("s1", "d1"), ("s2", "d1"), ("s3", "d2")]
    assert data.understood.columns == {"token": "3", "tag": "4", "id": "2", "group": "1"}
    with pytest.raises(InputError, match="no column 'doc' for the group; its columns are 1 to 4"):
        read(tmp_path, content, columns={"group": "doc"})
    words = "Sentence #,Word,Doc,Tag\nS1,Ada,d1,B-PER\n,met,d1,O\nS2,Bob,d2,B-PER\n"
    data = read(tmp_path, words, "a.csv", columns={"group": "Doc"})
    assert [(e.id, e.group) for e in data.examples] == [("S1", "d1"), ("S2", "d2")]


def test_columns_that_have_no_effect_are_said(tmp_path):
    data = read(tmp_path, "{{PER:Ada}} lived.\n{{PER:Eve}} too.\n", "a.txt", columns={"group": "doc"})
    assert "1 files without named columns, on which group=doc has no effect (first a.txt)" in data.understood.notes
