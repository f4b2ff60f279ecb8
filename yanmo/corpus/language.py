"""Which language a text is in: scripts that decide by themselves, then two models that ship in their wheels.

    identify                  text → (code, confidence), "" where nothing can be said
    settle                    text, the language that its source states → the language it is in
    codes                     what is counted in a text of which language
    variant                   Chinese text → share of traditional among the characters that differ
    sample                    the stretches of a long text that are read

Kana is Japanese, Hangul Korean, and so for the scripts of one language each. A text mostly in Han characters without
kana is Chinese. Otherwise short texts ask py3langid (BSD-3, naive Bayes over byte n-grams, numpy arrays without
pickles) and CLD2 (Apache-2.0) together, and long texts CLD2 first, py3langid where CLD2 is not sure. Both models lie
within their wheels: nothing is fetched. Codes are ISO 639-1 where there is one; Chinese is "zh" in either spelling.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

from yanmo.corpus.characters import codes_of
from yanmo.errors import need

WINDOW = 600  # characters at the beginning, in the middle and at the end of a long text
SURE = 240  # bytes from which CLD2 may decide alone
MIN_LETTERS = 4
MIN_SHARE = 0.5  # of the letters in a script that decides
MIN_KANA = 0.03  # of Han and kana
MIN_CONFIDENCE = 0.3
NEAREST = 5  # languages; on real dumps the right one was among the first 3, a wrong one behind 19 others
CERTAIN = 0.8  # to contradict what a source states; of a script it is a share, and Chinese pages hold Latin names

_NAMES = {"iw": "he", "jw": "jv", "in": "id", "nb": "no", "nn": "no", "zh-Hant": "zh", "zh-Hans": "zh", "fil": "tl"}
_SCRIPTS = (  # first and last code point, language; others of these scripts are too rare to be models' business
    (0x0370, 0x03FF, "el"),
    (0x1F00, 0x1FFF, "el"),
    (0x0530, 0x058F, "hy"),
    (0x0700, 0x074F, "syr"),
    (0x0780, 0x07BF, "dv"),
    (0x0A00, 0x0A7F, "pa"),
    (0x0A80, 0x0AFF, "gu"),
    (0x0B00, 0x0B7F, "or"),
    (0x0B80, 0x0BFF, "ta"),
    (0x0C00, 0x0C7F, "te"),
    (0x0C80, 0x0CFF, "kn"),
    (0x0D00, 0x0D7F, "ml"),
    (0x0D80, 0x0DFF, "si"),
    (0x0E00, 0x0E7F, "th"),
    (0x0E80, 0x0EFF, "lo"),
    (0x1000, 0x109F, "my"),
    (0x10A0, 0x10FF, "ka"),
    (0x13A0, 0x13FF, "chr"),
    (0x1780, 0x17FF, "km"),
    (0x1100, 0x11FF, "ko"),
    (0x3130, 0x318F, "ko"),
    (0xAC00, 0xD7AF, "ko"),
    (0x3040, 0x30FF, "kana"),
    (0x31F0, 0x31FF, "kana"),
    (0x3400, 0x4DBF, "han"),
    (0x4E00, 0x9FFF, "han"),
    (0xF900, 0xFAFF, "han"),
)
_TABLE_SIZE = 0x10000
_OTHER, _NONE = 1, 0
_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]|[^\x00-\uffff]")
_ADDRESSES = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+")
_SIMPLIFIED = (
    "这国来说会们个时为对过还发后现开样没与从动长进问无见两学业机关东"
    "车马书电门经总图间头条点应气体热爱报讲话认识让谁请语谈论课该调"
)
_TRADITIONAL = (
    "這國來說會們個時為對過還發後現開樣沒與從動長進問無見兩學業機關東"
    "車馬書電門經總圖間頭條點應氣體熱愛報講話認識讓誰請語談論課該調"
)


def identify(text: str) -> tuple[str, float]:
    """The language's code and a confidence between 0 and 1; "" and 0.0 where a text has too few letters or is unclear.

    Raises MissingExtra without the extra "corpus".
    """
    part = sample(text)
    counts = codes(part)
    total = int(counts.sum())
    if total < MIN_LETTERS:
        return "", 0.0
    names = _names()
    best = int(counts.argmax())
    han, kana = int(counts[names.index("han")]), int(counts[names.index("kana")])
    if best >= 2 and counts[best] >= MIN_SHARE * total or han + kana >= MIN_SHARE * total:
        share = min(float(max(counts[best], han + kana)) / total, 1.0)
        if han + kana >= MIN_SHARE * total:
            return ("ja" if kana > MIN_KANA * (han + kana) else "zh"), share
        return names[best], share
    return _by_models(part)


def settle(text: str, stated: str = "") -> str:
    """The code of a text whose source states a language, or none: "" where nothing can be said.

    What is stated stands, unless the text is surely in another language and py3langid, which knows the one that is
    stated, finds NEAREST likelier ones: a wiki in Latgalian is right about pages that look like Latvian, and a dump of
    Chinese pages under an English header is wrong.
    """
    code, confidence = identify(text)
    base = stated.lower().partition("-")[0]
    if not base:
        return code
    if code == base or confidence < CERTAIN:
        return stated
    ranked = [_NAMES.get(name, name) for name, _ in _bayes().rank(sample(text))]
    return code if base in ranked[NEAREST:] else stated


def codes(text: str) -> np.ndarray:
    """Letters of each script: (kinds,) int64, in the order none, other, then the scripts that decide."""
    table = _table()
    return np.bincount(table.take(codes_of(text), mode="clip"), minlength=len(_names()))[: len(_names())] * _counted()


def variant(text: str) -> float | None:
    """The share of traditional forms among those characters of the commonest that both spellings write differently.

    None for a text without any of them.
    """
    part = sample(text)
    traditional = sum(map(part.count, _TRADITIONAL))
    simplified = sum(map(part.count, _SIMPLIFIED))
    return traditional / (traditional + simplified) if traditional + simplified else None


def sample(text: str) -> str:
    """The text, or 1,800 characters from three places of a longer one."""
    if len(text) <= 3 * WINDOW:
        return text
    middle = (len(text) - WINDOW) // 2
    return f"{text[:WINDOW]} {text[middle : middle + WINDOW]} {text[-WINDOW:]}"


def _by_models(text: str) -> tuple[str, float]:
    """CLD2 where it is sure of a long text, else what both models hold for likely."""
    text = _UNREADABLE.sub(" ", _ADDRESSES.sub(" ", text))
    data = text.encode("utf-8")
    cld2 = need("pycld2", "corpus", "identifying languages")
    try:
        sure, _, found = cld2.detect(data, isPlainText=True)
    except cld2.error:  # a code point it does not hold for one
        sure, found = False, ()
    first, percent = (_NAMES.get(found[0][1], found[0][1]), found[0][2]) if found else ("un", 0)
    if sure and len(data) >= SURE and percent >= 70:
        return first, percent / 100
    second, probability = _bayes().classify(text)
    second = _NAMES.get(second, second)
    if first == second:
        return first, max(probability, percent / 100 if sure else 0.5)
    if probability < MIN_CONFIDENCE:
        return (first, percent / 100 * 0.5) if sure and percent >= 70 else ("", 0.0)
    return second, probability * (0.7 if sure else 1.0)


@functools.cache
def _bayes() -> Any:
    module = need("py3langid.langid", "corpus", "identifying languages")
    return module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)


@functools.cache
def _names() -> tuple[str, ...]:
    return ("", "other", *dict.fromkeys(name for _, _, name in _SCRIPTS))


@functools.cache
def _counted() -> np.ndarray:
    return np.arange(len(_names())) > _NONE


@functools.cache
def _table() -> np.ndarray:
    table = np.array([_OTHER if chr(code).isalpha() else _NONE for code in range(_TABLE_SIZE)], np.uint8)
    table[-1] = _NONE  # what lies above is read as this
    for first, last, name in _SCRIPTS:
        letters = table[first : last + 1]
        letters[letters == _OTHER] = _names().index(name)
    return table
