"""Encodings are proven or refused; a page's word for itself comes after UTF-8."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.encodings import Undecodable, declared_charset, find_encoding

简体 = "今天的天气很好，我们一起去公园里散步。他说这个地方是全国最大的，来的人也不少。房间里有一张桌子和两把椅子。"
繁體 = "今天的天氣很好，我們一起去公園裡散步。他說這個地方是全國最大的，來的人也不少。房間裡有一張桌子和兩把椅子。"
日本語 = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。"
한국어 = (
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았다."
)
РУССКИЙ = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."
DEUTSCH = "Schöne Grüße aus München! Übermäßig große Äpfel fallen über die Straße, während Öl fließt."
ไทย = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม"


def blocks(data, size=7):
    return lambda: (data[i : i + size] for i in range(0, len(data), size))


@pytest.mark.parametrize(
    ("text", "codec", "found"),
    [
        (简体, "utf-8", "utf-8"),
        (简体, "utf-8-sig", "utf-8-sig"),
        (简体, "utf-16", "utf-16"),
        (简体, "utf-32", "utf-32"),
        (简体, "gb2312", "gb18030"),
        (简体, "gb18030", "gb18030"),
        (繁體, "gb18030", "gb18030"),
        (繁體, "big5", "big5hkscs"),
        ("plain ASCII", "ascii", "utf-8"),
        ("", "ascii", "utf-8"),
        (日本語, "utf-8", "utf-8"),
    ],
)
def test_what_decodes_and_reads_is_found(text, codec, found):
    data = text.encode(codec)
    assert find_encoding(blocks(data)) == found
    assert data.decode(found) == text


@pytest.mark.parametrize("text", ["utf-16-be", "utf-32-be"])
def test_both_byte_orders_are_read_by_their_marks(text):
    data = ("\ufeff" + 简体).encode(text)
    assert data.decode(find_encoding(blocks(data))) == 简体


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        (日本語, "shift_jis"),
        (日本語, "euc_jp"),
        (한국어, "euc_kr"),
        (РУССКИЙ, "cp1251"),
        (РУССКИЙ, "koi8_r"),
        (DEUTSCH, "latin-1"),
        (ไทย, "cp874"),
        ("café", "latin-1"),
        ("鼻齉", "gb18030"),
    ],
)
def test_other_encodings_are_refused_where_they_stop_being_utf_8(text, codec):
    data = text.encode(codec)
    offset = next(i for i, byte in enumerate(data) if byte > 127)
    for repeated in (1, 20):
        with pytest.raises(Undecodable) as caught:
            find_encoding(blocks(data * repeated))
        assert caught.value.reason == "unknown_encoding"
        assert caught.value.offset == offset


def test_one_invalid_byte_is_found_where_it_is():
    data = (简体 * 3).encode() + b"\xff" + 简体.encode()
    with pytest.raises(Undecodable) as caught:
        find_encoding(blocks(data))
    assert caught.value.offset == len((简体 * 3).encode())
    with pytest.raises(Undecodable) as caught:
        find_encoding(blocks(简体.encode()[:-1]))
    assert caught.value.offset == len(简体.encode()) - 3


def test_a_false_mark_and_binary_bytes_are_refused():
    with pytest.raises(Undecodable) as caught:
        find_encoding(blocks("\ufeffab".encode("utf-16-le") + b"\x00"))
    assert caught.value.reason == "invalid_bytes"
    with pytest.raises(Undecodable, match="NULs") as caught:
        find_encoding(blocks("English as UTF-16 without its mark".encode("utf-16-le")))
    assert (caught.value.reason, caught.value.offset) == ("binary", 1)
    with pytest.raises(Undecodable):
        find_encoding(blocks(bytes(range(256)) * 10))
    assert find_encoding(blocks(b"a few NULs \0 in a text are a scar, no encoding")) == "utf-8"


@pytest.mark.parametrize(
    ("head", "codec"),
    [
        (b'<meta charset="gb2312">', "gb18030"),
        (b'<META http-equiv=Content-Type content="text/html; charset=GBK">', "gb18030"),
        (b"<meta charset='Big5'/>", "big5hkscs"),
        (b'<meta charset="ISO-8859-1">', "cp1252"),
        (b'<meta name=x content="y"><meta charset=shift_jis>', "cp932"),
        (b'<meta charset="utf-8">', "utf-8"),
        (b'<meta charset="utf-16">', None),
        (b'<meta charset="utf-7">', None),
        (b'<meta charset="koi8-r">', "koi8-r"),
        (b'<meta charset="windows-1251">', "cp1251"),
        (b'<meta charset="EUC-JP">', "euc_jp"),
        (b'<meta charset="EUC-KR">', "cp949"),
        (b'<meta charset="base64">', None),
        (b'<meta charset="rot13">', None),
        (b'<meta charset="no-such-thing">', None),
        (b"<p>charset=gbk</p>", None),
        (b"", None),
    ],
)
def test_the_charset_of_a_page_is_read_as_browsers_do(head, codec):
    assert declared_charset(head) == codec


def test_utf_8_goes_before_what_a_page_declares_and_that_before_a_guess():
    assert find_encoding(blocks(简体.encode()), "gb18030") == "utf-8"
    assert find_encoding(blocks(DEUTSCH.encode("cp1252")), "cp1252") == "cp1252"
    assert find_encoding(blocks(简体.encode("gb18030")), "ascii") == "gb18030"
    assert find_encoding(blocks(日本語.encode("iso2022_jp")), "iso2022_jp") == "iso2022_jp"


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([None, "gb18030", "cp1252", "iso2022_jp"]), st.integers(1, 9))
def test_what_is_named_decodes_and_nothing_else_escapes(data, declared, size):
    try:
        codec = find_encoding(blocks(data, size), declared)
    except Undecodable as error:
        assert 0 <= error.offset <= len(data)
    else:
        data.decode(codec)


def test_real_chinese_is_recognised_in_every_chinese_encoding(shared_data):
    with gzip.open(shared_data / "corpora/zh-csl-test_public.json.gz", "rt", encoding="utf-8") as file:
        abstracts = [json.loads(line)["abst"] for line in file][:300]
    for text in abstracts:
        assert find_encoding(blocks(text.encode("gb18030"))) == "gb18030"
