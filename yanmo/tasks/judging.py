"""How good a trained task is: its predictions, the figures with their interval, two baselines, the page.

In: a finished run and its examples. Out: RUN/predictions.jsonl, RUN/result.json, RUN/report.html, and the result; the
page of the training, which had that name, becomes RUN/training.html.

    judge      the whole of it; made once, and read again where it is there
    main_of    the figure by which models are compared
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yanmo.files import read_json_object, write_atomic, write_json
from yanmo.page import duration
from yanmo.tasks import baselines, metrics, taskreport
from yanmo.tasks.predictor import Predictor
from yanmo.tasks.preparing import Prepared
from yanmo.tasks.taskreport import Judged

RESULT, PREDICTIONS, PAGE, TRAINING = "result.json", "predictions.jsonl", "report.html", "training.html"
Say = Callable[[str, dict[str, Any]], None]


def judge(
    prepared: Prepared, predictor: Predictor, run: Path, say: Say, curve: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Judge by the test examples, or where there are none by those of validation, which chose the model: `judged_by`.

    main: name, value and 95 % interval of the figure by which models are compared; baselines: the same of each; curve:
    the same of models that learned from fewer examples (curve.py), where that was wanted.
    """
    if (run / RESULT).is_file():
        known = read_json_object(run / RESULT)
        if not curve or known.get("curve") == list(curve):
            return known
    task, gold = prepared.task, prepared.test or prepared.valid
    part = "test" if prepared.test else "validation"
    say("note", {"text": f"predicting {len(gold):,} examples of {part}"})
    begin = time.perf_counter()
    predictions = predictor.predict(predictor.rows_of(gold))
    seconds = time.perf_counter() - begin
    say("note", {"text": "running the baselines"})
    others = baselines.run(task, prepared.train, gold)
    result = {
        "task": task,
        "judged_by": part,
        "examples": len(gold),
        "predicting_seconds": seconds,
        "figures": metrics.score(task, gold, predictions),
        "main": main_of(task, gold, predictions),
        "baselines": {name: main_of(task, gold, rows) for name, rows in others.items()},
    }
    write_atomic(run / PREDICTIONS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions))
    if (run / PAGE).is_file() and not (run / TRAINING).is_file():  # after a kill, PAGE may be the task's already
        (run / PAGE).replace(run / TRAINING)
    facts = {"Predicting": f"{duration(seconds)}, {len(gold):,} examples"}
    if curve:
        result["curve"] = list(curve)
    judged = Judged(task, gold, predictions, prepared.train, others, run, facts, curve=curve)
    taskreport.write(run, judged, PAGE)
    write_json(run / RESULT, result)
    return result


def main_of(task: str, gold: Any, predictions: Any) -> dict[str, Any]:
    """The main figure of predictions: name, value, and its interval from low to high."""
    name, value = metrics.main(task, metrics.score(task, gold, predictions))
    low, high = metrics.main_interval(task, gold, predictions)
    return {"name": name, "value": value, "low": low, "high": high}
