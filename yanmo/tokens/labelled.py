"""Texts with labels → batches of packed rows, without padding, without leaks.

In: texts or pairs of texts, each with a class, with numbers, with a class for every token, or with a span of tokens.
Out: endless `LabelBatch`es that can be taken up again (rows.py).

    LabelBatch         rows of documents, each with its label
    Labelled           documents of ids with their labels in memory; what was cut or left out is counted
    encode_labelled    texts with labels → Labelled
    labelled_batches   Labelled → batches for training: so many documents each, in a new order every epoch
    labelled_once      Labelled → every document once, with its number: for evaluation
    labelled_rows      some documents → LabelBatch

A batch is so many *documents*, as a step's examples are what learning rates are made for; how many rows they fill is a
matter of packing. A row holds several whole documents. The k-th of them has the number k in the mask (docs/design.md),
and the label of a whole document stands at its first token, so that the rows of a batch can be parted among ranks.
"""

from __future__ import annotations

import hashlib
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from yanmo.errors import InputError
from yanmo.tokens.batches import NO_TARGET
from yanmo.tokens.masking import frame
from yanmo.tokens.rows import Draws, RowBatches, pack
from yanmo.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

KINDS = ("class", "numbers", "tokens", "spans")
TOO_LONG = ("cut", "skip", "error")
CHUNK = 1024  # texts that are encoded at once
COLUMNS, STEP = 64, 32  # rows have 64 columns, or what the longest document needs, or up to 2 steps more
# few shapes, as each new one costs the library of products 60 ms of code writing, and multiples of 32, which are a
# fifth faster (docs/log.md)

Text = str | tuple[str, str]


class LabelBatch(NamedTuple):
    """Rows of documents: `ids`, `mask` and `token_types` int64 (B, T), `targets` (B, T) or (B, T, L).

    mask: 0 for padding, k for the k-th document of the row. targets: int64 classes with -100 for none, or float32
    numbers (L of them for each document) with NaN for none, or the first and last token of a span (B, T, 2), int64,
    counted from the first token of the document; of a whole document they stand at its first token.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    token_types: torch.Tensor

    @property
    def wanted(self) -> torch.Tensor:
        """Where a target stands, bool (B, T)."""
        if self.targets.is_floating_point():
            return ~self.targets.isnan().any(-1) & (self.mask > 0)
        given = self.targets != NO_TARGET
        return (given.all(-1) if given.ndim > self.mask.ndim else given) & (self.mask > 0)

    @property
    def n_targets(self) -> int:
        return int(self.wanted.sum())

    def to(self, device: torch.device | str) -> LabelBatch:
        return LabelBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Document(NamedTuple):
    """Ids with their frame, and a class, numbers, a class for each id (-100: none), or a span (first, last id).

    `token_types` says which text of a pair an id belongs to; left out, all are 0.
    """

    ids: Sequence[int]
    label: Any
    token_types: Sequence[int] = ()


@dataclass(frozen=True)
class Labelled:
    """Documents in one array each: `ids` int32 and `token_types` uint8, with the bounds of the documents.

    labels: of the kind "class" int64 (N,), "numbers" float32 (N, L), "tokens" int64, one for each id, "spans" int64
    (N, 2), the places of the first and the last id. `cut` documents were shortened to `length` ids, `skipped` ones left
    out.
    """

    kind: str
    ids: np.ndarray
    token_types: np.ndarray
    bounds: np.ndarray  # (N + 1,)
    labels: np.ndarray
    length: int
    cut: int = 0
    skipped: int = 0

    @classmethod
    def gather(cls, documents: Iterable[Document], length: int, *, kind: str = "class", skip: bool = False) -> Labelled:
        """Keep documents of at most `length` ids, frames included.

        A longer one is an InputError, or with `skip` left out, counted, and said in a warning. A document without ids,
        and a label that is not of its kind, are an InputError.
        """
        if kind not in KINDS:
            raise InputError(f"the kind of labels is {kind!r}; choose one of {', '.join(KINDS)}")
        ids, types, bounds = array("i"), array("B"), array("q", [0])
        labels: list[np.ndarray] = []
        number, skipped = -1, 0
        for number, document in enumerate(documents):
            size = len(document.ids)
            if not size or (document.token_types and len(document.token_types) != size):
                raise InputError(f"document {number} has {size} ids and {len(document.token_types)} token types")
            label = _label(document.label, kind, number, size, labels)
            if size > length:
                if not skip:
                    raise InputError(
                        f"document {number} has {size} ids, and at most {length} are wanted; raise the length, or have "
                        "long texts cut or skipped"
                    )
                skipped += 1
                continue
            ids.extend(document.ids)
            types.extend(document.token_types or bytes(size))
            bounds.append(len(ids))
            labels.append(label)
        if not labels:
            why = f"all {skipped:,} documents are longer than {length} ids; raise the length"
            raise InputError(why if skipped else "there are no documents; give at least one")
        if skipped:
            warnings.warn(
                f"{skipped:,} of {number + 1:,} documents are left out, being longer than {length} ids; raise the "
                "length, or have them cut",
                stacklevel=2,
            )
        join = np.concatenate if kind == "tokens" else np.stack
        arrays = (np.frombuffer(ids, np.int32), np.frombuffer(types, np.uint8), np.frombuffer(bounds, np.int64))
        return cls(kind, *arrays, join(labels), length, 0, skipped)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def subset(self, numbers: np.ndarray) -> Labelled:
        """The documents of these numbers, in their order."""
        places = np.concatenate([np.arange(*self.bounds[n : n + 2]) for n in numbers.tolist()])
        bounds = np.append(0, np.cumsum(self.sizes[numbers]))
        labels = self.labels[places if self.kind == "tokens" else numbers]
        kept = replace(self, ids=self.ids[places], token_types=self.token_types[places], bounds=bounds, labels=labels)
        return replace(kept, cut=0, skipped=0)

    @property
    def sizes(self) -> np.ndarray:
        """Ids of each document."""
        return np.diff(self.bounds)

    @property
    def sha256(self) -> str:
        """The fingerprint of all ids and labels; a data position is only valid for the documents that have it."""
        digest = hashlib.sha256(self.kind.encode())
        for data in (self.ids, self.token_types, self.bounds, self.labels):
            digest.update(data.tobytes())
        return digest.hexdigest()


def _label(label: Any, kind: str, number: int, size: int, before: Sequence[np.ndarray]) -> np.ndarray:
    """One label as an array; bool, text and broken numbers are refused, and so is another count than the others'."""
    shapes: dict[str, tuple[int, ...]] = {"class": (), "tokens": (size,), "spans": (2,)}
    shape = shapes.get(kind, before[0].shape if before else (-1,))
    try:
        found = np.asarray(label)
        if kind == "numbers":
            found = np.atleast_1d(found).astype(np.float32)
            fits = found.ndim == 1 and found.size > 0 and shape in ((-1,), found.shape) and np.isfinite(found).all()
        else:
            fits = found.shape == shape and (found.dtype.kind in "iu" or not found.size)
            found = found.astype(np.int64)
            fits = fits and (kind != "spans" or 0 <= found[0] <= found[1] < size)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        count = shape[0] if before and kind == "numbers" else "some"
        wanted = {"class": "one whole number", "tokens": f"{size} whole numbers, one for each id"}
        wanted["spans"] = f"a first and a last place among {size} ids"
        raise InputError(
            f"document {number} has the label {label!r:.60}, and {wanted.get(kind, f'{count} finite numbers')} "
            "is needed; correct the data"
        )
    return found


