"""Boilerplate lines and mojibake: what goes, what is mended, and what stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.boilerplate import is_boilerplate, repair, strip

LINES = [
    "© 2024 Example Inc. All Rights Reserved.",
    "This site uses cookies.",
    "Please enable JavaScript to view the page.",
    "Skip to content",
    "版权所有 © 2010-2024 某某网",
    "京ICP备12345678号-1",
    "责任编辑：张三",
]
PROSE = [
    "JavaScript is a language that was written in ten days.",
    "She baked cookies for the whole class.",
    "他把这件事的版权问题想了很久。",
    "The privacy policy of the first company " + "that was ever sued for one is a long story " * 4,
    "这家网站的免责声明写得很长" + "，读的人看了半天也没有看懂它究竟要说什么" * 4,
]


@pytest.mark.parametrize("line", LINES)
def test_boilerplate_lines_go(line: str) -> None:
    assert strip(f"First.\n{line}\nLast.") == ("First.\nLast.", 1)


@pytest.mark.parametrize("line", PROSE)
def test_prose_stays(line: str) -> None:
    assert not is_boilerplate(line)
    assert strip(f"{line}\n{line}") == (f"{line}\n{line}", 0)


@pytest.mark.parametrize("text", ["Das Mädchen ißt “Käse” – täglich…", "Il a été à l’école, là-bas.", "他说：“你好。”"])
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_wrongly_read_utf8_is_mended(text: str, encoding: str) -> None:
    pytest.importorskip("ftfy", reason="the extra corpus is not installed")
    try:
        broken = text.encode("utf-8").decode(encoding)
    except UnicodeDecodeError:
        pytest.skip("this encoding cannot have read it")
    assert repair(f"Before.\n{broken}\nÀ côté, é.") == (f"Before.\n{text}\nÀ côté, é.", True)


@pytest.mark.parametrize(
    "text", ["", "plain", "Käse und Brötchen, été, Ångström", "中文「引号」", "naïve façade “quoted”"]
)
def test_right_text_is_left_alone(text: str) -> None:
    assert repair(text) == (text, False)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("Ãâ€™©Â é\n中a\ud800"), max_size=60))
def test_any_text_comes_through(text: str) -> None:
    mended, was = repair(text)
    assert was == (mended != text)
    assert isinstance(strip(mended)[0], str)
