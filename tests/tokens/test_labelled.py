"""Texts with labels in packed rows: nothing lost, nothing cut in silence, and a position can be taken up again."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import numpy as np
import pytest
import torch

from yanmo.errors import FileError, InputError
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.labelled import Document, Labelled, encode_labelled, labelled_batches, labelled_once, labelled_rows
from yanmo.tokens.tokenizer import Tokenizer
from yanmo.tokens.train import train_tokenizer


@pytest.fixture(scope="module")
def bert(corpus: list[str]) -> Tokenizer:
    return train_tokenizer(corpus, "wordpiece", 400)


def data(kind: str = "class", count: int = 101, seed: int = 0) -> Labelled:
    """Documents whose first id tells which one it is."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        ids = [1000 + number, *(rng.randrange(3, 99) for _ in range(rng.choice([0, 3, 8, 20, 50])))]
        label: Any = {"class": number % 3, "numbers": [number, -0.5]}.get(kind, [NO_TARGET, *ids[1:]])
        made.append(Document(ids, label, [place % 2 for place in range(len(ids))]))
    return Labelled.gather(made, 60, kind=kind)


def documents(batch: Any) -> list[tuple[list[int], list[int], Any]]:
    """(ids, token types, targets) of each document, row by row."""
    found = []
    for ids, targets, mask, types in zip(*batch):
        for number in range(1, int(mask.max()) + 1):
            own = mask == number
            found.append((ids[own].tolist(), types[own].tolist(), targets[own]))
    return found


@pytest.mark.parametrize("kind", ["class", "numbers", "tokens"])
def test_every_document_comes_once_per_epoch_whole_and_with_its_label(kind: str) -> None:
    labelled = data(kind)
    batches = labelled_batches(labelled, 8, seed=3)
    seen, counts = [], []
    for _ in range(13):
        batch = next(batches)
        found = documents(batch)
        counts.append(len(found))
        for ids, types, targets in found:
            document = ids[0] - 1000
            begin, end = labelled.bounds[document : document + 2]
            assert ids == labelled.ids[begin:end].tolist() and types == labelled.token_types[begin:end].tolist()
            if kind == "tokens":
                assert targets.tolist() == labelled.labels[begin:end].tolist()
            else:
                assert np.array_equal(targets[0], labelled.labels[document])
                assert (targets[1:].isnan() if kind == "numbers" else targets[1:] == NO_TARGET).all()
            seen.append(document)
        padding = batch.mask == 0
        assert not batch.ids[padding].any() and not batch.wanted[padding].any()
        if kind != "tokens":
            assert batch.n_targets == len(found)
    assert sorted(seen) == list(range(101)) and seen != sorted(seen)
    assert sorted(counts) == [5] + [8] * 12
    assert batches.epoch == 1.0


def test_epochs_and_seeds_differ_in_order() -> None:
    firsts = [documents(next(labelled_batches(data(), 8, seed=seed)))[0][0] for seed in range(4)]
    assert len({tuple(ids) for ids in firsts}) > 1
    batches = labelled_batches(data(), 101)
    one, two = next(batches), next(batches)
    assert one.ids.shape != two.ids.shape or not torch.equal(one.ids, two.ids)


def test_rows_have_little_padding() -> None:
    sizes = np.random.default_rng(0).integers(5, 50, 500)
    labelled = Labelled.gather([Document([1] * int(size), 0) for size in sizes], 50)
    batches = labelled_batches(labelled, 32)
    masks = [next(batches).mask for _ in range(15)]
    assert sum(int((mask > 0).sum()) for mask in masks) / sum(mask.numel() for mask in masks) > 0.93


@pytest.mark.parametrize("after", [0, 1, 12, 30])
def test_a_restored_position_goes_on_with_the_same_batches(after: int) -> None:
    batches = labelled_batches(data(), 8, seed=5)
    for _ in range(after):
        next(batches)
    state = json.loads(json.dumps(batches.state()))
    expected = [next(batches) for _ in range(30)]
    again = labelled_batches(data(), 8, seed=5)
    again.restore(state)
    for batch in expected:
        assert all(torch.equal(a, b) for a, b in zip(batch, next(again), strict=True))
    assert again.state() == batches.state()


def test_a_position_of_other_data_or_settings_is_refused() -> None:
    state = labelled_batches(data(), 8).state()
    for other in (labelled_batches(data(seed=1), 8), labelled_batches(data(), 9), labelled_batches(data(), 8, seed=1)):
        with pytest.raises(FileError, match="labelled texts: the saved data position has"):
            other.restore(state)
    labels = data()
    labels.labels[7] += 1
    with pytest.raises(FileError, match="has documents"):
        labelled_batches(labels, 8).restore(state)


def test_reading_once_gives_each_document_its_number() -> None:
    labelled, seen = data(), []
    for batch, numbers in labelled_once(labelled, 16):
        found = documents(batch)
        assert [ids[0] - 1000 for ids, _, _ in found] == numbers.tolist()
        seen += numbers.tolist()
    assert sorted(seen) == list(range(101))


