"""What a model in fewer bits gives and costs, measured on this machine and on a text of the user's.

In: a model, bits, a text. Out: figures before and after.

    compare      measure → pack in place → measure
    measure      one model: bytes of its weights, speed, bits per byte of the text, its likeliest token at each place
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from yanmo.errors import InputError
from yanmo.inference.calibrate import MOST_LOSS, MOST_READ, ROW, Outcome, reading_of
from yanmo.inference.generate import Ends, Options, generate_ids
from yanmo.inference.model import Model
from yanmo.inference.quantize import Bits, pack_by
from yanmo.models.packed import count_parameters, packed_bytes, packed_matrices

MAX_TOKENS, SHARE = 16_384, 4  # of the text; and where it calibrates as well, its last tokens, one in so many
PROMPT, WRITTEN, TURNS = 16, 32, 3  # tokens of a prompt, tokens written after it, times


@dataclass(frozen=True)
class Figures:
    """Of one model. speed: tokens written in a second, one text at a time; without a text no bits per byte."""

    nbytes: int
    speed: float
    bits_per_byte: float | None
    likeliest: Tensor | None

    def agreement(self, other: Figures) -> float | None:
        """The share of places at which both have the same likeliest token."""
        if self.likeliest is None or other.likeliest is None:
            return None
        return float((self.likeliest == other.likeliest).float().mean())


@dataclass(frozen=True)
class Comparison:
    """What packing changed. formats: how many matrices are in each; tokens: that were read, of `given` in the text.

    calibrated: tokens by which 4 bits were rounded, of `to_calibrate` in that text; `split`: it is the same text, of
    which what was measured is the end. outcome: what that lost, and what stayed in 8 bits for it.
    """

    parameters: int
    before: Figures
    after: Figures
    formats: dict[str, int]
    tokens: int
    given: int
    calibrated: int = 0
    to_calibrate: int = 0
    split: bool = False
    outcome: Outcome | None = None

    @property
    def agreement(self) -> float | None:
        """The share of places at which the likeliest token is still the same."""
        return self.before.agreement(self.after)


def compare(
    model: Model, bits: Bits | int = 8, text: str = "", calibrate: str = "", most_loss: float = MOST_LOSS
) -> Comparison:
    """Pack a model in place and measure it before and after; MAX_TOKENS of the text are read.

    calibrate: another text, by whose first MOST_READ tokens 4 bits are rounded, so that no more than the share
    `most_loss` is lost (calibrate.py). Without it the text is cut: its end is measured, what is before it calibrates.
    Raises InputError for a model that does not write, for what cannot be packed, and texts that are too short.
    """
    bits = Bits(weights=bits) if isinstance(bits, int) else bits
    model.check_writes()
    if model.config.kind != "decoder":
        raise InputError(f"a {model.config.kind} is packed by Model.quantize, and measured here are decoders alone")
    given = model.tokenizer.encode(text) if text else []
    if text and len(given) < 2:
        raise InputError(f"the text has {len(given)} tokens, and at least 2 are needed; give a longer one")
    shown = model.tokenizer.encode(calibrate) if calibrate else []
    ids = given[:MAX_TOKENS]
    end = min(len(given) // SHARE, MAX_TOKENS)
    split = bits.weights == 4 and not calibrate and len(given) - end >= 2 * ROW
    if split:
        shown, ids = given[:-end], given[-end:]
    reading = reading_of(shown, room_of(model), most_loss) if shown or calibrate else None
    before = measure(model, ids)
    outcome = pack_by(model.network, bits, reading)  # type: ignore[arg-type]
    after = measure(model, ids)
    found = {id(m): m.format for m in packed_matrices(model.network).values()}
    formats: dict[str, int] = dict(Counter(found.values()))
    used, count = min(len(shown), MOST_READ), count_parameters(model.network)
    return Comparison(count, before, after, formats, len(ids), len(given), used, len(shown), split, outcome)


def room_of(model: Model) -> int:
    """The positions that a model has, 0 where there is no end."""
    return getattr(model.config, "max_positions", 0) or 0


@torch.inference_mode()
def measure(model: Model, ids: list[int]) -> Figures:
    """The figures of a decoder on the ids of a text, of which the first is not predicted; see `Figures`."""
    network = model.network
    nbytes = packed_bytes(network) + sum(p.nbytes for p in network.parameters())
    if not ids:
        return Figures(nbytes, _speed(model), None, None)
    room = min(ROW, room_of(model) or ROW)
    likeliest: list[Tensor] = []
    loss = 0.0
    for start in range(0, len(ids) - 1, room):
        row = torch.tensor([ids[start : start + room + 1]])
        shares = network.logits(network.decode(row[:, :-1])).float().log_softmax(-1)[0]
        loss -= float(shares.gather(1, row[0, 1:, None]).double().sum())
        likeliest.append(shares.argmax(-1))
    n_bytes = len(model.tokenizer.decode(ids[1:], skip_special_tokens=False).encode("utf-8"))
    return Figures(nbytes, _speed(model), loss / math.log(2) / n_bytes, torch.cat(likeliest))


def _speed(model: Model) -> float:
    """Tokens in a second, the median of TURNS texts, the first one left out."""
    vocabulary, room = model.config.vocab_size, room_of(model) or 2**31
    prompt = list(itertools.islice(itertools.cycle(range(vocabulary)), min(PROMPT, max(room - WRITTEN, 1))))
    rates = []
    for _ in range(TURNS + 1):
        steps = generate_ids(model.network, [prompt], Options(max_new_tokens=min(WRITTEN, room - len(prompt))), Ends())
        next(steps)
        start = time.perf_counter()
        written = sum(1 for _ in steps)
        rates.append(written / max(time.perf_counter() - start, 1e-9))
    return statistics.median(rates[1:])
