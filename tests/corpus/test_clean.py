"""Cleaning, the reasons to leave a text out, exact duplicates, the measure of scripts."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.clean import REASONS, clean, reject
from yanmo.corpus.dedup import fingerprint
from yanmo.corpus.script import script

PROSE = "It was a bright cold day in April, and the clocks were striking thirteen. "
中文 = "房间很干净，服务也很好，下次还会再来。"


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("a\r\nb\rc\x85d\u2028e\x0cf", "a\nb\nc\nd\ne\nf"),
        ("a\r\x00\nb", "a\nb"),
        ("a\x00b\x07c\x7fd\x9be", "abcde"),
        ("\ufeffab\u200bc\u2060d\u00ade", "abcde"),
        ("cafe\u0301", "café"),
        ("가", "가"),
        ("a  \t\nb\u3000\u00a0\nc ", "a\nb\nc"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\n  \n \n\t\n \n\nb", "a\n\n\nb"),
        ("\n\n  indented\n\n", "  indented"),
        ("\u3000\u3000" + 中文, "\u3000\u3000" + 中文),
        ("a\tb", "a\tb"),
        ("half \ud800 and \udc00", "half \ufffd and \ufffd"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_clean_takes_away_what_only_machines_see(dirty, expected):
    assert clean(dirty) == expected


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters() | st.sampled_from("\r\n \t\u3000\x00\u200b\ufeff\u0301\u2028e\ud800")))
def test_cleaning_twice_changes_nothing(text):
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once.encode("utf-8").decode("utf-8") == once
    assert not set("\r\x00\u200b\ufeff") & set(once)
    assert "\n\n\n\n" not in once and not once.startswith("\n") and not once.endswith((" ", "\n"))


def test_a_long_run_of_spaces_is_cleaned_in_time():
    assert clean(" " * 3_000_000 + "x" + " " * 3_000_000) == " " * 3_000_000 + "x"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\u3000\n\t", "empty"),
        ("Hello.", "too_short"),
        ("干净", "too_short"),
        ("房间很干净", None),
        ("床前明月光，疑是地上霜。", None),
        (PROSE, None),
        (中文, None),
        ("हिन्दी में लिखा हुआ एक छोटा सा वाक्य", None),
        ("Ünïcödé and naïve façades everywhere", None),
        ("�� broken �� text �� everywhere", "broken_encoding"),
        (PROSE * 3 + "�", None),
        ("*** --- === ((( ))) +++ ###", "mostly_symbols"),
        ("……——！！！？？？「」『』、。、。、。", "mostly_symbols"),
        ("def f(x):\n    return {k: v for k, v in x.items() if v > 0}", None),
        ("3.14159 26535 89793 23846 26433", "mostly_digits"),
        ("２０２４年１２３４５６７８９０１２３４５６７８９０", "mostly_digits"),
        ("the same thing " * 500, "repetitive"),
        ("重复的话" * 2000, "repetitive"),
        ("a" * 30, None),
    ],
)
def test_a_text_is_left_out_for_a_named_reason_or_kept(text, reason):
    assert reject(text) == reason
    assert reason is None or reason in REASONS


def test_ascii_and_other_texts_are_measured_alike():
    """The quick way for ASCII and the general one agree: a typographic quote changes no verdict."""
    for text in (PROSE, "*** --- === ((( ))) +++ ###", "3.14159 26535 89793 23846 26433", "Hello.", "a b c d e f"):
        assert reject(text) == reject(text.replace(" ", "\u2003"))


def test_texts_are_equal_that_differ_in_white_space_alone():
    assert fingerprint("one text") == fingerprint("one  text\n") == fingerprint(" one\ttext")
    assert fingerprint("one text") != fingerprint("One text")
    assert fingerprint("a b") != fingerprint("ab")
    assert fingerprint("half \ud800") != fingerprint("half")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (中文, "han"),
        ("使用 BERT-base-chinese 模型，学习率为 2e-5，训练三个 epoch。", "han"),
        ("Chinese word: 中", "latin"),
        (PROSE, "latin"),
        ("Größe, façade, Łódź", "latin"),
        ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", "other"),
        ("Все счастливые семьи похожи друг на друга", "other"),
        ("모든 인간은 태어날 때부터 자유로우며", "other"),
        ("12345", "other"),
        ("", "other"),
        ("\ud800", "other"),
    ],
)
def test_the_script_is_what_most_letters_are(text, expected):
    assert script(text) == expected
