"""Main text of pages: charsets, boilerplate, the child process and its limits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus import extract_child
from yanmo.corpus.encodings import Undecodable
from yanmo.corpus.extract import Unwanted, decode_page, main_text
from yanmo.corpus.html import Unusable

FAST = {"careful": "off"}
STORY = (
    "四月的江南,雨下了整整一个星期。河水涨到了石阶的第三级,村里的老人说,这样的雨他们已经有二十年没有见过了。"
    "镇上的小学停了课,孩子们坐在屋檐下看雨,老师把课本带到他们家里,一家一家地讲。"
)
PAGE = (
    '<html><head><meta charset="{0}"><title>雨季</title></head><body><nav><a href="/">首页</a> '
    '<a href="/x">网站地图</a>'
    "</nav><div class='article'><h1>雨季</h1>"
    + f"<p>{STORY}</p>" * 3
    + "</div><footer>版权所有 备案号 联系我们</footer></body></html>"
)


@pytest.mark.parametrize("careful", ["off", "auto"])
@pytest.mark.parametrize("charset", ["gb18030", "gbk", "utf-8"])
def test_a_chinese_page_keeps_its_story_and_loses_its_frame(charset: str, careful: str):
    page = main_text(PAGE.format(charset).encode(charset), "", True, {"careful": careful})
    assert STORY in page.text and page.title == "雨季"
    assert "网站地图" not in page.text and "版权所有" not in page.text


def test_the_charset_of_http_of_the_page_and_of_neither():
    body = PAGE.format("gb2312").encode("gb18030")
    assert decode_page(body, "", True)[1] == "gb18030"
    assert decode_page(body.replace(b'charset="gb2312"', b""), "GBK", True)[1] == "gb18030"
    assert decode_page(body.replace(b'charset="gb2312"', b""), "", True)[1] == "gb18030"
    japanese = "これは日本語の文章です。文字の符号化を調べます。" * 5
    for codec in ("shift_jis", "euc_jp"):
        text, _, replaced = decode_page(japanese.encode(codec), codec, True)
        assert text == japanese and replaced == 0


def test_only_wanted_languages_go_on():
    body = PAGE.format("utf-8").encode()
    with pytest.raises(Unwanted) as error:
        main_text(body, "", True, FAST | {"languages": ["en"]})
    assert error.value.reason == "language"
    assert STORY in main_text(body, "", True, FAST | {"languages": ["zh"]}).text


def test_a_few_wrong_bytes_are_replaced_and_counted():
    body = PAGE.format("utf-8").encode() + b"\xff"
    text, codec, replaced = decode_page(body, "utf-8", True)
    assert codec == "utf-8" and replaced == 1 and STORY in text


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=500), st.sampled_from(["", "gbk", "utf-16", "nonsense", "shift_jis"]))
def test_any_bytes_are_a_page_or_a_reason(data: bytes, charset: str):
    try:
        main_text(data, charset, True, FAST)
    except (Undecodable, Unusable) as error:
        assert error.reason


def test_a_page_that_takes_too_long_is_counted_and_the_next_one_is_read():
    pytest.importorskip("trafilatura")
    rows = "<html><body><table>" + "<tr><td>a</td><td>b</td></tr>" * 200_000 + "</table></body></html>"
    with pytest.raises(Unusable) as error:
        extract_child.careful_text(rows, {"seconds": 0.01})
    assert error.value.reason == "extraction_time"
    text = extract_child.careful_text(PAGE.format("utf-8"), {})
    assert STORY in text
    assert text == extract_child.careful_text(PAGE.format("utf-8"), {})


def test_a_child_without_memory_is_counted():
    pytest.importorskip("trafilatura")
    with pytest.raises(Unusable) as error:
        extract_child.careful_text(PAGE.format("utf-8"), {"memory": 30 * 2**20})
    assert error.value.reason == "extraction_died"
