"""[objective] of a recipe → what a run learns from, what it minimises, and how it is measured.

In: a recipe, the tokenizer, and the run's token shards or its files of records. Out: a `Work`.

    of_text        causal, masked, spans, infilling: from token shards
    of_records     seq2seq, chat, dpo, orpo: from files of records, split into training and validation
    taught         the same with a teacher beside it

Everything is made anew at each start from the same inputs, so a run that goes on meets the same batches.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from yanmo.corpus.records import Read, Record, field, read_records, split_records
from yanmo.errors import ConfigError, InputError
from yanmo.hub import resolve
from yanmo.models.checkpoint import Network, load_network
from yanmo.models.lowrank import selected
from yanmo.models.sketch import shape_for
from yanmo.recipe import ObjectiveSection, Recipe
from yanmo.tokens.batches import PackedBatches, validation_batches
from yanmo.tokens.chats import Chats, chat_batches, gather_chats
from yanmo.tokens.conversations import conversation, preference
from yanmo.tokens.corrupted import infilling_batches, masked_batches, span_batches
from yanmo.tokens.masking import Masking, Spans
from yanmo.tokens.pairs import Pairs, encode_pairs, pair_batches
from yanmo.tokens.preferences import Preferences, gather_preferences, preference_batches
from yanmo.tokens.shards import TokenShards, open_shards
from yanmo.tokens.tokenizer import Tokenizer, load_tokenizer
from yanmo.training.distill import distillation
from yanmo.training.distributed import ALONE, Ranks
from yanmo.training.language import decoded, encoded, masked, seq2seq, translated
from yanmo.training.objectives import causal
from yanmo.training.preference import answer_scores, dpo, frozen, orpo, preferred
from yanmo.training.spread import evaluate

Objective = Callable[[Any, Any], tuple[Tensor, int]]
Measure = Callable[[Network, bool], dict[str, float]]
SIDES: dict[str, Callable[[Any, Any], Tensor]] = {"decoder": decoded, "encoder": encoded, "encoder-decoder": translated}


@dataclass(frozen=True)
class Work:
    """What a run learns.

    batches() gives a new iterator that can be taken up again; measure(network, whole) scores the validation set, or
    the part of it that is measured during training; `facts` say how much there is to learn from.
    """

    batches: Callable[[], Any]
    objective: Objective
    measure: Measure
    facts: dict[str, Any]


# --- from token shards


def of_text(
    recipe: Recipe, tokens: Path, tokenizer: Tokenizer, decoder_start_id: int | None, ranks: Ranks = ALONE
) -> Work:
    """The work of an objective on running text; `tokens` holds train, valid and live."""
    train = recipe.train
    shards = {name: open_shards(tokens / name, tokenizer.hash) for name in ("train", "valid", "live")}
    make = functools.partial(_text_batches, recipe, tokenizer, decoder_start_id)
    objective: Objective = {"causal": causal, "masked": masked}.get(recipe.objective.kind, seq2seq)

    def measure(network: Network, whole: bool) -> dict[str, float]:
        part = shards["valid" if whole else "live"]
        if recipe.objective.kind == "causal":
            score = evaluate(ranks, network, validation_batches(part, train.rows, train.length), part.n_bytes)
            return {"valid_loss": score.loss, "bits_per_byte": score.bits_per_byte, "valid_tokens": score.tokens}
        score = evaluate(ranks, network, make(part, 1).once(rows=train.rows), objective=objective)
        return {"valid_loss": score.loss, "valid_tokens": score.tokens}

    known = shards["train"]
    facts = {"train_tokens": known.n_tokens, "train_bytes": known.n_bytes, "valid_tokens": shards["valid"].n_tokens}
    return Work(lambda: make(known, train.rows), objective, measure, facts)


def _text_batches(
    recipe: Recipe, tokenizer: Tokenizer, decoder_start_id: int | None, shards: TokenShards, rows: int
) -> Any:
    """Endless batches of one part of the text; validation has rows of its own, so `rows` may be 1 there."""
    o, length, seed = recipe.objective, recipe.train.length, recipe.train.seed
    if o.kind == "causal":
        return PackedBatches(shards, rows, length, seed)
    if o.kind == "masked":
        masking = Masking(share=o.share or 0.15, way=o.way, whole_words=o.whole_words)
        return masked_batches(shards, tokenizer, rows, length, masking=masking, seed=seed)
    assert decoder_start_id is not None, "an encoder-decoder has a start id"
    make, share = (span_batches, 0.15) if o.kind == "spans" else (infilling_batches, 0.3)
    spans = Spans(share=o.share or share, length=o.span)
    return make(shards, tokenizer, rows, length, start_id=decoder_start_id, spans=spans, seed=seed)


# --- from records


def of_records(
    recipe: Recipe,
    tokenizer: Tokenizer,
    network: Network,
    reference: Callable[[], Network] | None = None,
    ranks: Ranks = ALONE,
) -> Work:
    """The work of an objective on records; `reference()` loads the model that dpo starts from, for a full fine-tuning.

    With an adapter the reference is the network without it, and nothing is loaded twice.
    """
    read: list[Read] = []
    train, valid = _records(recipe, read)
    start_id = getattr(network.config, "decoder_start_id", None)
    gathered = [_gathered(recipe.objective, part, tokenizer, recipe.train.length) for part in (train, valid)]
    make = functools.partial(_record_batches, start_id, recipe.train.seed)
    objective, known = _of_records(recipe.objective, network, reference)
    rows = recipe.train.rows

    def measure(network: Network, whole: bool) -> dict[str, float]:
        score = evaluate(ranks, network, make(gathered[1], 1).once(rows=rows), objective=objective)
        found = {"valid_loss": score.loss, "valid_targets": score.tokens}
        if isinstance(gathered[1], Preferences):
            right = functools.partial(preferred, reference=known)
            found["accuracy"] = evaluate(ranks, network, make(gathered[1], 1).once(rows=rows), objective=right).loss
        return found

    files = [dataclasses.asdict(file) for file in read]
    tokens = int(sum(map(_size, gathered[:1])))
    facts = {"train_records": len(train), "valid_records": len(valid), "train_tokens": tokens, "files": files}
    return Work(lambda: make(gathered[0], rows), objective, measure, facts)


def _records(recipe: Recipe, read: list[Read]) -> tuple[list[Record], list[Record]]:
    data = recipe.data
    train = list(read_records(data.paths, read, columns=data.columns))
    if not data.valid:
        return split_records(train, data.valid_share, recipe.train.seed)
    valid = list(read_records(data.valid, read, columns=data.columns))
    for name, part in (("paths", train), ("valid", valid)):
        if not part:
            raise InputError(f"data.{name} holds no records; name files with at least one")
    return train, valid


def _gathered(
    o: ObjectiveSection, records: Sequence[Record], tokenizer: Tokenizer, length: int
) -> Pairs | Chats | Preferences:
    if o.kind == "seq2seq":
        names = o.source or "source", o.target or "target"
        texts = ((o.prefix + _text(record, names[0]), _text(record, names[1])) for record in records)
        return encode_pairs(tokenizer, texts, length, length, too_long=_whole(o))
    if o.kind == "chat":
        talks = (_placed(record, lambda v: conversation(v, o.source, o.target)) for record in records)
        return gather_chats(tokenizer, talks, length, too_long=o.too_long, turns=o.turns)
    preferences = (_placed(record, preference) for record in records)
    return gather_preferences(tokenizer, preferences, length, too_long=_whole(o))


def _whole(o: ObjectiveSection) -> str:
    if o.too_long == "cut":
        raise ConfigError(
            f"objective.too_long is 'cut', and {o.kind} has nothing that may be cut; choose skip or error"
        )
    return o.too_long


def _placed(record: Record, read: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read(record.values)
    except InputError as error:
        raise InputError(f"{record.place}: {error}") from None


def _text(record: Record, name: str) -> str:
    value = field(record, name)
    if not isinstance(value, str):
        raise InputError(f"{record.place}: {name} is {type(value).__name__}, a text is needed")
    return value


def _record_batches(start_id: int | None, seed: int, gathered: Pairs | Chats | Preferences, rows: int) -> Any:
    if isinstance(gathered, Pairs):
        assert start_id is not None, "an encoder-decoder has a start id"
        return pair_batches(gathered, rows, start_id=start_id, seed=seed)
    if isinstance(gathered, Chats):
        return chat_batches(gathered, rows, seed=seed)
    return preference_batches(gathered, rows, seed=seed)


def _size(gathered: Pairs | Chats | Preferences) -> int:
    if isinstance(gathered, Preferences):
        return sum(len(ids) for pair in gathered.pairs for ids, _ in pair)
    return sum(map(len, gathered.sides)) if isinstance(gathered, Pairs) else len(gathered.ids)


def _of_records(
    o: ObjectiveSection, network: Network, reference: Callable[[], Network] | None
) -> tuple[Objective, Callable[[Any], Any] | None]:
    """The objective, and of dpo the reference that it needs."""
    if o.kind == "seq2seq":
        return functools.partial(seq2seq, smoothing=o.smoothing), None
    if o.kind == "chat":
        return causal, None
    if o.kind == "orpo":
        return orpo(weight=o.weight), None

    def without_adapter(batch: Any) -> Any:
        with selected(network, None):
            return answer_scores(network, batch)[0]

    known = without_adapter if reference is None else frozen(reference())
    return dpo(known, beta=o.beta, smoothing=o.smoothing), known


# --- with a teacher


def taught(work: Work, o: ObjectiveSection, tokenizer: Tokenizer, place: Callable[[Network], Network]) -> Work:
    """The same work with what `objective.teacher` thinks as a part of the loss; `place` puts it on a device."""
    if o.teacher is None:
        return work
    folder = resolve(o.teacher)
    if load_tokenizer(folder).hash != tokenizer.hash:
        raise ConfigError(
            f"objective.teacher {o.teacher} has another tokenizer than the student, so their tokens cannot be "
            f"compared; train the student with tokenizer.path={o.teacher}"
        )
    teacher = place(load_network(folder))
    hidden = SIDES[shape_for(o.kind)]
    objective = distillation(teacher, temperature=o.temperature, weight=o.teacher_weight, hidden=hidden)
    return dataclasses.replace(work, objective=objective)


def first_batch(work: Work) -> Any:
    """One batch of an iterator of its own, so that the batches that train have not moved."""
    batches: Iterator[Any] = work.batches()
    return next(itertools.islice(batches, 1))