def test_a_row_is_as_wide_as_its_documents_need() -> None:
    labelled = Labelled.gather([Document([1] * 90, 0), Document([2] * 5, 1)], 100)
    shapes = {(1,): (1, 32), (0,): (1, 96), (1, 0): (1, 96)}  # multiples of 32
    for numbers, shape in shapes.items():
        assert labelled_rows(labelled, np.array(numbers))[0].ids.shape == shape
    assert labelled_rows(labelled, np.array([0, 1]), 92)[0].ids.shape == (2, 92)
    with pytest.raises(InputError, match="rows have 80 columns, and a document 90 ids"):
        labelled_batches(labelled, 2, columns=80)
    for call in (labelled_batches, lambda *given: next(labelled_once(*given))):
        with pytest.raises(InputError, match="a batch of 0 documents is wanted"):
            call(labelled, 0)


# --- texts


def test_texts_are_encoded_as_at_inference(bert: Tokenizer) -> None:
    labelled = encode_labelled(bert, [("a b", 1), (("a", "b c"), 0)], 20)
    first, second = (labelled.ids[a:b].tolist() for a, b in zip(labelled.bounds, labelled.bounds[1:]))
    ids, types = bert.encode_pair("a", "b c")
    assert first == bert.encode("a b") and second == ids and labelled.labels.tolist() == [1, 0]
    assert labelled.token_types.tolist() == [0] * len(first) + types and any(types)


def test_a_long_text_is_cut_inside_its_frame_and_that_is_said(bert: Tokenizer) -> None:
    text = "a b c d e f g h i j"
    whole = bert.encode(text)
    with pytest.warns(UserWarning, match="1 of 2 texts are cut to 6 ids; raise the length"):
        labelled = encode_labelled(bert, [(text, 1), ("a", 0)], 6)
    assert labelled.cut == 1 and labelled.ids[:6].tolist() == [*whole[:5], bert.sep_id]


def test_the_longer_text_of_a_pair_is_cut_first(bert: Tokenizer) -> None:
    with pytest.warns(UserWarning, match="1 of 1 texts are cut"):
        labelled = encode_labelled(bert, [(("a b c d e f g h", "i j"), 1)], 9)
    assert labelled.ids.tolist() == bert.encode_pair("a b c d", "i j")[0]
    assert labelled.token_types.tolist() == bert.encode_pair("a b c d", "i j")[1]


def test_a_long_text_can_be_left_out_or_refused(bert: Tokenizer) -> None:
    examples = [("a b c d e f g h", 1), ("a", 0)]
    with pytest.warns(UserWarning, match="1 of 2 documents are left out, being longer than 6 ids"):
        labelled = encode_labelled(bert, examples, 6, too_long="skip")
    assert (len(labelled), labelled.skipped, labelled.labels.tolist()) == (1, 1, [0])
    with pytest.raises(InputError, match="document 0 has 10 ids, and at most 6 are wanted"):
        encode_labelled(bert, examples, 6, too_long="error")
    with pytest.raises(InputError, match="all 1 documents are longer than 6 ids"):
        encode_labelled(bert, examples[:1], 6, too_long="skip")
    with pytest.raises(InputError, match="a text of 10 ids cannot be cut to 2 inside its frame"):
        encode_labelled(bert, examples, 2)


@pytest.mark.parametrize(
    ("document", "kind", "sentence"),
    [
        (Document([], 0), "class", "document 1 has 0 ids and 0 token types"),
        (Document([1, 2], 0, [0]), "class", "document 1 has 2 ids and 1 token types"),
        (Document([1], "good"), "class", "document 1 has the label 'good', and one whole number is needed"),
        (Document([1], 0.5), "class", "document 1 has the label 0.5, and one whole number is needed"),
        (Document([1], True), "class", "document 1 has the label True, and one whole number is needed"),
        (Document([1], None), "numbers", "document 1 has the label None, and 2 finite numbers is needed"),
        (Document([1], [0.5]), "numbers", "document 1 has the label [0.5], and 2 finite numbers is needed"),
        (Document([1], [0.5, float("nan")]), "numbers", "and 2 finite numbers is needed"),
        (Document([1, 2], [1]), "tokens", "document 1 has the label [1], and 2 whole numbers, one for each id"),
    ],
)
def test_a_label_of_another_kind_is_one_sentence(document: Document, kind: str, sentence: str) -> None:
    sound = Document([1], {"class": 0, "numbers": [0.0, 1.0]}.get(kind, [0]))
    with pytest.raises(InputError, match=re.escape(sentence)):
        Labelled.gather([sound, document], 9, kind=kind)


def test_unknown_choices_and_no_documents_are_one_sentence(bert: Tokenizer) -> None:
    with pytest.raises(InputError, match="the kind of labels is 'words'"):
        Labelled.gather([], 9, kind="words")
    with pytest.raises(InputError, match="there are no documents"):
        Labelled.gather([], 9)
    with pytest.raises(InputError, match="too_long is 'drop'"):
        encode_labelled(bert, [], 9, too_long="drop")
    with pytest.raises(InputError, match="labels of tokens belong to ids"):
        encode_labelled(bert, [], 9, kind="tokens")