# --- texts


def encode_labelled(
    tokenizer: Tokenizer,
    examples: Iterable[tuple[Text, Any]],
    length: int,
    *,
    kind: str = "class",
    too_long: str = "cut",
) -> Labelled:
    """Encode (text, label) or ((text, text), label) as at inference, in the frame that the vocabulary has.

    A text of more than `length` ids is cut inside its frame, of a pair the longer side first; with too_long="skip" it
    is left out, with "error" it is an InputError. What was cut or left out is counted and said in a warning.
    """
    if too_long not in TOO_LONG:
        raise InputError(f"too_long is {too_long!r}; choose one of {', '.join(TOO_LONG)}")
    if kind in ("tokens", "spans"):
        raise InputError(f"labels of {kind} belong to ids, not to texts; give Labelled.gather the ids")
    cut = 0

    def documents() -> Iterator[Document]:
        nonlocal cut
        remaining = iter(examples)
        while chunk := list(islice(remaining, CHUNK)):
            singles = iter(tokenizer.encode_batch([text for text, _ in chunk if isinstance(text, str)]))
            for text, label in chunk:
                types: list[int] = []
                if isinstance(text, str):
                    ids = next(singles)
                else:
                    ids, types = tokenizer.encode_pair(*text)
                if len(ids) > length and too_long == "cut":
                    ids, types = _shortened(tokenizer, text, ids, types, length)
                    cut += 1
                yield Document(ids, label, types)

    data = Labelled.gather(documents(), length, kind=kind, skip=too_long == "skip")
    if cut:
        warnings.warn(
            f"{cut:,} of {len(data):,} texts are cut to {length} ids; raise the length to keep all of them",
            stacklevel=2,
        )
    return Labelled(**{**vars(data), "cut": cut})


