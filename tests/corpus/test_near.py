"""Near duplicates: estimates against exact similarities, planted copies, and what may not change a signature."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.groups import Writer, group
from yanmo.corpus.near import SHAPE, signatures, similarity
from yanmo.corpus.words import ngrams, tokenise
from yanmo.errors import Error, FileError, InputError

VOWELS, CONSONANTS = "aeiou", "bdfgklmnprst"


def english(number: int, seed: int) -> list[str]:
    """Words of a made language."""
    rng = np.random.default_rng(seed)
    lexicon = [
        "".join(rng.choice(list(letters)) for letters in (CONSONANTS, VOWELS, CONSONANTS, VOWELS)) for _ in range(900)
    ]
    return [lexicon[int(k)] for k in rng.integers(0, len(lexicon), number)]


def chinese(number: int, seed: int) -> list[str]:
    """Han characters, by chance."""
    return [chr(0x4E00 + int(k)) for k in np.random.default_rng(seed).integers(0, 1500, number)]


LANGUAGES = [pytest.param(english, " ", 5, id="words"), pytest.param(chinese, "", 8, id="characters")]


def changed(tokens: list[str], share: float, seed: int) -> list[str]:
    rng, found = np.random.default_rng(seed), list(tokens)
    for place in np.flatnonzero(rng.random(len(found)) < share):
        found[place] = tokens[int(rng.integers(len(tokens)))]
    return found


def exact(one: str, other: str, size: int) -> float:
    first, second = (set(ngrams(tokenise([text]).hashes, size).tolist()) for text in (one, other))
    return len(first & second) / len(first | second)


@pytest.mark.parametrize(("language", "joint", "size"), LANGUAGES)
def test_an_estimate_is_near_the_exact_similarity(language, joint: str, size: int) -> None:
    for number, share in enumerate((0.0, 0.005, 0.01, 0.03, 0.1, 1.0)):
        tokens = language(600, number)
        one, other = (joint.join(each) for each in (tokens, changed(tokens, share, 9)))
        found = similarity(*signatures([one, other]))
        assert abs(found - exact(one, other, size)) < 0.17  # 3.6 standard deviations


@pytest.mark.parametrize(("language", "joint", "size"), LANGUAGES)
def test_planted_copies_are_found_and_strangers_are_not(language, joint: str, size: int, tmp_path: Path) -> None:
    bases = [language(500, seed) for seed in range(40)]
    texts = [joint.join(tokens) for tokens in bases]
    copies = [joint.join(changed(tokens, 0.002, seed) + tokens[:3]) for seed, tokens in enumerate(bases[:20])]
    assert min(exact(*pair, size) for pair in zip(texts, copies)) > 0.85  # found with a probability of 0.988 at least
    writer = Writer(tmp_path / "all.sig")
    writer.add([f"{number:032x}" for number in range(60)], texts + copies)
    writer.close()
    groups = group([writer.path])
    assert [row for row in range(60) if not groups.keep[row]] == list(range(20))  # the copies are longer
    assert groups.of[:20].tolist() == list(range(40, 60)) and set(groups.size[:20].tolist()) == {2}
    assert groups.removed()[f"{3:032x}"] == (f"{43:032x}", 2)


def test_files_in_parts_and_in_any_order_give_the_same_texts(tmp_path: Path) -> None:
    bases = [" ".join(english(200, seed)) for seed in range(12)]
    halves = [bases, [f"{text} and" for text in bases[:6]]]
    paths = []
    for number, texts in enumerate(halves):
        writer = Writer(tmp_path / f"{number}.sig")
        writer.add([f"{number}-{k}" for k in range(len(texts))], texts)
        writer.close()
        paths.append(writer.path)
    whole, parts = group(paths), group(paths, part=4)
    turned = group(paths[::-1])
    assert whole.removed() == parts.removed() == turned.removed() and len(whole.removed()) == 6


def test_an_old_corpus_stays_as_it_is(tmp_path: Path) -> None:
    text = " ".join(english(200, 1))
    for name, held in (("old", [text, text]), ("new", [f"{text} and more", " ".join(english(200, 2))])):
        writer = Writer(tmp_path / name)
        writer.add([f"{name}{k}" for k in range(2)], held)
        writer.close()
    groups = group([tmp_path / "new"], [tmp_path / "old"])
    assert groups.keep.tolist() == [True, True, False, True]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=200), min_size=1, max_size=5))
def test_any_texts_have_signatures_that_do_not_depend_on_their_neighbours(texts: list[str]) -> None:
    together = signatures(texts)
    assert together.shape == (len(texts), SHAPE.hashes)
    assert all(np.array_equal(together[k], signatures([text])[0]) for k, text in enumerate(texts))


def test_case_and_punctuation_do_not_count() -> None:
    one = " ".join(english(60, 3))
    assert np.array_equal(*signatures([one, one.upper().replace(" ", ", ") + "!"]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("near") / "a.sig"
    writer = Writer(path)
    writer.add(["a", "b"], ["the first text of two", "中文的第二篇文章在这里"])
    writer.close()
    held = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(held) - 1))
    if data.draw(st.booleans()):
        held = held[:place]
    else:
        held[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(held)
    try:
        group([path])  # spaces of the header may change
    except Error as error:
        assert isinstance(error, FileError) and str(path) in str(error)
    else:
        assert place < 1024


def test_a_wrong_threshold_is_one_sentence() -> None:
    with pytest.raises(InputError, match="threshold=2: must lie between 0 and 1"):
        group([], threshold=2)


NOVEL = Path(__file__).resolve().parents[3] / "shared" / "data" / "corpora" / "zh-novel-西游记.txt.gz"


@pytest.mark.skipif(not NOVEL.exists(), reason="the shared data is not here")
def test_pages_of_a_chinese_novel_are_no_copies_of_each_other(tmp_path: Path) -> None:
    text = gzip.decompress(NOVEL.read_bytes()).decode()
    writer = Writer(tmp_path / "novel.sig")
    pages = [text[start : start + 800] for start in range(0, 160_000, 800)]
    writer.add([str(k) for k in range(201)], [*pages, pages[7].replace("，", "、")])
    writer.close()
    assert np.flatnonzero(~group([writer.path]).keep).tolist() in ([7], [200])
