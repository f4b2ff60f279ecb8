"""A decoder in 4 bits by a text: its matrices rounded one after the other, and those that lose too much in 8 bits.

    B rows, T columns, I inputs of a matrix

In: ids of a text, a network. Out: the layers' matrices in place, and what they lose of a part of the text that no
rounding has seen.

    reading_of      ids → rows that rounding sees, and rows that are kept for measuring
    seen_in_floats  what the rows are before the first layer, and the loss, while the network is in floats
    calibrate       layer by layer: sums_of the inputs → rounded (rounding.py); then the choice of 4 or 8 bits
    growth          losses of rows before and after → the share that is lost, and how much it may be of other text

Two streams go through the layers: what the text is in floats, and what it is behind the matrices that are packed
already. A matrix is rounded so that its outputs of the second come near to those of the first, by which it makes up
for the ones before it (asymmetric calibration, Li et al. 2025).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from yanmo.errors import InputError
from yanmo.inference.rounding import lost, meant, round_to
from yanmo.kernels.matrix import Matrix
from yanmo.models.packed import PackedLinear, siblings
from yanmo.models.transformer import Transformer

if TYPE_CHECKING:
    from yanmo.inference.quantize import Bits

ROW, ROWS, FEWEST = 256, 16, 4  # tokens of a row, rows that are read together, rows that are kept
MOST_READ = 32_768  # tokens of a text
MOST_KEPT, SHARE_KEPT = 4_096, 4  # of them at most so many, and one in so many, are kept for measuring
MOST_LOSS = 0.02
SURE = 1.645  # of a normal distribution, below which lie 95 of 100

Group = tuple[str, ...]  # layers with the same input


@dataclass(frozen=True)
class Reading:
    """Ids (B, T): by `rows` 4 bits are rounded; the loss may grow by the share `most`, which `kept` tells."""

    rows: Sequence[Tensor]
    kept: Sequence[Tensor]
    most: float = MOST_LOSS


@dataclass(frozen=True)
class Seen:
    """In floats: hidden (B, T, W) before the first layer, what else a layer is given, the loss of each kept row."""

    hidden: list[Tensor]
    given: list[list[tuple]]  # of a layer, of each of the rows
    losses: Tensor


@dataclass(frozen=True)
class Outcome:
    """What is lost of the kept rows, as shares: with all in 4 bits, and as it is now; `raised` are back in 8 bits.

    at_most: what other text of the kind loses in 95 cases of 100, which is held to `limit` as far as 8 bits can.
    """

    rounded: float
    lost: float
    at_most: float
    limit: float
    raised: list[str]


class _Enough(Exception):
    """The layer that is looked at has been reached."""


def reading_of(ids: Sequence[int], max_positions: int = 0, most: float = MOST_LOSS) -> Reading:
    """The first MOST_READ ids of a text, as rows; InputError where there are too few."""
    if len(ids) < 2 * ROW:
        raise InputError(
            f"the text to calibrate on has {len(ids)} tokens, and at least {2 * ROW} are needed; give more"
        )
    if not most >= 0:
        raise InputError(f"the most that may be lost is {most}, and must be 0 or more, e.g. 0.02")
    ids = ids[:MOST_READ]
    kept = max(min(len(ids) // SHARE_KEPT, MOST_KEPT), min(ROW, len(ids) // 2))
    room = min(ROW, max_positions or ROW)
    short = min(room, kept // FEWEST)  # one row says nothing of how rows differ
    return Reading(rows_of(ids[:-kept], room), rows_of(ids[-kept:], short), most)


def rows_of(ids: Sequence[int], room: int) -> list[Tensor]:
    """Ids as (B, room), and what is left as (1, T)."""
    whole = len(ids) // room * room
    rows = list(torch.tensor(ids[:whole]).view(-1, room).split(ROWS)) if whole else []
    return rows + ([torch.tensor([ids[whole:]])] if len(ids) - whole > 1 else [])


@torch.no_grad()
def losses_of(network: Transformer, rows: Sequence[Tensor]) -> Tensor:
    """The cross-entropy of each row, summed over what follows each of its tokens, float64."""
    losses: list[Tensor] = []
    for batch in rows:
        for hidden, row in zip(network.decode(batch[:, :-1]), batch, strict=True):  # one row's scores at a time
            shares = network.logits(hidden).float().log_softmax(-1)
            losses.append(-shares.gather(1, row[1:, None]).double().sum())
    return torch.stack(losses)


def growth(before: Tensor, after: Tensor) -> tuple[float, float]:
    """The share by which losses of rows grew, and what it is at most for other rows of the kind in 95 cases of 100."""
    change, rows = after - before, len(before)
    share = change.sum() / before.sum()
    if rows == 1:
        return float(share), float(share)
    spread = (change - share * before).std() * rows**0.5 / before.sum()
    # Student's distribution by the first terms of its expansion (Abramowitz and Stegun, 26.7.5)
    free = rows - 1
    sure = SURE + (SURE**3 + SURE) / (4 * free) + (5 * SURE**5 + 16 * SURE**3 + 3 * SURE) / (96 * free**2)
    return float(share), float(share + sure * spread)


@torch.no_grad()
def seen_in_floats(network: Transformer, reading: Reading) -> Seen:
    """Read the text with the network as it was."""
    hidden, given = _given(network, reading.rows)
    return Seen(hidden, given, losses_of(network, reading.kept))


@torch.no_grad()
def calibrate(network: Transformer, reading: Reading, seen: Seen, bits: Bits) -> Outcome:
    """Pack the layers of a decoder whose words are packed; the matrices lie anywhere in memory."""
    assert network.decoder is not None
    rounded: dict[Group, list[Matrix]] = {}
    finer: dict[Group, list[Matrix]] = {}
    floats, packed = seen.hidden, _given(network, reading.rows)[0]
    for number, (layer, given) in enumerate(zip(network.decoder.layers, seen.given, strict=True)):
        whole = copy.deepcopy(layer)
        for names in siblings(name for name, m in layer.named_modules() if type(m) is nn.Linear):
            linears = [layer.get_submodule(name) for name in names]
            sums, cross = sums_of(whole, layer, names[0], floats, packed, given)
            group = tuple(f"decoder.layers.{number}.{name}" for name in names)
            rounded[group] = [_rounded(bits, linear.weight, sums, cross) for linear in linears]  # type: ignore[arg-type]
            finer[group] = [bits.pack(linear.weight, 8) for linear in linears]  # type: ignore[arg-type]
            for name, linear, matrix in zip(group, linears, rounded[group], strict=True):
                parent, _, last = name.rpartition(".")
                made = PackedLinear(matrix, linear.bias, wide=bits.wide)  # type: ignore[arg-type]
                setattr(network.get_submodule(parent), last, made)
        floats = [whole(x, *rest) for x, rest in zip(floats, given, strict=True)]
        packed = [layer(x, *rest) for x, rest in zip(packed, given, strict=True)]
    return _choose(network, reading, seen.losses, rounded, finer)


def _choose(
    network: Transformer,
    reading: Reading,
    before: Tensor,
    rounded: dict[Group, list[Matrix]],
    finer: dict[Group, list[Matrix]],
) -> Outcome:
    """Put matrices into 8 bits until no more than `most` is lost, those first that give back most for a byte.

    What they give back is told by rows that rounding has seen, so that the choice does not flatter the kept ones.
    """
    told = reading.rows[:1]

    def lost_now() -> tuple[float, float]:
        return growth(before, losses_of(network, reading.kept))

    start, most = lost_now()
    now = start
    raised: list[str] = []
    if most > reading.most:
        gains: dict[Group, float] = {}
        coarse = float(losses_of(network, told).sum())
        for group, matrices in rounded.items():
            bytes_more = sum(m.nbytes for m in finer[group]) - sum(m.nbytes for m in matrices)
            if bytes_more > 0:  # else plain rounding gave it 8 bits
                _put(network, group, finer[group])
                gains[group] = (coarse - float(losses_of(network, told).sum())) / bytes_more
                _put(network, group, matrices)
        for group in sorted(gains, key=gains.__getitem__, reverse=True):
            _put(network, group, finer[group])
            raised += group
            now, most = lost_now()
            if most <= reading.most:
                break
    return Outcome(start, now, most, reading.most, raised)


def _put(network: Transformer, group: Group, matrices: Sequence[Matrix]) -> None:
    for name, matrix in zip(group, matrices, strict=True):
        layer = network.get_submodule(name)
        assert isinstance(layer, PackedLinear)
        layer.matrix = matrix


def _rounded(bits: Bits, weight: Tensor, sums: Tensor, cross: Tensor) -> Matrix:
    """In 4 bits by the text; plainly where that loses less on it, or where the matrix needs 8 bits anyway."""
    plain = bits.pack(weight, 4)
    if plain.format != "groups4":
        return plain
    target = meant(weight, sums, cross)
    found = round_to(target, sums)
    return found if lost(found, target, sums) < lost(plain, target, sums) else plain


def _given(network: Transformer, rows: Sequence[Tensor]) -> tuple[list[Tensor], list[list[tuple]]]:
    """Of each of the rows: hidden before the first layer, and for each layer what it is given beside its hidden."""
    assert network.decoder is not None
    hidden: list[Tensor] = []
    given: list[list[tuple]] = [[] for _ in network.decoder.layers]

    def look(number: int):
        def hook(_: nn.Module, inputs: tuple) -> None:
            given[number].append(inputs[1:])
            if number == 0:
                hidden.append(inputs[0])

        return hook

    hooks = [layer.register_forward_pre_hook(look(n)) for n, layer in enumerate(network.decoder.layers)]
    try:
        for row in rows:
            network.decode(row)
    finally:
        for each in hooks:
            each.remove()
    return hidden, given


def sums_of(
    whole: nn.Module, layer: nn.Module, name: str, floats: list[Tensor], packed: list[Tensor], given: list[tuple]
) -> tuple[Tensor, Tensor]:
    """Σ x xᵀ and Σ x' xᵀ, (I, I) in float32, of the inputs that a matrix of the layer reads of each stream."""
    sums = cross = torch.zeros(())
    for before, after, rest in zip(floats, packed, given, strict=True):
        x, then = _input(layer, name, after, rest), _input(whole, name, before, rest)
        sums, cross = sums + x.T @ x, cross + then.T @ x
    return sums, cross


def _input(layer: nn.Module, name: str, hidden: Tensor, rest: tuple) -> Tensor:
    """What a matrix of a layer reads, (B·T, I) in float32; the layer is left as soon as it is reached."""
    found: list[Tensor] = []

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].flatten(0, -2).float())
        raise _Enough

    handle = layer.get_submodule(name).register_forward_pre_hook(hook)
    try:
        layer(hidden, *rest)
    except _Enough:
        return found[0]
    finally:
        handle.remove()
    raise InputError("a layer of the network reads nothing of a text, so it cannot be calibrated on one")
