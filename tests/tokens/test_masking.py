"""What is hidden: the share that was asked for, whole words, spans behind sentinels; never a special token."""

from __future__ import annotations

import gzip
import re
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from vocabularies import CHINESE

from yanmo.errors import InputError, MissingExtra
from yanmo.tokens import words as words_module
from yanmo.tokens.masking import (
    NO_TARGET,
    Masker,
    Masking,
    Spans,
    choose,
    corrupt_spans,
    frame,
    infill,
    mask_of,
    noise_spans,
    sentinels,
)
from yanmo.tokens.rows import Draws
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.tokens.train import train_tokenizer
from yanmo.tokens.words import Words

ENGLISH = "unbelievable tokenizers are tokenized, and the tokenizer believes it"
MIXED = "今天天气很好，我们去公园散步。A model 语言模型 v2."


def draws(number: int) -> Draws:
    return Draws(7, 2, 0, number)


@pytest.fixture(scope="module")
def wordpiece(corpus: list[str]) -> Tokenizer:
    return train_tokenizer(corpus, "wordpiece", 400)


@pytest.fixture(scope="module")
def bpe(corpus: list[str]) -> Tokenizer:
    """No Chinese in its merges: each character is three tokens."""
    return train_tokenizer([line for line in corpus if line.isascii()], "bpe", 500, special_tokens=["<mask>"])


@pytest.fixture(scope="module")
def unigram(corpus: list[str]) -> Tokenizer:
    return train_tokenizer(corpus, "unigram", 700, special_tokens=["<extra_id_0>", "<extra_id_1>"])


def masked(tokenizer: Tokenizer, text: str, masking: Masking, times: int) -> list[tuple[np.ndarray, ...]]:
    """(ids, changed, targets) of each draw."""
    masker, ids = Masker(tokenizer, masking), np.array(tokenizer.encode(text))
    return [(ids, *masker(ids, np.ones_like(ids), draws(number))) for number in range(times)]


# --- shares


@pytest.mark.parametrize("share", [0.15, 0.3, 0.4])
@pytest.mark.parametrize("whole", [False, True])
def test_the_share_of_hidden_tokens_is_the_one_asked_for(wordpiece: Tokenizer, share: float, whole: bool) -> None:
    text = f"{ENGLISH} {MIXED}" * 2
    drawn = masked(wordpiece, text, Masking(share=share, whole_words=whole, chinese=False), 1200)
    maskable = sum(number not in wordpiece.special_ids for number in drawn[0][0].tolist())
    hidden = np.mean([(targets != NO_TARGET).sum() / maskable for _, _, targets in drawn])
    assert abs(hidden - share) < 0.01 * share


def test_the_share_is_exact_on_average_for_a_text_of_few_tokens() -> None:
    counts = [choose(np.ones(3, bool), 0.15, draws(number))[0].sum() for number in range(20000)]
    assert set(counts) == {0, 1} and abs(np.mean(counts) - 0.45) < 0.012


def test_every_token_is_as_likely_to_be_hidden() -> None:
    words = np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 5])
    hidden = np.mean([choose(np.ones(10, bool), 0.3, draws(number), words)[0] for number in range(12000)], axis=0)
    assert (abs(hidden - 0.3) < 0.015).all()


def test_bert_masks_80_replaces_10_and_leaves_10_of_100(wordpiece: Tokenizer) -> None:
    kinds: Counter[str] = Counter()
    for ids, changed, targets in masked(wordpiece, f"{ENGLISH} {MIXED}", Masking(), 6000):
        for given, now in zip(ids[targets != NO_TARGET], changed[targets != NO_TARGET]):
            kinds["mask" if now == wordpiece.mask_id else "same" if now == given else "random"] += 1
    total = kinds.total()
    assert total > 30000
    assert all(abs(kinds[kind] / total - share) < 0.01 for kind, share in (("mask", 0.8), ("random", 0.1)))
    assert abs(kinds["same"] / total - 0.1) < 0.01


def test_a_random_token_may_be_any_ordinary_one_and_no_special_one(wordpiece: Tokenizer) -> None:
    seen: set[int] = set()
    for _, changed, targets in masked(wordpiece, ENGLISH, Masking(share=0.9), 3000):
        seen |= set(changed[targets != NO_TARGET].tolist())
    assert seen - {wordpiece.mask_id} == set(range(400)) - wordpiece.special_ids


