"""The report of a tour: its kept results → report.html.

In: a Tour whose stages are done (tour.json holds all numbers). Out: one self-contained page.

    write_report     the page, in the order of the walk
    next_steps       the commands to go on, as (what, command)
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from datetime import date
from typing import Any

from yanmo import __version__, charts, page
from yanmo.files import write_atomic
from yanmo.page import Markup
from yanmo.tour.folder import NAMES, REPORT, Tour

SHOWN_LICENSES = 6


def write_report(tour: Tour) -> dict[str, Any]:
    """Write report.html and return where it is."""
    stages = tour.stages
    best = min(NAMES, key=lambda name: stages[name]["bits_per_byte"])
    parts = [
        _headline(tour),
        page.section("Corpus", *_corpus(stages["corpus"])),
        page.section("Tokens", *_tokens(stages["tokens"])),
        page.section("Three models", *_models(stages, best)),
        page.section("What it writes", *_samples(stages["samples"])),
        page.section("Attention of one sentence", *_attention(stages["attention"])),
        page.section("What it cost", *_cost(tour)),
        page.section("Go on", *_next(tour)),
    ]
    corpus, model = stages["corpus"], stages["transformer"]
    lede = (
        f"{page.nbytes(corpus['train_bytes'] + corpus['valid_bytes'])} of text became a Transformer of "
        f"{page.number(model['parameters'])} parameters in {page.duration(tour.spent)}, on {stages['machine']['name']}."
    )
    today = date.today().isoformat()
    text = page.document(
        "A language model, ground from raw text",
        parts,
        eyebrow=f"yanmo tour · {today}",
        lede=lede,
        footer=f"Made by Yanmo {__version__} on {today}. This page is one file and loads nothing from the network.",
    )
    write_atomic(tour.out / REPORT, text)
    return {"path": REPORT, "bytes": len(text.encode())}


def _headline(tour: Tour) -> Markup:
    stages = tour.stages
    model, tokens = stages["transformer"], stages["tokens"]
    return page.cards(
        [
            (
                "Bits per byte",
                f"{model['bits_per_byte']:.3f}",
                f"Transformer, {page.nbytes(tokens['valid_bytes'])} of unseen text",
            ),
            ("Parameters", page.number(model["parameters"]), f"{model['layers']} layers of width {model['width']}"),
            ("Tokens read", page.number(model["tokens"]), f"{model['epochs']:.2f} × the training text"),
            ("Time", page.duration(tour.spent), f"of {tour.minutes:g} min asked for"),
        ]
    )


def _corpus(corpus: dict[str, Any]) -> list[object]:
    listed = [f"{name} ({count:,})" for name, count in corpus["licenses"][:SHOWN_LICENSES]]
    removed = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in corpus["removed"])
    more = len(corpus["licenses"]) - SHOWN_LICENSES
    card = {
        "Source": corpus["source"],
        "Licence": "; ".join(listed) + (f"; and {more} more" if more > 0 else ""),
        "Languages": ", ".join(f"{name} ({count:,})" for name, count in corpus["languages"]) or None,
        "Documents read": corpus["read"],
        "Left out": removed or "none",
        "Could not be read": corpus["failed"] or None,
        "For training": f"{corpus['train_documents']:,} documents, {page.nbytes(corpus['train_bytes'])}",
        "For validation": f"{corpus['valid_documents']:,} documents, {page.nbytes(corpus['valid_bytes'])}",
    }
    return [
        "A document is in one of the two sets as a whole: no model has seen any part of a validation document.",
        page.facts({name: value for name, value in card.items() if value is not None}),
        *[page.note(remark) for remark in corpus["remarks"]],
    ]


def _tokens(tokens: dict[str, Any]) -> list[object]:
    shown = page.join([page.inline_code(charts.visible(piece)) for piece in tokens["example"]], " ")
    return [
        Markup(
            f"<p>A byte-level BPE of {page.number(tokens['vocab_size'])} tokens, trained on the training documents: "
            f"one token stands for {page.strong(format(tokens['bytes_per_token'], '.2f'))} bytes of them. A sentence "
            f"of the validation set in tokens (· is a space):</p>"
        ),
        page.paragraph(shown),
        *[page.note(remark) for remark in tokens["remarks"]],
    ]


def _models(stages: dict[str, Any], best: str) -> list[object]:
    order = ["transformer", "lstm", "ngram"]
    rows = [
        [
            NAMES[name],
            f"{stages[name]['bits_per_byte']:.3f}",
            stages[name]["parameters"],
            page.duration(stages[name]["train_seconds"]),
            stages[name]["tokens"],
            f"{stages[name]['tokens'] / max(stages[name]['train_seconds'], 1e-9):,.0f}",
        ]
        for name in order
    ]
    header = ["model", "bits per byte", "parameters", "training time", "tokens read", "tokens/s"]
    budget = page.duration(stages["plan"]["training_seconds"])
    text = (
        "Bits per byte is what a model needs, on average, to write down one byte of text that it has not seen: lower "
        "is better, and it does not depend on the tokenizer. All three read the same tokens; each had "
        f"{budget} to learn."
    )
    caption = "Measured on the whole validation set after training. The n-gram counts the tokens once and is done."
    valid = [charts.Series(NAMES[name], [(p[0], p[2]) for p in stages[name]["valid"]]) for name in order[:2]]
    flat = stages["ngram"]["bits_per_byte"]
    ends = [p[0] for name in order[:2] for p in stages[name]["valid"]]
    valid.append(charts.Series(NAMES["ngram"], [(min(ends, default=0.0), flat), (max(ends, default=1.0), flat)]))
    train = [charts.Series(NAMES[name], [(p[1], p[2]) for p in stages[name]["train"]]) for name in order[:2]]
    about = (
        f"The points while training are measured on a part of the validation set "
        f"({stages['transformer']['live_tokens']:,} tokens) and scaled so that the last one is the whole set's. The "
        "n-gram has no steps; its line is its final value."
    )
    return [
        text,
        page.table(header, rows, caption=caption, best=order.index(best)),
        charts.line_chart(valid, "Validation loss", "seconds of training", "bits per byte"),
        page.note(about),
        charts.line_chart(train, "Training loss", "tokens read", "nats per token (mean of neighbouring steps)"),
        page.heading("How the models are made"),
        page.facts({NAMES[name]: stages[name]["shape"] for name in order}),
    ]


def _samples(samples: dict[str, Any]) -> list[object]:
    boxes: list[object] = [
        f"Three beginnings out of the validation set, continued (temperature {samples['temperature']:g}, top-p "
        f"{samples['top_p']:g}, seed {samples['seed']})."
    ]
    for one in samples["texts"]:
        voices = [
            ("Transformer", one["transformer"]),
            ("LSTM", one["lstm"]),
            ("How the document goes on", one["truth"]),
        ]
        boxes.append(
            page.sample(one["prompt"], [(who, text.strip("\n ")) for who, text in voices], source=one["source"])
        )
    return boxes


def _attention(attention: dict[str, Any]) -> list[object]:
    maps = [(head["name"], head["weights"]) for head in attention["heads"]]
    remark = (
        "Each row is a token and shows which tokens before it, and itself, it takes its information from. "
        f"{len(maps)} of {attention['of']} heads, the most different ones."
    )
    return [
        page.sample(attention["sentence"], [], source=attention["source"], label="Sentence"),
        charts.heat_maps(maps, attention["tokens"], "Who looks at whom", remark=remark),
    ]


def _cost(tour: Tour) -> list[object]:
    stages, machine = tour.stages, tour.stages["machine"]
    rows = []
    for name in ("transformer", "lstm"):
        result = stages[name]
        speed = result["flops"] / max(result["train_seconds"], 1e-9)
        peak = machine["peak"][result["dtype"]]
        share = speed / peak if peak else math.nan
        rows.append(
            [
                NAMES[name],
                page.duration(result["train_seconds"]),
                page.flops(result["flops"]),
                page.flops(speed, per_second=True),
                f"{share:.0%}",
                result["dtype"],
            ]
        )
    header = ["model", "training time", "work", "speed", "of the peak", "numbers"]
    peaks = ", ".join(
        f"{page.flops(value, per_second=True)} in {name}" for name, value in machine["peak"].items() if value
    )
    labels = {"machine": "measuring the machine", "plan": "measuring the models' speed"}
    times = [(labels.get(name, NAMES.get(name, name)), result["seconds"]) for name, result in stages.items()]
    known = sum(seconds for _, seconds in times)
    times.append(("starting, and this report", max(tour.spent - known, 0.0)))
    facts = {
        "Machine": f"{machine['name']}; {machine['system']}",
        "Software": f"Yanmo {__version__}, torch {machine['torch']}, Python {machine['python']}",
        "Measured peak of a matrix product": peaks,
        "Peak memory of the whole tour": page.nbytes(max(r.get("peak_memory", 0) for r in stages.values())),
        "Whole time": f"{page.duration(tour.spent)} of {tour.minutes:g} min",
    }
    method = (
        "Work is counted as `yanmo plan` counts it: 6 operations per weight and token that passes it (2 forward, 4 "
        "backward), the output layer included and the look-up of embeddings not, plus 12 · layers · width · row length "
        "for attention, of which the causal half that is hidden is a part."
    )
    return [
        page.facts(facts),
        page.table(header, rows, caption="Training"),
        page.note(method),
        charts.bar_chart([(name, round(seconds, 2)) for name, seconds in times], "Where the time went", unit="s"),
    ]


def _next(tour: Tour) -> list[object]:
    return [
        Markup(
            f"<p>The Transformer is the folder {page.inline_code(str(tour.out / 'model'))}: an ordinary Qwen3 model "
            "that transformers opens with the same logits, with a model card. These commands work from the folder in "
            "which the tour was started.</p>"
        ),
        page.commands(next_steps(tour)),
    ]


def next_steps(tour: Tour) -> Sequence[tuple[str, str]]:
    """What to do next, each with a command that works."""
    model = str(tour.out / "model")
    prompt = tour.stages["samples"]["texts"][0]["prompt"]
    first = " ".join(prompt.split()[:6])
    more = min(max(10.0, tour.minutes * 3), 1440.0)
    paths = " ".join(shlex.quote(path) for path in tour.paths)
    longer = f"{paths} --minutes {more:g} --out {shlex.quote(f'{tour.out}-{more:g}min')}".strip()
    # JSON strings are Python strings, and their double quotes leave the single ones to the shell
    folder, text = (json.dumps(value, ensure_ascii=False) for value in (model, first))
    python = f"import yanmo; print(yanmo.load({folder}).generate({text}, max_new_tokens=100, temperature=0.7))"
    foreign = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({folder})\n"
        f"model = AutoModelForCausalLM.from_pretrained({folder})\n"
        f'ids = tokenizer({text}, return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=100)[0]))"
    )
    write = f"yanmo generate {shlex.quote(model)} {shlex.quote(first)} --max-new-tokens 100 --temperature 0.7"
    steps = [
        ("Write with the model.", write),
        ("The same in Python.", f"python -c {shlex.quote(python)}"),
        ("Give it more time: the model grows with the budget.", f"yanmo tour {longer}"),
    ]
    if not tour.paths:
        yours = f"yanmo tour PATH… --out {shlex.quote(f'{tour.out}-mine')}"
        steps.append(
            ("Your own text (.txt, .md, .jsonl, .html, folders; English or Chinese): put it for PATH….", yours)
        )
    steps.append(("See what this machine can do.", "yanmo doctor"))
    steps.append(
        (
            "Open it with transformers, if that is installed (pip install transformers).",
            f"python -c {shlex.quote(foreign)}",
        )
    )
    return steps
