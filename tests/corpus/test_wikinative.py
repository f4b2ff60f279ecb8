"""Wikitext by the compiled library: the very text of its reference in Python, on real pages and on any marks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo import nativetext
from yanmo.corpus import wikinative, wikitext
from yanmo.corpus.wikipedia_pages import Damaged, parse, spans, utf8
from yanmo.corpus.wikipedia_streams import unpack

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "wiki"
needs_library = pytest.mark.skipif(nativetext.library() is None, reason=f"texts: {nativetext.why_absent()}")
MARKS = r"""
{{ }} {{{ }}} [[ ]] {| |} |- |+ || !! ! | ' '' ''''' = == * # : ; <ref> </ref> <REF <references/>
<br> <br </p> <div> <nowiki> </nowiki> <math> </Math> <pre> </pre> <!-- --> -{ }- zh-cn: zh-tw: A|
&amp; &amp;nbsp; &nbsp; &lt; &#65; &#x4e2d; &#xd800; &notit; & &# __ __TOC__ __目录__ http://a.b
[http://x.y [HTTPS://x.y//z ] [ ( ) （ ） , ， 、 ---- File: ﬁle: 文件: FILE: Category: en: simple:
lang-fr| lang|fr| nowrap| convert|3|-|5|km convert|3|to|5|km date|1|2| 1= a= é= 中= Unité|5|m disambig
消歧义 ndash – ! < /> > { } - _ /
""".split()  # noqa: SIM905
SPACES = ["\n", "\n\n", " ", "  ", "\t", "\u00a0", "\u2009", "\u200b", "\u3000", "\x85", "\x1c", "\r"]
ODD = [
    "\ue000",
    "\ue0010\ue001",
    "\ue002",
    "\ue0000\ue001",
    "ſ",
    "K",
    "İ",
    "é",
    "中",
    "😀",
    "A",
    "b",
    "7",
    "\0",
    'style="x"',
]
TEXTS = st.lists(st.one_of(st.sampled_from(MARKS + SPACES + ODD), st.text(max_size=4)), max_size=40).map("".join)


def same(text: str, **options: bool) -> None:
    data = text.encode()
    assert wikinative.plain(data, **options) == wikitext.plain(text, **options)
    assert wikinative.is_disambiguation(data) == wikitext.is_disambiguation(text)


@needs_library
@given(TEXTS, st.booleans())
@settings(max_examples=1500, deadline=None)
def test_any_marks_give_the_text_of_the_reference(text: str, tables: bool) -> None:
    same(text, tables=tables)


@needs_library
@pytest.mark.parametrize(
    "text",
    [
        mark * 5000
        for mark in ("{{", "[[", "<ref>", "'", "(", "\n* ", "{|\n", "-{", "&", "__", " ", "<", "[[a|", "{{a|b")
    ]
    + ["{{a" * 400 + "}}" * 400, "[[" * 50 + "a" + "]]" * 50, "<math>x" * 3000, "=" * 9999, "(," * 5000, "{{{a|" * 999],
)
def test_hostile_nesting_gives_the_text_of_the_reference(text: str) -> None:
    same(text)


@needs_library
def test_variants_and_prefixes_are_those_that_are_asked_for() -> None:
    text = "-{zh-cn:信息;zh-tw:資訊}-，[[Tập tin:a.png|thumb|b]][[甲|乙]]"
    for variant in ("zh-cn", "zh-tw", "zh-hk"):
        for prefixes in (frozenset(), frozenset(("tập tin",))):
            wanted = wikitext.plain(text, variant, prefixes)
            assert wikinative.plain(text.encode(), variant, prefixes) == wanted
    assert wikinative.plain(text.encode(), "zh-tw", frozenset(("tập tin",))) == "資訊，乙"


@needs_library
def test_an_error_within_an_answer_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(entity: str) -> str:
        raise RuntimeError(entity)

    monkeypatch.setattr(wikinative.html, "unescape", fail)
    wikinative._wiki.cache_clear()
    with pytest.raises(RuntimeError, match="&eacute;"):
        wikinative.plain(b"caf&eacute;")
    monkeypatch.undo()
    wikinative._wiki.cache_clear()
    assert wikinative.plain(b"caf&eacute;") == "café"


@given(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda t: t.encode("utf-8", "surrogatepass"))))
@settings(max_examples=1000, deadline=None)
def test_utf8_is_what_python_takes_for_it(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(UnicodeDecodeError) as found:
            wikinative.check_utf8(data)
        assert found.value.start == error.start
    else:
        wikinative.check_utf8(data)


@given(
    st.lists(st.sampled_from(["&lt;", "&gt;", "&quot;", "&amp;", "a", "中", "&", "&#65;", "lt;", "&apos;"])).map(
        "".join
    )
)
def test_entities_of_xml_are_resolved_once(text: str) -> None:
    known = ("&lt;", "&gt;", "&quot;", "&amp;")
    wanted = None
    if sum(text.count(name) for name in known) == text.count("&"):
        wanted = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&").encode()
    assert wikinative.without_entities(text.encode()) == wanted


@needs_library
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared dumps are not here")
def test_real_pages_have_the_text_of_the_reference() -> None:
    seen = 0
    for path in sorted(DATA.iterdir()):
        if ".tar" in path.name:
            continue
        head = next(unpack(path)).data  # type: ignore[union-attr]
        for found in spans(utf8(unpack(path), head)):
            if isinstance(found, bytes):
                try:
                    page = parse(found)
                except Damaged:
                    continue
                seen += 1
                same(page.text, tables=bool(seen % 2))
    assert seen > 2000


@needs_library
def test_without_the_library_documents_are_the_same(tmp_path: Path) -> None:
    text = "== A ==\n'''B''' [[c|d]]&lt;ref&gt;e&lt;/ref&gt; {{nowrap|1=f}} &amp;amp;eacute; &lt;math&gt;x&lt;/math&gt;"
    xml = "<mediawiki>" + "".join(
        f"<page><title>T{n}</title><ns>0</ns><id>{n}</id><revision><text>{text} {n} &#65;</text></revision></page>"
        for n in range(3)
    )
    (tmp_path / "a.xml").write_text(xml + "</mediawiki>")
    code = (
        "import json, sys; from yanmo import nativetext; from yanmo.corpus.text import read_documents; "
        "found = [vars(d) for d in read_documents([sys.argv[1]])]; "
        "print(json.dumps([nativetext.library() is None, found]))"
    )
    said = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code, str(tmp_path / "a.xml")],
                env=os.environ | {"YANMO_KERNELS": wish},
                cwd=ROOT,
                capture_output=True,
                check=True,
            ).stdout
        )
        for wish in ("", "off")
    ]
    assert [absent for absent, _ in said] == [False, True]
    assert said[0][1] == said[1][1] and len(said[0][1]) == 3 and "$x$" in said[0][1][0]["text"]