def test_plain_masking_makes_all_of_them_the_mask_and_changes_nothing_else(wordpiece: Tokenizer) -> None:
    for ids, changed, targets in masked(wordpiece, ENGLISH, Masking(way="mask"), 50):
        hidden = targets != NO_TARGET
        assert (changed[hidden] == wordpiece.mask_id).all() and (targets[hidden] == ids[hidden]).all()
        assert (changed[~hidden] == ids[~hidden]).all()


def test_special_tokens_and_padding_are_never_hidden(wordpiece: Tokenizer) -> None:
    masker = Masker(wordpiece, Masking(share=0.99))
    ids = np.array([*wordpiece.encode("the [MASK] model \u0f00"), *wordpiece.encode(ENGLISH)])
    assert wordpiece.unk_id in ids
    mask = np.ones_like(ids)
    mask[-5:] = 0
    for number in range(50):
        changed, targets = masker(ids, mask, draws(number))
        special = np.isin(ids, sorted(wordpiece.special_ids)) | (mask == 0)
        assert (changed[special] == ids[special]).all() and (targets[special] == NO_TARGET).all()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"share": 0.0}, "a share of 0.0"),
        ({"share": 1.0}, "a share of 1.0"),
        ({"way": "all"}, "the way of masking is 'all'; choose one of bert, mask"),
    ],
)
def test_masking_outside_its_range_is_one_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        Masking(**values)  # type: ignore[arg-type]


def test_a_vocabulary_without_a_mask_says_so(corpus: list[str], bpe: Tokenizer) -> None:
    assert mask_of(bpe) == bpe.id("<mask>")
    with pytest.raises(InputError, match="the vocabulary has no mask token; train it with one"):
        mask_of(train_tokenizer(corpus, "bpe", 300))


# --- whole words


def spelled(tokenizer: Tokenizer, text: str, words: Words) -> list[str]:
    """The words that were found, each put together from its tokens."""
    ids = np.array(tokenizer.encode(text, add_special_tokens=False))
    numbers = words.numbers(ids)
    found: list[bytes] = [b""] * (int(numbers[-1]) + 1)
    for number, token in zip(numbers.tolist(), ids.tolist()):
        surface = tokenizer.id_bytes(token)
        found[number] += surface if not found[number] else surface.replace(b" ", b"")
    return [word.decode().strip() for word in found if word.strip()]


