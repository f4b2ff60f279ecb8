"""The n-gram model against the formula written out with dictionaries, and against damaged files."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.ngram import FALLBACK, NGram, discounts_of
from yanmo.errors import Error, FileError, InputError

BEGIN = "begin"


class Slow:
    """Interpolated modified Kneser-Ney as the formula says it: sets of n-grams, one id after the other."""

    def __init__(self, documents, order, vocab_size):
        self.order, self.vocab_size = order, vocab_size
        times = defaultdict(int)
        for document in documents:
            row = [BEGIN, *document] if document else []
            for k in range(1, order + 1):
                for i in range(len(row) - k + 1):
                    if row[i + k - 1] != BEGIN:
                        times[tuple(row[i : i + k])] += 1
        before = defaultdict(set)
        for gram in times:
            before[gram[1:]].add(gram[0])
        self.counts = {g: times[g] if len(g) == order or g[0] == BEGIN else len(before[g]) for g in times}
        self.discounts = [
            discounts_of(np.array([c for g, c in self.counts.items() if len(g) == k])) for k in range(1, order + 1)
        ]

        self.followers = defaultdict(dict)
        for gram, count in self.counts.items():
            self.followers[gram[:-1]][gram[-1]] = count

    def prob(self, word, context):
        if len(context) == 0:
            below = 1 / self.vocab_size
        else:
            below = self.prob(word, context[1:])
        followers = self.followers[context]
        total = sum(followers.values())
        if total == 0:
            return below
        d = self.discounts[len(context)]
        taken = sum(d[min(c, 3) - 1] for c in followers.values())
        count = followers.get(word, 0)
        own = max(count - d[min(count, 3) - 1], 0) if count else 0
        return own / total + taken / total * below

    def next_probs(self, beginning):
        context = tuple([BEGIN, *beginning][-(self.order - 1) :]) if self.order > 1 else ()
        return np.array([self.prob(word, context) for word in range(self.vocab_size)])


def language(n_documents=12, vocab_size=11, seed=0, skew=1.0):
    """Documents with habits, so that all orders have something to learn and counts of 1 to 4 exist."""
    random = np.random.default_rng(seed)
    table = random.dirichlet(np.full(vocab_size, 0.3 * skew), size=vocab_size)
    documents = []
    for _ in range(n_documents):
        row = [int(random.integers(vocab_size))]
        while len(row) < random.integers(2, 30):
            row.append(int(random.choice(vocab_size, p=table[row[-1]])))
        documents.append(row)
    return documents


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize(("n_documents", "seed"), [(12, 0), (12, 1), (300, 2)])
def test_every_probability_is_the_formula_s(order, n_documents, seed):
    documents = language(n_documents, seed=seed)
    model, slow = NGram.fit(documents, order=order, vocab_size=13), Slow(documents, order, 13)
    for document in [*documents[:2], [0, 12, 3, 3, 12, 12, 1], [5]]:
        for end in range(len(document)):
            np.testing.assert_allclose(model.next_probs(document[:end]), slow.next_probs(document[:end]), atol=1e-10)


def test_discounts_come_from_the_counts_and_from_the_fallback_where_they_cannot():
    documents = language(n_documents=300, vocab_size=30)
    model, slow = NGram.fit(documents, order=4, vocab_size=30), Slow(documents, 4, 30)
    np.testing.assert_allclose(model.discounts, slow.discounts, atol=1e-12)
    assert model.fallbacks == (1,)  # of 30 ids few can have one, two, three or four predecessors
    assert NGram.fit([[0, 1, 2]], order=3, vocab_size=3).fallbacks == (1, 2, 3)
    n1, n2, n3, n4 = 10, 5, 3, 2
    found = discounts_of(np.repeat([1, 2, 3, 4], [n1, n2, n3, n4]))
    assert found == pytest.approx((1 - 2 * 0.5 * 5 / 10, 2 - 3 * 0.5 * 3 / 5, 3 - 4 * 0.5 * 2 / 3))
    assert discounts_of(np.array([1, 1, 2, 3])) == FALLBACK  # nothing occurs four times
    assert discounts_of(np.repeat([1, 2, 3, 4], [1, 5, 50, 5])) == FALLBACK  # D2 would be negative


def test_log_probs_are_the_next_probs_of_every_beginning():
    documents = language(seed=3)
    for order in (1, 2, 4):
        model = NGram.fit(documents, order=order, vocab_size=12)
        for document in [documents[0], [11, 11, 0, 1, 2, 11]]:
            expected = [np.log(model.next_probs(document[:i])[id]) for i, id in enumerate(document)]
            np.testing.assert_allclose(model.log_probs(document), expected, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_distributions_sum_to_one_and_leave_nothing_out(data):
    ids = st.integers(0, 5)
    documents = data.draw(st.lists(st.lists(ids, max_size=12), min_size=1, max_size=6).filter(any))
    model = NGram.fit(documents, order=data.draw(st.integers(1, 5)), vocab_size=6)
    probs = model.next_probs(data.draw(st.lists(ids, max_size=7)))
    assert abs(probs.sum() - 1) < 1e-9
    assert (probs > 0).all()


def test_no_context_reaches_into_another_document():
    apart = NGram.fit([[0, 1], [2, 3]], order=3, vocab_size=4)
    joined = NGram.fit([[0, 1, 2, 3]], order=3, vocab_size=4)
    assert apart.next_probs([0, 1])[2] < joined.next_probs([0, 1])[2]
    assert apart.n_ngrams == 4 + 4 + 2


def test_the_beginning_of_a_document_is_a_context():
    model = NGram.fit([[3, 0, 1], [3, 1, 0], [3, 0, 0]], order=3, vocab_size=5)
    assert model.next_probs([]).argmax() == 3
    assert model.next_probs([0, 1]).argmax() != 3


def test_an_empty_document_teaches_nothing():
    documents = language()
    assert np.array_equal(
        NGram.fit([[], *documents, []], order=3, vocab_size=12).next_probs([1]),
        NGram.fit(documents, order=3, vocab_size=12).next_probs([1]),
    )
    assert NGram.fit(documents, order=3, vocab_size=12).log_probs([]).shape == (0,)


def test_ids_come_as_lists_and_as_arrays_of_any_whole_type():
    documents = language()
    model = NGram.fit((np.array(d, np.uint16) for d in documents), order=3, vocab_size=12)
    assert np.array_equal(model.log_probs(documents[0]), model.log_probs(np.array(documents[0], np.uint8)))


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="order=0"):
        NGram.fit([[1]], order=0, vocab_size=4)
    with pytest.raises(InputError, match="vocab_size=0"):
        NGram.fit([[1]], order=2, vocab_size=0)
    with pytest.raises(InputError, match="id 4: must lie between 0 and 3"):
        NGram.fit([[1, 4]], order=2, vocab_size=4)
    with pytest.raises(InputError, match="id -1"):
        NGram.fit([[1, 2]], order=2, vocab_size=4).log_probs([-1])
    with pytest.raises(InputError, match="whole numbers"):
        NGram.fit([[0.5]], order=2, vocab_size=4)
    with pytest.raises(InputError, match="no id"):
        NGram.fit([[], []], order=2, vocab_size=4)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_a_saved_model_is_the_same_model(tmp_path, order):
    documents = language()
    model = NGram.fit(documents, order=order, vocab_size=12)
    model.save(tmp_path / "a.npz")
    again = NGram.load(tmp_path / "a.npz")
    assert np.array_equal(model.log_probs(documents[1]), again.log_probs(documents[1]))
    assert again.fallbacks == model.fallbacks and again.n_ngrams == model.n_ngrams
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("ngram") / "model.npz"
    NGram.fit(language(), order=3, vocab_size=12).save(path)
    return path


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_files_end_in_one_sentence_or_in_a_distribution(saved, data):
    content = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    path = saved.parent / "damaged.npz"
    path.write_bytes(content)
    try:
        model = NGram.load(path)
    except Error as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert abs(model.next_probs([1, 2]).sum() - 1) < 1e-9


def rewritten(path, **changes):
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    np.savez(path.parent / "changed.npz", **{**arrays, **changes})
    return path.parent / "changed.npz"


@pytest.mark.parametrize(
    "changes",
    [
        {"head": np.array([1, 9, 12])},
        {"head": np.array([2, 3, 12])},
        {"head": np.array([1, 3, 2**40])},
        {"discounts": np.full((3, 3), np.nan)},
        {"discounts": np.full((3, 3), 2.0)},
        {"counts1": np.zeros(12, np.int64)},
        {"counts2": np.zeros(3, np.int64)},
        {"keys2": np.array([3, 2, 1])},
        {"keys2": np.array([], np.int64), "counts2": np.array([], np.int64)},
        {"keys3": np.array([1 << 60]), "counts3": np.array([1])},
        {"keys3": np.array([12]), "counts3": np.array([1])},
        {"keys3": np.array(["a", None], object)},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_a_file_that_lies_is_refused(saved, changes):
    with pytest.raises(FileError, match="no readable n-gram model"):
        NGram.load(rewritten(saved, **changes))


def test_a_packed_or_missing_file_is_refused(saved, tmp_path):
    with np.load(saved, allow_pickle=False) as file:
        np.savez_compressed(tmp_path / "packed.npz", **file)
    with pytest.raises(FileError, match="not stored as it was saved"):
        NGram.load(tmp_path / "packed.npz")
    with pytest.raises(FileError, match="absent.npz"):
        NGram.load(tmp_path / "absent.npz")


def test_what_was_learnt_shows_on_real_text(shared_data):
    """On Shakespeare's bytes each order helps, and the best beats what bytes alone give."""
    text = (shared_data / "corpora/tinyshakespeare.txt").read_bytes()[:200_000]
    parts = [np.frombuffer(part, np.uint8) for part in text.split(b"\n\n")]
    held_out, known = parts[::10], [part for i, part in enumerate(parts) if i % 10]
    bits = []
    for order in (1, 2, 3, 5):
        model = NGram.fit(known, order=order, vocab_size=256)
        nats = sum(model.log_probs(part).sum() for part in held_out)
        bits.append(-nats / np.log(2) / sum(map(len, held_out)))
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 4.5 and bits[-1] < 2.6
