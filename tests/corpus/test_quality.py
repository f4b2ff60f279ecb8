"""Quality: each rule against a text that breaks it, prose against all of them, and a batch against its texts alone."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.quality import REASONS, RULES, judge, judge_all, limits
from yanmo.errors import ConfigError

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "data" / "corpora"
PROSE = """It was late in the evening when the ship reached the harbour, and most of the people who had been waiting
for her since the morning were tired and had gone home to their beds.

The captain stood at the rail. He looked at the dark houses, at the one lamp that burned above the door of the inn,
and he thought of the letter that he would have to write before he could sleep.

"Nobody will thank you for it," said the mate, who had come up behind him without a sound. "They never do."

That was true, but it changed nothing; there are things which a man must do with nobody to thank him for them."""
CHINESE = """船到港口的时候天已经黑了，从早上就在那里等着的人大多累了，都回家睡觉去了。

船长站在栏杆旁边。他看着那些黑乎乎的房子，看着客店门上唯一亮着的一盏灯，想到睡觉之前还要写的那封信。

“没有人会为这件事谢您的，”大副说，他不声不响地走到了他的身后，“他们从来都不会。”

这话不错，可是也改变不了什么；有些事情，就是没有人道谢，一个人也是非做不可的。"""


def words(number: int, length: int = 5) -> list[str]:
    """Different words of letters."""
    return [
        "".join(chr(97 + (k * 7919 // 26**place + place * k) % 26) for place in range(length)) for k in range(number)
    ]


FRESH = " ".join(words(400))
BAD = {
    "few_words": "Short.",
    "lorem_ipsum": PROSE + "\n\nLorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "javascript": PROSE + "\n\nPlease enable JavaScript to go on.",
    "short_words": " ".join(words(300, 2)),
    "long_words": " ".join(words(300, 14)),
    "symbols": PROSE.replace(",", " #").replace(".", " # # #"),
    "braces": PROSE.replace(",", "{}").replace(".", "{}{}"),
    "bullets": "\n".join(f"- {' '.join(words(600)[k : k + 12])}" for k in range(0, 600, 12)),
    "ellipses": "\n".join(f"{' '.join(words(600)[k : k + 12])}…" for k in range(0, 600, 12)),
    "not_alphabetic": " ".join(f"{k} and" if k % 2 else f"{k * 7919}" for k in range(200)),
    "no_stop_words": FRESH,
    "repeated_lines": "\n".join([PROSE.replace("\n", " "), *["Read more of it here now"] * 40]),
    "repeated_paragraphs": f"{PROSE}\n\n{PROSE}\n\n{PROSE}",
    "repeated_words": (FRESH[:900] + " the best of cheap watches to buy online today " * 14).strip(),
    "unended_lines": "\n".join(" ".join([*words(600)[k : k + 10], "of the"]) for k in range(0, 600, 10)),
    "short_lines": "\n".join(
        f"{' '.join(words(600)[k : k + 4])} to." if k % 4 else f"{' '.join(words(600)[k : k + 9])} the."
        for k in range(200)
    ),
    "line_breaks": "\n".join(f"{'of the' if k % 9 == 0 else ''} {w}." for k, w in enumerate(words(80, 9))),
}
OFF = {
    "short_lines": limits(max_line_breaks=0, duplicate_grams=0),
    "line_breaks": limits(max_short_lines=0),
    "repeated_paragraphs": limits(max_duplicate_lines=0, max_duplicate_line_characters=0),
}


@pytest.mark.parametrize(("text", "language"), [(PROSE, "en"), (CHINESE, "zh")])
def test_prose_breaks_no_rule(text: str, language: str) -> None:
    scores, reason = judge(text, language)
    assert reason is None
    assert scores["stop_words"] >= 5
    assert {rule.measure for rule in RULES} <= set(scores)
    assert all(math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize(("reason", "text"), BAD.items())
def test_each_rule_names_its_reason(reason: str, text: str) -> None:
    assert judge(text, "en", OFF.get(reason, limits()))[1] == reason


def test_many_words_is_off_until_it_is_asked_for() -> None:
    assert judge(PROSE, "en", limits(max_words=100))[1] == "many_words"
    assert set(REASONS) == {*BAD, "many_words"}


def test_a_rule_that_is_off_rejects_nothing() -> None:
    assert judge("Short.", "", limits(min_words=0))[1] is None


def test_chinese_that_repeats_itself_is_rejected() -> None:
    assert judge("".join(["欢迎光临，这是最好的商店，买的人不在少数。"] * 30), "zh")[1] == "repeated_words"
    menu = "\n".join(f"{a}{b}频道" for a in "新闻体育财经娱乐" for b in "首页视频图片论坛")
    assert judge(menu, "zh")[1] in ("unended_lines", "repeated_words", "no_stop_words", "line_breaks", "short_lines")


def test_stop_words_are_asked_for_in_known_languages_alone() -> None:
    assert judge(FRESH, "en")[1] == "no_stop_words"
    assert judge(FRESH, "fi")[1] is None


def test_the_measures_of_a_small_text_are_those_counted_by_hand() -> None:
    scores, _ = judge("One two three.\nOne two three.\n\n- Four five #\n", "en")
    assert scores["words"] == 8
    assert scores["word_length"] == pytest.approx(30 / 8)
    assert scores["symbols"] == pytest.approx(1 / 8)
    assert scores["bullets"] == pytest.approx(1 / 3)
    assert scores["duplicate_lines"] == pytest.approx(1 / 3)
    assert scores["duplicate_line_characters"] == pytest.approx(14 / (14 + 14 + 13))
    assert scores["top_2_gram"] == pytest.approx(2 * len("two three") / 30)  # letters and the space between
    assert scores["duplicate_5_grams"] == 0


def test_repeated_n_grams_are_the_later_ones_alone() -> None:
    start = "a bb ccc dddd eeeee ffffff ggggggg"
    scores, _ = judge(f"{start} x {start} y", "")
    half = sum(range(1, 8))
    assert scores["duplicate_5_grams"] == pytest.approx(half / (2 * half + 2))
    assert scores["duplicate_7_grams"] == pytest.approx(half / (2 * half + 2))
    assert scores["duplicate_8_grams"] == 0


def test_a_line_of_one_character_ends_as_it_stands_there() -> None:
    assert judge(".")[0]["ellipses"] == 0
    assert judge("One line.\n.\nThree..\nFour…")[0]["ellipses"] == 2 / 4
    assert judge_all(["Ends.", "."]) == [judge("Ends."), judge(".")]


TEXTS = st.text(alphabet=st.sampled_from("ab .\n-#…{}中的。\x00\ud800é1"), max_size=120)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_a_text_is_judged_the_same_in_any_company(texts: list[str]) -> None:
    assert judge_all(texts) == [judge(text) for text in texts]


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", True])
def test_limits_are_numbers_from_zero_up(value) -> None:
    with pytest.raises(ConfigError, match="min_words"):
        limits(min_words=value)


@pytest.mark.skipif(not CORPORA.is_dir(), reason="no shared data")
@pytest.mark.parametrize(("name", "language"), [("gutenberg-1400-0", "en"), ("zh-novel-红楼梦", "zh")])
def test_nearly_all_of_a_novel_is_kept(name: str, language: str) -> None:
    text = gzip.decompress((CORPORA / f"{name}.txt.gz").read_bytes()).decode("utf-8").replace("\r\n", "\n")
    parts = [text[place : place + 5000] for place in range(0, len(text), 5000)]
    reasons = [reason for _, reason in judge_all(parts, [language] * len(parts))]
    assert sum(reason is not None for reason in reasons) <= 0.02 * len(parts)
