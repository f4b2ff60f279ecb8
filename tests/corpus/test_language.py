"""Languages: sentences of many languages, scripts that decide alone, and when nothing is said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.language import identify, sample, settle, variant

pytest.importorskip("pycld2", reason="the extra corpus is not installed")
pytest.importorskip("py3langid", reason="the extra corpus is not installed")

SENTENCES = {
    "en": "The weather was so bad yesterday that nobody wanted to leave the house at all.",
    "de": "Das Wetter war gestern so schlecht, dass niemand das Haus verlassen wollte.",
    "fr": "Il faisait si mauvais hier que personne ne voulait sortir de la maison.",
    "es": "Ayer hacía tan mal tiempo que nadie quería salir de la casa.",
    "it": "Ieri il tempo era così brutto che nessuno voleva uscire di casa.",
    "pl": "Wczoraj pogoda była tak zła, że nikt nie chciał wychodzić z domu.",
    "ru": "Вчера была такая плохая погода, что никто не хотел выходить из дома.",
    "tr": "Dün hava o kadar kötüydü ki kimse evden çıkmak istemedi.",
    "vi": "Hôm qua thời tiết xấu đến mức không ai muốn ra khỏi nhà.",
    "ar": "كان الطقس سيئا جدا بالأمس لدرجة أن أحدا لم يرغب في مغادرة المنزل.",
    "hi": "कल मौसम इतना ख़राब था कि कोई भी घर से बाहर नहीं निकलना चाहता था।",
    "zh": "昨天天气太差了，谁都不愿意出门。",
    "ja": "昨日は天気がとても悪くて、誰も家を出たがらなかった。",
    "ko": "어제는 날씨가 너무 나빠서 아무도 집을 나가려 하지 않았다.",
    "th": "เมื่อวานอากาศแย่มากจนไม่มีใครอยากออกจากบ้าน",
    "el": "Χθες ο καιρός ήταν τόσο άσχημος που κανείς δεν ήθελε να βγει.",
    "ka": "გუშინ ისეთი ცუდი ამინდი იყო, რომ არავის უნდოდა სახლიდან გასვლა.",
}


@pytest.mark.parametrize(("code", "text"), SENTENCES.items())
def test_a_sentence_has_its_language(code: str, text: str) -> None:
    found, confidence = identify(text)
    assert found == code
    assert 0.3 <= confidence <= 1
    assert identify((text + " ") * 100)[0] == code  # as a long text, by CLD2


@pytest.mark.parametrize("text", ["", " \n", "123 456 — 789", "!!!", "a b"])
def test_too_few_letters_have_none(text: str) -> None:
    assert identify(text) == ("", 0.0)


def test_addresses_say_nothing_of_the_language() -> None:
    address = "https://www.example.com/the-weather-was-so-bad-that-nobody-wanted-to-leave-the-house-at-all"
    assert identify(f"{address} Niemand wollte das Haus verlassen. {address}")[0] == "de"
    assert identify(address)[0] == ""


def test_traditional_chinese_is_chinese_with_a_score() -> None:
    simplified, traditional = "这是我们国家的语言，为什么不说呢？", "這是我們國家的語言，為什麼不說呢？"
    assert identify(simplified)[0] == identify(traditional)[0] == "zh"
    assert variant(simplified) == 0
    assert variant(traditional) == 1
    assert variant("人山人海") is None


def test_a_long_text_is_read_in_three_places() -> None:
    part = sample("a" * 5000 + "b" * 5000 + "c" * 5000)
    assert len(part) == 1802
    assert set(part) == set("abc ")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_a_code_and_a_share(text: str) -> None:
    code, confidence = identify(text)
    assert 0 <= confidence <= 1
    assert bool(code) == (confidence > 0)


def test_half_characters_and_unassigned_ones_are_no_obstacle() -> None:
    text = SENTENCES["en"]
    assert identify(f"\ud800\x00\ufffe\U0010ffff{text}")[0] == "en"


def test_what_a_source_states_stands_unless_the_text_is_surely_in_another_language() -> None:
    chinese = "今天的天气很好，我们一起去公园里散步，看见许多人在湖边钓鱼。"
    english = "The ship left the harbour early in the morning, and the people on the pier waved for a long time."
    assert settle(chinese, "en") == "zh" and settle(english, "en") == "en" and settle(english) == "en"
    assert settle(chinese, "zh-tw") == "zh-tw"
    assert settle(english, "de") == "en" and settle(english, "tlh") == "tlh"  # which no model knows
    near = "Raimonds Vējonis ir Latvejas valsts tagadējais prezidents."  # on a page in Latgalian
    assert identify(near)[0] == "lv" and settle(near, "ltg") == "ltg" and settle(near, "en") == "lv"
    assert settle("12", "de") == "de" and settle("12") == ""
