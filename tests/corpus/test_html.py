"""Pages: main text, declared and undeclared encodings, nesting."""

from __future__ import annotations

import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.clean import clean, reject
from yanmo.corpus.encodings import Undecodable
from yanmo.corpus.html import MAX_NESTING, Unusable, nesting, page_text

简体 = "今天的天气很好，我们一起去公园里散步。他说这个地方是全国最大的，来的人也不少。"
PAGE = """<!doctype html><html><head>{}<title>天气</title><script>if (a<b) x()</script></head><body>
<nav><ul><li><a href="/">首页</a></li><li><a href="/a">新闻</a></li></ul></nav>
<article><h1>天气预报</h1><p>{}</p><p>第二段。</p></article><footer>版权所有</footer></body></html>"""


@pytest.mark.parametrize(
    ("meta", "codec", "found"),
    [
        ("", "utf-8", "utf-8"),
        ('<meta charset="utf-8">', "utf-8", "utf-8"),
        ('<meta charset="gb2312">', "utf-8", "utf-8"),
        ('<meta charset="gb2312">', "gb18030", "gb18030"),
        ("", "gb18030", "gb18030"),
        ("", "utf-16", "utf-16"),
    ],
)
def test_the_main_text_of_a_chinese_page_is_found(meta, codec, found):
    text, encoding = page_text(PAGE.format(meta, 简体).encode(codec))
    assert encoding == found
    assert 简体 in text and "第二段。" in text and "天气预报" in text
    assert not any(word in text for word in ("首页", "版权所有", "if (a<b)"))


def test_a_page_without_a_main_part_gives_its_whole_text():
    assert "hello" in page_text(b"<ul><li>one</li><li><a href=x>hello</a> there</li></ul>")[0]
    assert page_text(b"just text")[0] == "just text"
    assert page_text(b"")[0] == ""


def test_undecodable_and_too_deep_pages_are_refused():
    with pytest.raises(Undecodable):
        page_text('<meta charset="utf-8"><p>naïve'.encode("latin-1"))
    with pytest.raises(Unusable, match="nests 50,000 elements"):
        page_text(b"<div>" * 50_000 + b"text")


@pytest.mark.parametrize(
    ("page", "depth"),
    [
        ("<p>a<p>b<br><img src=x><ul><li>c<li>d</ul>", 1),
        ("<div><div></div><div><span></span></div></div>", 3),
        ("<script>for(i=0;i<n;i<m)</script><div>", 1),
        ("<!-- <div><div> --><b>x</b>", 1),
        ("<script><div><div>", 0),
        ("<svg><path d='a'/><path d='b'/><g><circle/></g></svg><div></div>", 2),
        ("<div/><div/><div/>", 3),
        ("<svg><div/><section/><section/>", 4),
        ("</div></div><div>", 1),
        ("<DIV><Div>", 2),
        ("", 0),
    ],
)
def test_nesting_counts_what_is_open_at_once(page, depth):
    assert nesting(page) == depth


@pytest.mark.parametrize("part", ["<", "<a", "<div ", "<!--", "<script", "<svg><g>", "</", "<div></div>", "<b><table>"])
def test_hostile_pages_end_in_time(part):
    page = (part * 200_000)[:1_000_000]
    try:
        page_text(page.encode())
    except Unusable as error:
        assert nesting(page) > MAX_NESTING, error


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from(["<div>", "</p>", "<table", "<svg>", "&#0;", "&#xd800;", "\0", "<!--", "中", "x", ">"]))
)
def test_any_markup_gives_text_or_a_reason(parts):
    try:
        text, _ = page_text("".join(parts).encode())
    except (Undecodable, Unusable):
        return
    assert clean(text).encode("utf-8").decode("utf-8") == clean(text)  # no half characters


def test_real_news_pages_give_chinese_text(shared_data):
    with tarfile.open(shared_data / "webcrawl/zh-news-html.tar.gz") as archive:
        pages = [archive.extractfile(member).read() for member in archive if member.isfile()]
    texts = [clean(page_text(page)[0]) for page in pages]
    assert len(texts) == 37
    assert sum(reject(text) is None for text in texts) >= 33
    assert not any("function(" in text for text in texts)
