"""Wikitext becomes text that reads well, in a time that grows with its length alone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus import wikitext
from yanmo.corpus.wikitext import is_disambiguation, is_redirect, plain

CASES = [
    ("'''Bold''' and ''slanted'', L''''Autriche'''", "Bold and slanted, L'Autriche"),
    ("[[A]] [[A|b]] [[:Category:C]] [[A|b]]s", "A b Category:C bs"),
    ("[[Category:X]]a[[de:Y]][[fr:Z]]", "a"),
    ("[[File:x.jpg|thumb|A [[b|c]] d]]text", "text"),
    ("[[文件:x.jpg|缩略图|甲[[乙]]]]正文[[分类:丙]]", "正文"),
    ("a<ref>b {{c}}</ref> d<ref name=x /> e<!-- f -->", "a d e"),
    ("{{Infobox|a={{b|c}}|d=[[e]]}}text {{convert|5|km|mi}}", "text 5 km"),
    ("{{lang|fr|mot}} {{nowrap|a b}} {{unknown|x}}", "mot a b"),
    ("== One ==\ntext\n=== Two ===\n* a\n** b\n# c\n: d", "## One\n\ntext\n\n### Two\n\n- a\n  - b\n1. c\nd"),
    ("a\n== Empty ==\n== Notes ==\n<references />\n", "a"),
    ("[http://x.org label] [http://x.org] http://y.org", "label http://y.org"),
    ("<nowiki>[[a]] {{b}}</nowiki> <math>x^2</math>", "[[a]] {{b}} $x^2$"),
    ("<pre>\na  b\n  c</pre>", "a  b\n  c"),
    ("a&nbsp;b &amp;lt; &eacute; <b>x</b><br />y __NOTOC__", "a b < é x\ny"),
    ('{|\n! A !! B\n|-\n| 1 || style="x" | 2\n|}\nend', "A | B\n1 | 2\n\nend"),
    ('{| class="infobox"\n| 1\n|}\nend', "end"),
    ("{{a|{{b}}}}x{{c|{{{d}}}}}y", "xy"),
    ("{{{1|default}}} x", "default x"),
    ("a ({{lang-xx}}; ) b", "a b"),
]


@pytest.mark.parametrize("text, expected", CASES)
def test_each_construct_becomes_what_the_table_says(text: str, expected: str) -> None:
    assert plain(text) == expected


VARIANTS = [
    ("-{zh-cn:信息;zh-tw:資訊;}-", "zh-cn", "信息"),
    ("-{zh-cn:信息;zh-tw:資訊;}-", "zh-tw", "資訊"),
    ("-{zh-cn:信息;zh-tw:資訊;}-", "zh-hk", "資訊"),
    ("-{zh-hans:计算机;zh-hant:電腦}-", "zh-cn", "计算机"),
    ("-{zh-hans:计算机;zh-hant:電腦}-", "zh-mo", "電腦"),
    ("-{原文}-", "zh-cn", "原文"),
    ("-{R|原文:a;b}-", "zh-cn", "原文:a;b"),
    ("x-{H|zh-cn:a;zh-tw:b}-y", "zh-cn", "xy"),
    ("x-{T|zh-cn:a;zh-tw:b}-y", "zh-cn", "xy"),
    ("-{A|zh-cn:博客;zh-tw:部落格}-", "zh-tw", "部落格"),
    ("-{zh-cn:甲-{zh-cn:乙;zh-tw:丙}-;zh-tw:丁}-", "zh-cn", "甲乙"),
    ("[[甲|-{zh-cn:乙;zh-tw:丙}-]]{{lang|zh|-{丁}-}}", "zh-tw", "丙丁"),
    ("-{zh-tw:只有}-", "zh-cn", "只有"),
    ("-{zh-cn:a&nbsp;b;zh-tw:c}-", "zh-cn", "a b"),
]


@pytest.mark.parametrize("text, variant, expected", VARIANTS)
def test_chinese_variants_are_resolved(text: str, variant: str, expected: str) -> None:
    assert plain(text, variant) == expected


def test_redirects_and_disambiguation_pages_are_known_in_many_languages() -> None:
    for word in ("REDIRECT", "重定向", "WEITERLEITUNG", "Redirection", "転送", "REDIRECCIÓN", "перенаправление"):
        assert is_redirect(f"#{word} [[x]]"), word
    for name in ("disambig", "消歧义", "消歧義", "Begriffsklärung", "Homonymie", "曖昧さ回避", "Desambiguación"):
        assert is_disambiguation(f"x {{{{{name}}}}}"), name
    assert not is_redirect("# a list") and not is_disambiguation("{{cite}} disambig")


MARKS = ["{{", "}}", "{|", "|}", "[[", "]]", "-{", "}-", "<ref>", "</ref>", "<!--", "-->", "<nowiki>", "|", "=", "''"]
MARKS += ["\n", " ", "a", "<", ">", "&lt;", "zh-cn:", ";", ":", "*", "(", ")", "[http:", "\ue0000\ue001", "<math>"]


@given(st.lists(st.sampled_from(MARKS), max_size=60).map("".join) | st.text(max_size=200))
@settings(max_examples=400, deadline=None)
def test_any_text_gives_a_text(text: str) -> None:
    found = plain(text)
    assert isinstance(found, str) and found == found.strip()
    is_redirect(text), is_disambiguation(text)


HOSTILE = [*MARKS, "{{a|", "[[a|", "-{zh-cn:", "<ref", "<a ", "{{{", "[", "{", "|-\n", "{|\n", "( ", "&", "__A", "=\n"]
HOSTILE += ["zh-cn:a;", "<br", "{{a}}[[", "a:", "#", "<ref>{{", "-{;", "'''''", "&amp;", "\ue000"]


@pytest.mark.parametrize("mark", HOSTILE)
def test_hostile_nesting_takes_linear_time(mark: str) -> None:
    def seconds(size: int) -> float:
        started = time.process_time()
        plain(mark * (size // len(mark)))
        return time.process_time() - started

    seconds(1000)
    large = seconds(400_000)
    # linear: four times as much as for a quarter; quadratic: sixteen times
    assert large < 1 or large < 10 * min(seconds(100_000) for _ in range(3))


def test_depth_is_bounded_and_the_text_stays() -> None:
    assert "core" in plain("[[a|" * 50 + "core" + "]]" * 50)
    assert plain("{{a|" * 5 + "x" + "}}" * 5 + "text") == "text"
    assert "{{" not in plain("{{a|" * 50 + "x" + "}}" * 50) and wikitext.DEPTH < 50
