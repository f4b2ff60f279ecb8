"""Beam search: the likeliest whole texts instead of the likeliest next token.

    I prompts, K beams of each, B = I · K rows, V vocabulary

    Beams         how many are followed, how many are wanted, how length, what is left out and diversity count
    search_ids    prompts → for each its n best texts
    search        the same with text

Each step ranks all continuations of a prompt's beams together; those that end are weighed by their length and kept
(Sutskever et al. 2014, §3.2; Wu et al. 2016, §7). The rules of ending are those of transformers, and so are the texts.
The source of an encoder-decoder is encoded once; its keys and values stand once for each prompt while beams change
their order, and a prompt that has ended leaves the batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yanmo.errors import InputError, nearest
from yanmo.inference.generate import Ends, Options, Start, Token, scored
from yanmo.inference.sampling import Sampling
from yanmo.inference.terms import Standing, Terms, candidates, follow, forbid
from yanmo.inference.text import TextRow
from yanmo.models.beams import ROOM, BeamCache, by_index
from yanmo.models.protocol import LanguageModel

if TYPE_CHECKING:
    from yanmo.inference.model import Model

LENGTHS = ("max_new_tokens", "max_length")
BLOCK = 256  # numbers of which `largest` asks for the maximum alone


@dataclass(frozen=True, kw_only=True)
class Beams:
    """`beams` are followed and the `n` best returned, by log p / tokens^length_penalty + coverage_penalty · coverage.

    coverage: Σ over the tokens of the source of log min(1, what the text's tokens attended to it in all), the mean of
    heads and layers (Wu et al. 2016, §7): above 0 a text that leaves out a part of its source ranks lower.
    groups: the beams are shared out over so many, and a group pays `diversity` of log p for each time that a group
    before it took the same token in this step (Vijayakumar et al. 2018); a text that several find is returned once.
    patience: "first" ends with the first `beams` finished texts; "likely" once no running text scores better at its
    present length; "never" once none could at any length (exact for a penalty of 0 or more).
    """

    beams: int = 4
    n: int = 1
    length_penalty: float = 1.0
    coverage_penalty: float = 0.0
    groups: int = 1
    diversity: float = 0.5
    patience: str = "likely"

    def __post_init__(self) -> None:
        for name in ("beams", "n", "groups"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}, and must be a whole number, at least 1")
        if self.n > self.beams:
            raise InputError(f"n is {self.n}, and {self.beams} beams have no more texts; raise beams")
        if self.beams % self.groups:
            raise InputError(f"{self.beams} beams cannot be shared out over {self.groups} groups; take a multiple")
        for name, least in (("length_penalty", -math.inf), ("coverage_penalty", 0.0), ("diversity", 0.0)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < least:
                wanted = "a number" if least < 0 else "a number, 0 or more"
                raise InputError(f"{name} is {value!r}, and must be {wanted}")
        if self.patience not in ("first", "likely", "never"):
            raise InputError(f"patience is {self.patience!r}, and must be 'first', 'likely' or 'never'")


@dataclass
class Found:
    """A text: its new ids, its score (see Beams), why it ended ("stop", "length"), terms that it lacks, and log p."""

    ids: list[int]
    score: float
    finish: str
    lacks: int = 0
    logprob: float = 0.0


def _rank(found: Found) -> tuple[int, float]:
    return found.lacks, -found.score


@dataclass
class _Item:
    """One group of a prompt: the running texts with their log probabilities, best first, and the best finished ones.

    at: how far each running text has come with the terms of the prompt. covered: what each has attended to the tokens
    of the source, (K, S), and of S those that are real.
    """

    number: int
    limit: int
    terms: Terms = field(default_factory=Terms)
    at: list[Standing] = field(default_factory=lambda: [Standing()])
    running: list[tuple[float, list[int]]] = field(default_factory=lambda: [(0.0, [])])
    finished: list[Found] = field(default_factory=list)
    over: bool = False
    covered: Tensor | None = None
    real: Tensor | None = None


@torch.inference_mode()
def search_ids(
    network: LanguageModel,
    prompts: Sequence[Sequence[int]],
    beams: Beams,
    options: Options,
    ends: Ends,
    terms: Sequence[Terms] = (),
) -> list[list[Found]]:
    """The n best texts of each prompt, best first; of `options` the limits of length count alone.

    terms: of each prompt what its texts must and must not hold; a text that ends by "length" may lack some.
    """
    if options.sampling != Sampling() or options.n != 1 or options.seed is not None:
        raise InputError("beam search ranks whole texts, and has no sampling, penalties, seed or n of its own")
    each = replace(beams, beams=beams.beams // beams.groups, n=1, groups=1)
    keep = max(2, 1 + len(ends.eos_ids)) * each.beams  # so many that enough of them do not end
    if keep > network.config.output_size:
        raise InputError(f"beams is {beams.beams}, and the model has {network.config.output_size} tokens; take fewer")
    if beams.coverage_penalty and network.config.kind != "encoder-decoder":
        raise InputError("coverage_penalty is of a source, which this model has not (it is no encoder-decoder)")
    if not prompts:
        return []
    state = _start(network, [list(p) for p in prompts], beams, options, ends)
    own = list(terms) or [Terms()] * len(prompts)
    _check_forced(own, ends)
    active = [[_Item(n, limit, own[n]) for _ in range(beams.groups)] for n, limit in enumerate(state.limits)]
    found: list[list[Found]] = [[] for _ in active]
    _begin(active, state)
    logits, width = state.logits, 1
    while active:
        rows, ids, kept = [], [], []
        for place, groups in enumerate(active):
            chosen = _step(groups, (logits, state.attended), place * width, width, (keep, each, ends))
            if all(item.over for item in groups):
                found[groups[0].number] = _best(groups, beams.n)
            else:
                kept.append(place)
                rows += [row for row, _ in chosen]
                ids += [token for _, token in chosen]
        if not kept:
            break
        assert len(rows) == beams.beams * len(kept), "each prompt that goes on has all its beams"
        _reorder(state, rows, kept, len(active))
        active, width = [active[place] for place in kept], beams.beams
        logits = state.step(ids)
    return found


def _check_forced(terms: Sequence[Terms], ends: Ends) -> None:
    """What a model's folder writes into every text cannot be forbidden."""
    forced = (
        (ends.forced_first_id, "begins every text with it (forced_bos_token_id)"),
        (ends.forced_last_id, "ends every text at its limit with it (forced_eos_token_id)"),
    )
    for id, what in forced:
        if any((id,) in each.forbidden for each in terms):
            raise InputError(f"the token {id} is forbidden, and the model {what}; forbid something else")


def _start(network: LanguageModel, prompts: list[list[int]], beams: Beams, options: Options, ends: Ends) -> Start:
    """The prompts read; from here on beams share what they have in common, where that can be read (models/beams.py)."""
    watch = beams.coverage_penalty > 0
    if not by_index(network):
        return Start(network, prompts, options, ends, watch=watch)
    room = ROOM * beams.beams if len(prompts) == 1 else 0  # a single prompt stays where it was read
    state = Start(network, prompts, options, ends, watch=watch, room=room)
    windows, columns = network.config.windows, state.cache.longest + max(state.limits)  # type: ignore[union-attr]
    state.cache = BeamCache(state.cache, windows, beams.beams, columns)
    return state


def _begin(active: list[list[_Item]], state: Start) -> None:
    """What each group knows before the first token."""
    for place, groups in enumerate(active):
        for item in groups:
            item.over = item.limit == 0
            item.finished = [Found([], 0.0, "length")] if item.over else []
            if state.attended is not None:
                item.covered = torch.zeros_like(state.attended[place : place + 1])
                mask = state.memory_mask
                item.real = torch.ones_like(item.covered[0]) > 0 if mask is None else mask[place] > 0


def _best(groups: list[_Item], n: int) -> list[Found]:
    """The n best texts of all groups, each once; fewer where there are no more that are possible."""
    if not any(item.finished for item in groups):
        raise InputError(f"prompt {groups[0].number + 1} has no text without what is forbidden; forbid less")
    ranked = sorted((text for item in groups for text in item.finished), key=_rank)
    return (
        list({tuple(text.ids): text for text in reversed(ranked)}.values())[::-1][:n] if len(groups) > 1 else ranked[:n]
    )


def _step(
    groups: list[_Item],
    given: tuple[Tensor, Tensor | None],
    first: int,
    width: int,
    how: tuple[int, Beams, Ends],
) -> list[tuple[int, int]]:
    """One step of one prompt, whose rows begin at `first`: (row, id) of the texts that run on, of each group in turn.

    The rows of a group that is over run on as well, for nothing, so that all prompts have as many rows.
    """
    keep, each, ends = how
    taken: Counter[int] = Counter()
    chosen: list[tuple[int, int]] = []
    for number, item in enumerate(groups):
        begin = first + number * each.beams if width > 1 else first
        rows = slice(begin, begin + (each.beams if width > 1 else 1))
        places: list[tuple[int, int]] = []
        if not item.over:
            logits, attended = given
            if attended is not None:
                assert item.covered is not None
                item.covered = item.covered + attended[rows]
            places = _advance(item, logits[rows], keep, each, ends, taken)
        chosen += [(begin + beam, token) for beam, token in places or [(0, 0)] * each.beams]
    return chosen


def _advance(
    item: _Item, logits: Tensor, keep: int, beams: Beams, ends: Ends, taken: Counter[int]
) -> list[tuple[int, int]]:
    """One step of one group, from the logits (K, V) of its beams; returns (beam, id) of those that run on.

    taken: the tokens of the groups before it, to which its own are added.
    """
    texts, length = [text for _, text in item.running], len(item.running[0][1]) + 1
    running: list[tuple[float, list[int]]] = []
    places: list[tuple[int, int]] = []
    full = len(item.finished) == beams.beams
    new: list[Found] = []
    for rank, (score, beam, token) in enumerate(_ranked(item, logits, keep, beams, ends, taken)):
        score += beams.diversity * taken[token]
        text = [*texts[beam], token]
        finish = "stop" if token in ends.eos_ids else "length" if length >= item.limit else ""
        if finish and score > -math.inf and rank < beams.beams and not (full and beams.patience == "first"):
            lacks = len(item.terms.wanted) and item.terms.lacks(follow(item.terms, item.at[beam], token))
            whole = score / length**beams.length_penalty + _uncovered(item, beam, beams)
            new.append(Found(text, whole, finish, lacks, score))
        if not finish and len(running) < beams.beams:
            running.append((score, text))
            places.append((beam, token))
    item.finished = sorted([*item.finished, *new], key=_rank)[: beams.beams]
    item.at = [follow(item.terms, item.at[beam], token) for beam, token in places] if item.terms.wanted else []
    item.running = running
    taken.update(text[-1] for text in ([text for _, text in running] or [one.ids for one in new]))
    if item.covered is not None:
        item.covered = item.covered[[beam for beam, _ in places]]
    item.over = not running or not _can_improve(item, length, beams)
    return [] if item.over else places


def _ranked(
    item: _Item, logits: Tensor, keep: int, beams: Beams, ends: Ends, taken: Counter[int]
) -> list[tuple[float, int, int]]:
    """(log p of the text less what diversity costs, beam, id) of the best continuations, best first."""
    shares = logits.float().log_softmax(-1)  # of few rows at a time: those of all prompts would leave the cache
    texts = [text for _, text in item.running]
    none: list[list[int]] = [[] for _ in texts]
    shares = scored(shares, none, texts, [item.limit] * len(texts), Sampling(), ends)
    before = torch.tensor([score for score, _ in item.running], device=shares.device)
    total = shares + before[:, None]
    for token, count in taken.items():
        total[:, token] -= beams.diversity * count
    if item.terms:
        last = len(texts[0]) + 1 >= item.limit
        total = forbid(item.terms, total, texts, item.at, set() if last else set(ends.eos_ids))
    values, indices = largest(total.flatten(), keep)
    ranked = [(score, *divmod(index, shares.shape[1])) for score, index in zip(values.tolist(), indices.tolist())]
    return candidates(item.terms, total, item.at, ranked, beams.beams) if item.terms.wanted else ranked


def _uncovered(item: _Item, beam: int, beams: Beams) -> float:
    """What a text that ends now pays for the tokens of its source that it left out."""
    if item.covered is None:
        return 0.0
    assert item.real is not None
    return beams.coverage_penalty * float(item.covered[beam][item.real].clamp(1e-9, 1.0).log().sum())


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest of many numbers (N,), best first, and their places: those of the blocks with the largest maxima.

    torch's topk of 230,000 numbers takes 0.46 ms in one thread, four times what a maximum of each block takes.
    """
    blocks = scores[: len(scores) // BLOCK * BLOCK].view(-1, BLOCK)
    if len(blocks) < 8 * count:
        best = scores.topk(count)
        return best.values, best.indices
    chosen = blocks.amax(1).topk(count).indices
    within = torch.arange(BLOCK, device=scores.device)
    rest = torch.arange(blocks.numel(), len(scores), device=scores.device)
    places = torch.cat([(chosen[:, None] * BLOCK + within).flatten(), rest])
    best = scores[places].topk(count)
    return best.values, places[best.indices]


def _can_improve(item: _Item, length: int, beams: Beams) -> bool:
    if len(item.finished) < beams.beams:
        return True
    if beams.patience == "first":
        return False
    longest = item.limit if beams.patience == "never" and beams.length_penalty > 0 else length
    return item.running[0][0] / longest**beams.length_penalty > item.finished[-1].score


def _reorder(state: Any, rows: list[int], kept: list[int], before: int) -> None:
    """Give the beams their new order in the cache; memories move only where a prompt has left."""
    cache, device = state.cache, state.device
    memory = getattr(cache, "memory", None)
    if memory is not None:
        cache.memory = [None] * len(memory)
    if rows != list(range(cache.rows)):
        cache.select(torch.tensor(rows, dtype=torch.long, device=device))
    if memory is None:
        return
    if len(kept) < before and state.memory is not None:
        some = torch.tensor(kept, dtype=torch.long, device=device)
        memory = [pair and (pair[0][some], pair[1][some]) for pair in memory]
        state.memory = state.memory[some]
        state.memory_mask = None if state.memory_mask is None else state.memory_mask[some]
    cache.memory = memory


@dataclass(frozen=True)
class Ranked:
    """A text that beam search found; score: what it is ranked by (see Beams); logprob: log p of all its tokens."""

    text: str
    ids: list[int]
    score: float
    finish: str
    logprob: float = 0.0


def search(model: Model, prompts: Sequence[str], given: dict[str, Any]) -> list[list[Ranked]]:
    """`search_ids` with text; `given`: the settings of Beams, max_new_tokens and max_length by their names."""
    own = Beams.__dataclass_fields__
    for name in given:
        if name not in own and name not in LENGTHS:
            raise InputError(f"search has no option {name!r}{nearest(name, [*own, *LENGTHS])}")
    beams = Beams(**{k: v for k, v in given.items() if k in own})
    options = Options(**{k: v for k, v in given.items() if k in LENGTHS})
    model.check_writes()
    encoded = [model.prompt_ids(prompt) for prompt in prompts]
    groups = search_ids(model.network, encoded, beams, options, model.ends)
    primed, found = model.config.kind == "decoder", []
    for ids, group in zip(encoded, groups):
        texts = []
        for best in group:
            row = TextRow(model.tokenizer, ids, (), primed=primed)
            for id in best.ids:
                row.push(Token(0, id), is_end=id in model.ends.eos_ids, rich=False)
            row.close()
            texts.append(Ranked(row.generation().text, best.ids, best.score, best.finish, best.logprob))
        found.append(texts)
    return found
