"""What the tests of the engine share: models of every kind, the plain reference, and what counts as the same text.

Rounding: a row of a batch is computed by other kernels than the row alone, so its logits differ by about 1e-6 of their
size. A text is then the same unless two tokens stand nearer to each other than that, or a draw nearer to the border
between two tokens. `same` allows a difference at such a place alone, where the plain reference itself shows it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.models.tiny import DECODERS, PAIRS, VARIANTS, make
from yanmo.inference.defaults import read_ends
from yanmo.inference.generate import Options, counted, generate_ids, limit_of, scored
from yanmo.inference.model import Model
from yanmo.inference.sampling import generators_for, restrict
from yanmo.models.checkpoint import load_network
from yanmo.models.config import RecurrentConfig
from yanmo.models.initial import initialise
from yanmo.models.recurrent import Recurrent

CELLS = ["rnn", "lstm", "gru"]
WRITERS = [*DECODERS, *PAIRS, *CELLS]
NEAR = 1e-4


@cache
def writer(name: str) -> Model:
    """A tiny random model of this kind, without a tokenizer."""
    if name in CELLS:
        config = RecurrentConfig(cell=name, vocab_size=61, width=20, hidden_width=28, layers=2, eos_ids=(2,))  # type: ignore[arg-type]
        network = Recurrent(config).eval()
        initialise(network, torch.Generator().manual_seed(1))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(8)  # so that it does not repeat itself
        return Model(network, None)
    with TemporaryDirectory() as folder:
        make(*VARIANTS[name], Path(folder))
        network = load_network(Path(folder))
        return Model(network, None, read_ends(Path(folder), network.config))


def plain(model: Model, prompt: list[int], options: Options) -> list[list[int]]:
    """The n texts of the plain reference, the prompt alone."""
    return _plain(model, tuple(prompt), options)


@cache
def _plain(model: Model, prompt: tuple[int, ...], options: Options) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in range(options.n)]
    with torch.inference_mode():
        for tokens in generate_ids(model.network, [list(prompt)], options, model.ends):
            for token in tokens:
                texts[token.row].append(token.id)
    return texts


def same(model: Model, prompt: list[int], options: Options, number: int, ours: list[int], theirs: list[int]) -> bool:
    """Whether two texts are equal, or differ first where rounding decides."""
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)
    if place is None:
        return ours == theirs
    pair = model.config.kind == "encoder-decoder"
    with torch.inference_mode():
        before = [model.ends.start_id, *theirs[:place]] if pair else [*prompt, *theirs[:place]]
        more: dict[str, Any] = {"decoder_ids": [before]} if pair else {}
        logits = model.logits([prompt] if pair else [before], **more)[:, -1]
        limit = limit_of(model.network, 1 if pair else len(prompt), options)
        counts = counted(model.network, prompt, model.ends)
        scores = scored(logits, [counts], [theirs[:place]], [limit], options.sampling, model.ends)
        a, b = sorted((ours[place], theirs[place]))
        if not options.sampling.draws:
            return abs(float(scores[0, a] - scores[0, b])) < NEAR
        mass = restrict(scores, options.sampling).double().softmax(-1).cumsum(-1)[0]
        generator = generators_for(options.seed, 1, options.n)[number]
        draws = [torch.rand((), generator=generator, dtype=torch.float64) for _ in range(place + 1)]
        return abs(float(mass[a] - draws[-1] * mass[-1])) < NEAR
