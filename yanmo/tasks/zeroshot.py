"""Classify without training: which label a model finds likeliest, or which hypothesis a text entails.

In: a model, labels, rows with `text`. Out: rows with `label`, `score`, `scores`, as `classify` gives them.

    predict        model, settings (labels, template, calibrate, multi), rows → predictions
    by_likelihood  any model that writes: log p of the label after the text in a template, per token
    by_entailment  a model of pairs that knows entailment (NLI): the text as premise, the label in a hypothesis
    entailing      which of a model's labels is entailment, and which contradiction

A label that is likely whatever the text says wins too often. `calibrate` therefore takes off the score that it has
behind texts that say nothing (Zhao et al. 2021, §4; in logarithms, as pointwise mutual information, Holtzman et al.
2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yanmo.corpus.script import script
from yanmo.errors import InputError
from yanmo.inference.generate import pad, positions_held
from yanmo.tasks.encoding import encode_rows

if TYPE_CHECKING:
    from yanmo.inference.model import Model

TEMPLATES = {"latin": "{text}\n\nThis text is about {label}.", "han": "{text}\n\n这段文字是关于{label}的。"}
HYPOTHESES = {"latin": "This text is about {label}.", "han": "这段文字是关于{label}的。"}
NOTHING = {"latin": ("N/A", "[…]"), "han": ("无", "……")}  # texts that say nothing
AT_ONCE = 16  # pairs that are computed together
OPTIONS = ("candidates", "template", "calibrate", "multi")


def predict(model: Model, settings: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Classify each row's `text`.

    settings: candidates (labels), template (with {text} and {label}; of an NLI model the hypothesis, with {label}
    alone), calibrate, multi (each label by itself, an NLI model alone). Out: `id`, `label`, `score` and `scores`, which
    add up to 1 unless `multi`.
    """
    labels = checked(settings.get("candidates") or ())
    multi = bool(settings.get("multi"))
    entails = model.config.head == "sequence"
    score = by_entailment if entails else by_likelihood
    if multi and not entails:
        raise InputError("several labels at once need a model that knows entailment; leave multi out")
    found = []
    for row in rows:
        values = score(model, row, labels, settings)
        best = max(range(len(labels)), key=values.__getitem__)
        scores = dict(zip(labels, values))
        out: dict[str, Any] = {"id": row["id"]} if "id" in row else {}
        if multi:
            chosen = [label for label in labels if scores[label] >= 0.5]
            found.append(out | {"labels": chosen, "score": values[best], "scores": scores})
        else:
            found.append(out | {"label": labels[best], "score": values[best], "scores": scores})
    return found


def checked(labels: Sequence[str]) -> tuple[str, ...]:
    """Two labels or more, none empty or twice."""
    known = tuple(label.strip() for label in labels)
    if len(set(known)) < 2 or len(set(known)) < len(known) or not all(known):
        raise InputError(f"labels are {list(labels)}; two or more different ones are needed, e.g. sport,politics")
    return known


def _template(given: Any, usual: dict[str, str], text: str, needed: Sequence[str]) -> str:
    """The template that was given, checked, or the usual one of the text's script."""
    if not given:
        return usual.get(script(text), usual["latin"])
    if any(given.count(part) != 1 for part in needed):
        raise InputError(f"the template {given!r} needs {' and '.join(needed)}, each once")
    return str(given)


def _place(row: dict[str, Any]) -> str:
    return f"row {row.get('id')!r}"


# --- a model that writes


def by_likelihood(model: Model, row: dict[str, Any], labels: Sequence[str], settings: dict[str, Any]) -> list[float]:
    """The share of each label: softmax of log p(label | text in the template) / tokens, less that behind nothing."""
    text = row["text"]
    template = _template(settings.get("template"), TEMPLATES, text, ("{text}", "{label}"))
    scores = _likelihoods(model, text, labels, template, _place(row))
    if settings.get("calibrate"):
        empty = NOTHING.get(script(text), NOTHING["latin"])
        priors = [_likelihoods(model, nothing, labels, template, "the empty text") for nothing in empty]
        scores = scores - torch.stack(priors).logsumexp(0)
    return scores.softmax(0).tolist()


