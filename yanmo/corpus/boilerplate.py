"""What pages say about themselves, and text that was decoded wrongly: taken out, mended, counted.

    strip                     text → the text without boilerplate lines, and how many those were
    is_boilerplate            one line → is it?
    repair                    text → the text with mojibake mended, and whether anything was

A boilerplate line is a short one (160 characters at most; 60 in a script without spaces) with one of PHRASES:
notices of cookies, policies and rights, requests for JavaScript, buttons for sharing, numbers of registration (C4's
rule, which drops every line with "javascript" or "lorem ipsum", would drop prose about them too). Within running text
such a line is a sentence like any other: only what begins after a line end and ends with one is looked at.

Mojibake is looked for only where it shows: at least two places that UTF-8 read as a one-byte encoding leaves behind.
There ftfy (Apache-2.0) decides and mends, one line at a time, and what it does not mend stays as it is.
"""

from __future__ import annotations

import re

from yanmo.errors import need

MAX_LINE = 160
MAX_SPACELESS = 60
PHRASES = (
    "all rights reserved",
    "cookie policy",
    "use of cookies",
    "uses cookies",
    "use cookies",
    "accept cookies",
    "accept all cookies",
    "cookie settings",
    "privacy policy",
    "terms of use",
    "terms of service",
    "terms and conditions",
    "enable javascript",
    "javascript is disabled",
    "javascript is required",
    "requires javascript",
    "turn on javascript",
    "skip to content",
    "skip to main content",
    "skip to navigation",
    "back to top",
    "lorem ipsum",
    "sign up for our newsletter",
    "subscribe to our newsletter",
    "powered by wordpress",
    "share on facebook",
    "share on twitter",
    "share this:",
    "share this article",
    "click here to subscribe",
    "leave a comment",
    "leave a reply",
    "log in to post",
    "you must be logged in",
    "copyright ©",
    "copyright (c)",
    "版权所有",
    "版權所有",
    "保留所有权利",
    "保留一切權利",
    "备案号",
    "icp备",
    "icp证",
    "公网安备",
    "网安备",
    "违法和不良信息",
    "责任编辑",
    "責任編輯",
    "未经授权",
    "未经许可",
    "未經授權",
    "网站地图",
    "設為首頁",
    "设为首页",
    "加入收藏",
    "返回顶部",
    "返回首页",
    "免责声明",
    "隐私政策",
    "隱私政策",
    "用户协议",
    "服务条款",
    "点击查看更多",
    "查看更多>>",
    "阅读全文",
    "扫一扫",
    "扫码关注",
    "关注公众号",
    "分享到微信",
    "分享到：",
    "相关阅读：",
    "上一篇：",
    "下一篇：",
    "请启用javascript",
    "不支持javascript",
    "启用javascript",
)

_ANY = re.compile("|".join(re.escape(phrase) for phrase in PHRASES))
_SPACELESS = re.compile("[\u3400-\u9fff]")
_SIGNS = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201e"
    "\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
)
_LATIN_1 = re.compile("[\u00c2-\u00f4]")


def is_boilerplate(line: str) -> bool:
    """A short line that holds a phrase of PHRASES."""
    if len(line) > MAX_LINE or not line:
        return False
    return bool(_ANY.search(line.lower())) and (len(line) <= MAX_SPACELESS or not _SPACELESS.search(line))


def strip(text: str) -> tuple[str, int]:
    """The text without its boilerplate lines, and how many they were."""
    lowered = text.lower()
    if not any(phrase in lowered for phrase in PHRASES):
        return text, 0
    lines = text.split("\n")
    kept = [line for line in lines if not is_boilerplate(line)]
    return "\n".join(kept).strip("\n"), len(lines) - len(kept)


def repair(text: str) -> tuple[str, bool]:
    """Text that was UTF-8 and read as something else, read again; and whether it was. Needs the extra "corpus" then."""
    if text.isascii() or not _LATIN_1.search(text) or len(_SIGNS.findall(text)) < 2:
        return text, False
    ftfy = need("ftfy", "corpus", "mending wrongly decoded text")
    lines = text.split("\n")
    mended = [ftfy.fix_encoding(line) if _SIGNS.search(line) else line for line in lines]
    return "\n".join(mended), mended != lines