def _shortened(
    tokenizer: Tokenizer, text: Text, ids: list[int], types: list[int], length: int
) -> tuple[list[int], list[int]]:
    """Leave out the last ids of the text, or of the longer text of a pair, but none of the frame."""
    if isinstance(text, str):
        before, behind = frame(tokenizer)
        spans = [(len(before), len(ids) - len(behind))]
        framed = ids[: len(before)] == before and ids[len(ids) - len(behind) :] == behind
    else:
        first, second = (tokenizer.encode(part, add_special_tokens=False) for part in text)
        starts = [place for place in range(len(ids)) if ids[place : place + len(first)] == first][:1]
        starts += [place for place in range(len(ids), -1, -1) if ids[place : place + len(second)] == second][:1]
        spans = [(start, start + len(part)) for start, part in zip(starts, (first, second))]
        framed = len(spans) == 2 and spans[0][1] <= spans[1][0]
    kept = [end - start for start, end in spans]
    for _ in range(len(ids) - length if framed else 0):
        kept[kept.index(max(kept))] -= 1
    if not framed or min(kept) < 1:
        raise InputError(
            f"a text of {len(ids)} ids cannot be cut to {length} inside its frame; raise the length, or skip such texts"
        )
    gone = set(chain.from_iterable(range(start + size, end) for (start, end), size in zip(spans, kept)))
    places = [place for place in range(len(ids)) if place not in gone]
    return [ids[place] for place in places], [types[place] for place in places] if types else []


# --- batches


def labelled_batches(data: Labelled, documents: int, *, columns: int = 0, seed: int = 0) -> RowBatches[LabelBatch]:
    """Endless batches of `documents` documents, what is left over in an epoch being a smaller one; each is read once.

    columns: of a row; 0 takes what leaves least room empty, and not much more than the longest document needs.
    """
    if documents < 1:
        raise InputError(f"a batch of {documents} documents is wanted, at least 1 is needed")
    _check_columns(data, columns)

    def layout(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        bounds = np.append(np.arange(0, len(data), documents), len(data))
        return draws.order(len(data)), bounds

    return RowBatches(
        layout,
        lambda drawn: labelled_rows(data, drawn[0][0], columns)[0],
        rows=1,  # what rows.py lays out in a row is a batch here, whose documents labelled_rows packs
        seed=seed,
        identity={"documents": data.sha256, "batch": documents, "columns": columns},
        source="labelled texts",
    )


def labelled_once(data: Labelled, documents: int, *, columns: int = 0) -> Iterator[tuple[LabelBatch, np.ndarray]]:
    """Every document once, in batches of about `documents` of like length, each with the numbers of its documents.

    The k-th document of a batch, counted row by row, is document `numbers[k]` of the data.
    """
    if documents < 1:
        raise InputError(f"a batch of {documents} documents is wanted, at least 1 is needed")
    _check_columns(data, columns)
    order = np.argsort(-data.sizes, kind="stable")  # the longest first: a lack of memory shows at once
    for begin in range(0, len(order), documents):
        yield labelled_rows(data, order[begin : begin + documents], columns)


def _check_columns(data: Labelled, columns: int) -> None:
    longest = int(data.sizes.max())
    if columns and columns < longest:
        raise InputError(f"rows have {columns} columns, and a document {longest} ids; widen the rows, or cut the texts")


def labelled_rows(data: Labelled, numbers: np.ndarray, columns: int = 0) -> tuple[LabelBatch, np.ndarray]:
    """The batch of these documents, packed, and their numbers in the order in which they stand in it, row by row."""
    import torch

    rows, width = _packed(data.sizes[numbers], columns)
    cells = np.zeros((3, len(rows), width), np.int64)
    extra = data.labels.shape[1:]
    empty = np.nan if data.kind == "numbers" else NO_TARGET
    targets = np.full((len(rows), width, *extra), empty, data.labels.dtype)
    for place, row in enumerate(rows):
        column = 0
        for mark, document in enumerate(numbers[row].tolist(), start=1):
            begin, end = data.bounds[document : document + 2]
            part = slice(column, column + int(end - begin))
            cells[0, place, part], cells[1, place, part] = data.ids[begin:end], mark
            cells[2, place, part] = data.token_types[begin:end]
            if data.kind == "tokens":
                targets[place, part] = data.labels[begin:end]
            else:
                targets[place, column] = data.labels[document]
            column = part.stop
    ids, mask, types = torch.from_numpy(cells)
    return LabelBatch(ids, torch.from_numpy(targets), mask, types), numbers[np.concatenate(rows)]


def _packed(sizes: np.ndarray, columns: int) -> tuple[list[np.ndarray], int]:
    """The documents of each row, and how many columns the rows have: those that leave least room empty."""
    if not columns and sizes.sum() <= COLUMNS:
        return [np.arange(len(sizes))], -(-int(sizes.sum()) // STEP) * STEP
    least = max(-(-int(sizes.max()) // STEP) * STEP, COLUMNS)
    found: list[tuple[list[np.ndarray], int]] = []
    for width in [columns] if columns else range(least, least + 3 * STEP, STEP):
        placed, bounds = pack(np.arange(len(sizes)), sizes[:, None], [width])
        found.append(([placed[begin:end] for begin, end in zip(bounds, bounds[1:])], width))
    return min(found, key=lambda rows_width: len(rows_width[0]) * rows_width[1])