def _likelihoods(model: Model, text: str, labels: Sequence[str], template: str, place: str) -> Tensor:
    """log p of each label and what follows it in the template, per token, (labels,), in float64."""
    before, _, behind = template.partition("{label}")
    if "{text}" in behind:
        raise InputError(f"the template {template!r} has the text behind the label; write {{text}} before {{label}}")
    prompt = before.replace("{text}", text)
    room, longest = positions_held(model.network), max(len(model.prompt_ids(label + behind)) for label in labels)
    count = len(model.prompt_ids(prompt))
    if room and count + longest > room:
        raise InputError(
            f"{place} has {count} tokens in its template, the labels up to {longest}, and the model reads {room}; "
            "shorten the text"
        )
    found = model.choices(prompt, [label + behind for label in labels])
    return torch.tensor([choice.logprob / choice.tokens for choice in found], dtype=torch.float64)


# --- a model that knows entailment


def entailing(labels: Sequence[str]) -> tuple[int, int | None]:
    """(entailment, contradiction) among the names of a model's labels; the second is None where there is none."""
    names = [label.lower() for label in labels]
    yes = [n for n, name in enumerate(names) if name.startswith("entail")]
    no = [n for n, name in enumerate(names) if name.startswith(("contra", "not_entail", "not entail", "non-entail"))]
    if len(yes) != 1:
        raise InputError(
            f"the model's labels are {', '.join(labels)}, none of them entailment; take a model trained for NLI, or "
            "one that writes"
        )
    return yes[0], no[0] if no else None


def by_entailment(model: Model, row: dict[str, Any], labels: Sequence[str], settings: dict[str, Any]) -> list[float]:
    """The share of each label by the entailment of its hypothesis; with `multi` its probability against contradiction.

    A text longer than the model is read in windows, whose scores are averaged.
    """
    yes, no = entailing(getattr(model.config, "labels", ()))
    template = _template(settings.get("template"), HYPOTHESES, row["text"], ("{label}",))
    if settings.get("multi") and no is None:
        raise InputError("the model has no label for contradiction, so labels cannot be judged one by one")
    pairs = [(_place(row), row["text"], template.replace("{label}", label)) for label in labels]
    scores = _pair_scores(model, pairs)
    if settings.get("multi"):
        assert no is not None
        return scores[:, [yes, no]].softmax(-1)[:, 0].tolist()
    entailed = scores[:, yes]
    if settings.get("calibrate"):
        empty = NOTHING.get(script(row["text"]), NOTHING["latin"])
        priors = [_pair_scores(model, [(p, nothing, h) for p, _, h in pairs])[:, yes] for nothing in empty]
        entailed = entailed - torch.stack(priors).mean(0)
    return entailed.softmax(0).tolist()


def _pair_scores(model: Model, pairs: Sequence[tuple[str, str, str]]) -> Tensor:
    """The scores (pairs, labels of the model) in float64, of windows their mean."""
    room = positions_held(model.network) or 512
    encoded = encode_rows(model.tokenizer, pairs, room, room // 4, model.config)
    parts = []
    for begin in range(0, len(encoded.windows), AT_ONCE):
        chunk = encoded.windows[begin : begin + AT_ONCE]
        ids, mask = pad([ids for ids, _ in chunk])
        types = pad([kinds for _, kinds in chunk])[0] if chunk[0][1] else None
        parts.append(model.scores(ids, mask, token_types=types).double())
    whole = torch.cat(parts)
    owners = torch.from_numpy(encoded.owners)
    sums = torch.zeros(len(pairs), whole.shape[1], dtype=whole.dtype).index_add_(0, owners, whole.cpu())
    return sums / torch.bincount(owners, minlength=len(pairs))[:, None]
