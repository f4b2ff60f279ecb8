"""transformers' Trainer on the examples of a run, with its steps and settings: what benchmarks/tasks.py compares with.

In: a task (classify, extract), a finished run folder, a model folder, a file to write. Out: that file, with the same
figures, computed by the same metrics.

    python -m benchmarks.tasks_peer classify RUN MODEL out.json

Both sides take the same batch, rate, schedule, decay, number of steps and precision, are measured on validation as
often, and keep the checkpoint that is best there by the same figure: accuracy of labels, F1 of entities.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yanmo.files import read_json_object, write_json
from yanmo.recipe import Recipe, read_recipe
from yanmo.tasks import metrics
from yanmo.tasks.examples import Example
from yanmo.tasks.stored import read_examples


def main(task: str, run: Path, model: Path, out: Path) -> None:
    """Train, predict the examples that the run was judged by, and write the figures."""
    recipe = read_recipe((run / "recipe.toml").read_text("utf-8"))
    plan = read_json_object(run / "plan.json")
    train, valid = read_examples(run / "data" / "train.jsonl"), read_examples(run / "data" / "valid.jsonl")
    rows = {"classify": _classify, "extract": _extract}[task](recipe, plan, model, train, valid)
    figures = metrics.score(task, valid, rows)
    name, value = metrics.main(task, figures)
    low, high = metrics.main_interval(task, valid, rows)
    write_json(out, {"figures": figures, "main": {"name": name, "value": value, "low": low, "high": high}})


def _trained(
    recipe: Recipe, plan: Mapping[str, Any], network: Any, parts: tuple[list, list], collator: Any, compute: Any
) -> Any:
    """The logits of the validation part after training."""
    import transformers

    t, steps = recipe.train, int(plan["steps"])
    with tempfile.TemporaryDirectory() as place:
        settings = transformers.TrainingArguments(
            output_dir=place,
            max_steps=steps,
            per_device_train_batch_size=t.rows,
            per_device_eval_batch_size=32,
            learning_rate=t.learning_rate,
            warmup_steps=int(t.warmup * steps),
            lr_scheduler_type=t.schedule,
            weight_decay=t.weight_decay,
            adam_beta2=t.beta2,
            max_grad_norm=t.clip,
            bf16=plan["precision"] == "bfloat16",
            use_cpu=True,
            seed=t.seed,
            eval_strategy="steps",
            eval_steps=t.eval_every,
            save_strategy="steps",
            save_steps=t.eval_every,
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="good",
            greater_is_better=True,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = transformers.Trainer(
            model=network,
            args=settings,
            train_dataset=parts[0],
            eval_dataset=parts[1],
            data_collator=collator,
            compute_metrics=compute,
        )
        trainer.train()
        return trainer.predict(parts[1]).predictions


def _classify(
    recipe: Recipe, plan: Mapping[str, Any], model: Path, train: list[Example], valid: list[Example]
) -> list[dict[str, Any]]:
    import transformers

    names = sorted({label for example in train for label in example.labels or ()})
    place = {name: number for number, name in enumerate(names)}
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    parts = tuple(
        [
            dict(
                tokenizer(e.text, e.text_pair, truncation=True, max_length=recipe.train.length),
                labels=place[(e.labels or ("",))[0]],
            )
            for e in part
        ]
        for part in (train, valid)
    )
    network = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(names))
    padded = transformers.DataCollatorWithPadding(tokenizer)
    scores = _trained(recipe, plan, network, parts, padded, lambda p: {"good": float((p[0].argmax(1) == p[1]).mean())})  # type: ignore[arg-type]
    return [{"id": e.id, "label": names[int(row.argmax())]} for e, row in zip(valid, scores, strict=True)]


def _extract(
    recipe: Recipe, plan: Mapping[str, Any], model: Path, train: list[Example], valid: list[Example]
) -> list[dict[str, Any]]:
    """Tags B- and I- at the first piece of each word, as in the library's own example of this task."""
    import numpy as np
    import transformers

    types = sorted({span.type for example in train for span in example.entities or ()})
    names = ["O", *(f"{mark}-{one}" for one in types for mark in "BI")]
    place = {name: number for number, name in enumerate(names)}
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    parts = tuple([_tagged(tokenizer, e, place, recipe.train.length) for e in part] for part in (train, valid))
    held = [row.pop("words") for row in parts[1]]
    for row in parts[0]:
        row.pop("words")
    network = transformers.AutoModelForTokenClassification.from_pretrained(model, num_labels=len(names))
    padded = transformers.DataCollatorForTokenClassification(tokenizer)

    def said(scores: Any) -> list[dict[str, Any]]:
        rows = []
        for example, row, words, score in zip(valid, parts[1], held, scores, strict=True):
            firsts = np.array(row["labels"]) != -100
            tags = [names[int(n)] for n in score[: len(firsts)][firsts].argmax(1)]
            rows.append({"id": example.id, "entities": _spans(example, words, tags)})
        return rows

    def good(found: Any) -> dict[str, float]:
        return {"good": metrics.spans(valid, said(found[0]))["f1"]}

    return said(_trained(recipe, plan, network, parts, padded, good))  # type: ignore[arg-type]


def _tagged(tokenizer: Any, example: Example, place: dict[str, int], length: int) -> dict[str, Any]:
    begins = {span.start: span for span in example.entities or ()}
    words, tags, open_until, kind, at = [], [], -1, "", 0
    for word in example.text.split(" "):
        span = begins.get(at)
        if span is not None:
            tags.append(f"B-{span.type}")
            open_until, kind = span.end, span.type
        else:
            tags.append(f"I-{kind}" if at < open_until else "O")
        words.append((at, at + len(word)))
        at += len(word) + 1
    encoded = tokenizer(example.text.split(" "), is_split_into_words=True, truncation=True, max_length=length)
    labels, before = [], None
    for word in encoded.word_ids():
        labels.append(-100 if word is None or word == before else place[tags[word]])
        before = word
    seen = sorted({word for word in encoded.word_ids() if word is not None})
    return dict(encoded) | {"labels": labels, "words": [words[word] for word in seen]}


def _spans(example: Example, words: list[tuple[int, int]], tags: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for (start, end), tag in zip(words, tags, strict=True):
        mark, _, kind = tag.partition("-")
        goes_on = mark == "I" and found and found[-1]["type"] == kind and found[-1]["end"] == start - 1
        if goes_on:
            found[-1]["end"] = end
        elif mark != "O":
            found.append({"type": kind, "start": start, "end": end, "score": 1.0})
    return [span | {"text": example.text[span["start"] : span["end"]]} for span in found]


if __name__ == "__main__":
    main(sys.argv[1], *(Path(word) for word in sys.argv[2:]))  # type: ignore[call-arg]