ENGLISH_WORDS = ["don", "'", "t", "be", "nai\u0308ve", ",", "tokenizers", "v2", "!"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_english_words_are_found_whole(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    text = "don't be nai\u0308ve, tokenizers v2!"
    expected = ENGLISH_WORDS if kind == "bpe" else [word.replace("\u0308", "") for word in ENGLISH_WORDS]
    found = spelled(tokenizer, text, Words(tokenizer, False))
    assert found == expected
    assert len(tokenizer.encode(text, add_special_tokens=False)) > len(found)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_chinese_words_are_found_whole(kind: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("rjieba")
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    found = spelled(tokenizer, "我们去公园散步，model 语言模型！", Words(tokenizer, True))
    assert found == ["我们", "去", "公园", "散步", "，", "model", "语言", "模型", "！"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_without_a_segmenter_each_chinese_character_is_a_word(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    found = spelled(tokenizer, "我们去公园散步", Words(tokenizer, False))
    assert found == list("我们去公园散步")


def test_a_token_that_begins_inside_a_word_belongs_to_it(corpus: list[str]) -> None:
    pytest.importorskip("rjieba")
    tokenizer = train_tokenizer(["们去们去" * 9], "bpe", 263)
    ids = tokenizer.encode("我们去公园")
    assert tokenizer.id_bytes(ids[3]).decode() == "们去"
    assert Words(tokenizer, True).numbers(np.array(ids)).tolist() == [0] * 4 + [1] * (len(ids) - 4)


def test_a_missing_segmenter_is_said_once_and_an_asked_one_is_an_error(
    wordpiece: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "rjieba", None)
    words = Words(wordpiece)
    assert words.name == "characters"
    ids = np.array(wordpiece.encode(MIXED))
    with pytest.warns(UserWarning, match="rjieba is not installed, so each character counts as a word"):
        words.numbers(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        words.numbers(ids)
    with pytest.raises(MissingExtra, match=re.escape('pip install "yanmo[chinese]"')):
        Words(wordpiece, True)


def test_sentencepiece_tokens_that_hold_several_words_stay_whole_and_spaces_begin_words(unigram: Tokenizer) -> None:
    numbers = Words(unigram, False).numbers(np.array(unigram.encode("the tokenizers believe", False)))
    pieces = [unigram.token(number) for number in unigram.encode("the tokenizers believe", False)]
    for place in range(1, len(pieces)):
        begins = pieces[place].startswith("▁") or pieces[place - 1] == "▁"
        assert (numbers[place] > numbers[place - 1]) == begins


def test_letters_of_scripts_without_spaces_are_words_with_their_marks(bpe: Tokenizer) -> None:
    assert spelled(bpe, "ภาษาไทย", Words(bpe, False)) == list("ภาษาไทย")
    assert spelled(bpe, "กิน", Words(bpe, False)) == ["กิ", "น"]
    assert spelled(bpe, "हिन्दी है", Words(bpe, False)) == ["हिन्दी", "है"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("way", ["bert", "mask"])
def test_words_are_hidden_whole_and_share_one_fate(kind: str, way: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("rjieba")
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    mask_id = mask_of(tokenizer)
    text = f"{ENGLISH} {MIXED} {CHINESE}"
    words = Words(tokenizer, True).numbers(np.array(tokenizer.encode(text)))
    several = 0
    for ids, changed, targets in masked(tokenizer, text, Masking(way=way, whole_words=True), 100):
        hidden = targets != NO_TARGET
        for word in range(int(words[-1]) + 1):
            place = (words == word) & ~np.isin(ids, sorted(tokenizer.special_ids))
            assert hidden[place].all() or not hidden[place].any()
            if hidden[place].all() and place.sum() > 1:
                several += 1
                assert (changed[place] == mask_id).all() or not (changed[place] == mask_id).any()
    assert several > 100


# --- spans


def test_sentinels_stand_where_the_example_of_the_paper_has_them() -> None:
    text = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week", "."]
    ids = np.arange(len(text))
    noise = np.isin(ids, [2, 3, 8])
    source, target = corrupt_spans(ids, noise, np.array([99, 98, 97]))
    assert source.tolist() == [0, 1, 99, 4, 5, 6, 7, 98, 9, 10]  # Thank you <X> me to your party <Y> week .
    assert target.tolist() == [99, 2, 3, 98, 8, 97]  # <X> for inviting <Y> last <Z>


def test_a_text_that_begins_with_noise_has_its_sentinels_in_the_same_order() -> None:
    source, target = corrupt_spans(np.arange(5), np.array([1, 1, 0, 0, 1], bool), np.array([99, 98, 97]))
    assert source.tolist() == [99, 2, 3, 98] and target.tolist() == [99, 0, 1, 98, 4]
    assert [side.tolist() for side in corrupt_spans(np.array([7]), np.array([True]), np.array([99]))] == [[99], [99, 7]]


def test_sentinels_count_down_from_the_end_of_a_t5_vocabulary(t5: Path) -> None:
    tokenizer = load_tokenizer(t5)
    marks = sentinels(tokenizer)
    assert [tokenizer.token(number) for number in marks[:3].tolist()] == [f"<extra_id_{i}>" for i in range(3)]
    assert len(marks) == 100 and (np.diff(marks) == -1).all() and frame(tokenizer) == ([], [tokenizer.eos_id])


def test_more_spans_than_sentinels_are_refused(bpe: Tokenizer) -> None:
    with pytest.raises(InputError, match="2 noise spans, the vocabulary 1 sentinels"):
        corrupt_spans(np.arange(5), np.array([0, 1, 0, 1, 0], bool), np.array([9]))
    with pytest.raises(InputError, match="no sentinels <extra_id_0>"):
        sentinels(bpe)


@pytest.mark.parametrize(("share", "length"), [(0.15, 3.0), (0.5, 3.0), (0.15, 8.0), (0.9, 2.0)])
def test_noise_has_its_share_and_its_number_of_spans(share: float, length: float) -> None:
    spans = Spans(share=share, length=length)
    for number, size in enumerate([1, 2, 3, 5, 13, 100, 512, 999]):
        noise = noise_spans(size, spans, draws(number))
        count, runs = spans.counts(size)
        assert noise.sum() == count and (np.diff(noise, prepend=False) & noise).sum() == runs
        assert size == 1 or (not noise[0] and noise[-1] and abs(count - share * size) <= 1)
    assert spans.counts(1000)[1] == min(round(1000 * share / length), round(1000 * (1 - share)))


def test_noise_differs_from_draw_to_draw_and_falls_everywhere() -> None:
    drawn = np.array([noise_spans(40, Spans(), draws(number)) for number in range(4000)])
    assert abs(drawn.mean() - 0.15) < 1e-9 and len({row.tobytes() for row in drawn}) == 165
    assert (drawn.mean(0)[1:] > 0.02).all() and not drawn[:, 0].any()


def test_infilling_hides_its_share_behind_one_mask_for_each_span() -> None:
    ids, mask_id, gone, masks, zero = np.arange(200), 999, 0, 0, 0
    for number in range(2000):
        source = infill(ids, Spans(share=0.3), mask_id, draws(number))
        kept = source[source != mask_id]
        assert (np.diff(kept) > 0).all() and len(source) <= len(ids)
        gone, masks = gone + len(ids) - len(kept), masks + int((source == mask_id).sum())
        before = np.concatenate([[-1], kept])  # a mask between two neighbours of the text hides nothing
        place = np.flatnonzero(source == mask_id)
        between = [p for p in place.tolist() if 0 < p < len(source) - 1 and source[p + 1] - source[p - 1] == 1]
        zero += len(between)
        assert before[0] == -1
    assert abs(gone / 2000 / 200 - 0.3) < 0.003
    assert abs(gone / masks - 3.0) < 0.1  # Poisson's mean
    assert 0.02 < zero / masks < 0.06  # e⁻³ of the spans are empty


def test_the_span_that_is_cut_to_the_share_may_stand_anywhere() -> None:
    ids, lengths = np.arange(40), []
    for number in range(4000):
        source = infill(ids, Spans(share=0.3), 999, draws(number))
        edges = np.flatnonzero(np.concatenate([[-1], source, [40]]) != 999)
        kept = np.concatenate([[-1], source, [40]])[edges]
        alone = [(b - a - 1) for a, b, c, d in zip(kept, kept[1:], edges, edges[1:]) if d - c == 2]  # one mask between
        if len(alone) > 1:
            lengths.append((alone[0], alone[-1]))
    first, last = np.mean(lengths, axis=0)
    assert len(lengths) > 2000 and abs(first - last) < 0.2


def test_special_tokens_part_words_and_a_mark_alone_is_a_word(wordpiece: Tokenizer, bpe: Tokenizer) -> None:
    ids = [wordpiece.id("##s"), wordpiece.sep_id, wordpiece.id("##s"), wordpiece.id("##s"), wordpiece.cls_id]
    assert Words(wordpiece, False).numbers(np.array(ids)).tolist() == [0, 1, 2, 2, 3]
    assert Words(bpe, False).numbers(np.array(bpe.encode(" \u0308a"))).tolist()[0] == 0
    assert Words(bpe, False).numbers(np.array([], np.int64)).tolist() == []


def test_infilling_short_texts_and_long_spans_loses_nothing() -> None:
    for size in range(1, 12):
        for number in range(200):
            source = infill(np.arange(size), Spans(share=0.9, length=1.0), 99, draws(number))
            kept = source[source != 99]
            assert len(source) <= size and (np.diff(kept) > 0).all() and set(kept.tolist()) <= set(range(size))


@pytest.mark.parametrize("values", [{"share": 0.0}, {"share": 1.5}, {"length": 0.5}, {"length": float("nan")}])
def test_spans_outside_their_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Spans(**values)


def test_the_frame_is_what_encode_puts_around_a_text(wordpiece: Tokenizer, bpe: Tokenizer, unigram: Tokenizer) -> None:
    assert frame(wordpiece) == ([wordpiece.cls_id], [wordpiece.sep_id])
    assert frame(bpe) == ([], []) and frame(unigram) == ([], [unigram.eos_id])


def test_words_of_a_real_chinese_text_are_those_of_the_segmenter(shared_data: Path) -> None:
    rjieba = pytest.importorskip("rjieba")
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "bert-base-chinese-vocab.txt")
    file = shared_data / "corpora" / "zh-novel-红楼梦.txt.gz"
    text = gzip.decompress(file.read_bytes()).decode()[3000:6000]
    text = "".join(letter for letter in text if tokenizer.encode(letter, False) not in ([], [tokenizer.unk_id]))
    expected = [word for run in re.findall("[\u4e00-\u9fff]+", text) for word in rjieba.cut(run)]
    found = [word for word in spelled(tokenizer, text, Words(tokenizer, True)) if re.match("[\u4e00-\u9fff]", word)]
    assert len(expected) > 1000 and found == expected
