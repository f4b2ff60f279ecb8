"""`yanmo classify`, `extract`, `answer`, `translate`: use what was trained for a task.

In: a run or model folder, and a text, a file of rows, or standard input. Out: one JSON object a line, in order, with
the row's id; with --out a file that a second call goes on with.

    predicted    what the verbs do
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from yanmo.errors import FileError, InputError
from yanmo.files import reason

MODEL = typer.Argument(metavar="RUN", help="A run folder, a model folder, or a hub id.")
TEXT = typer.Argument(metavar="TEXT", help="A text; without one and --in, lines of standard input.", show_default=False)
IN = typer.Option("--in", metavar="FILE", help="JSON objects or texts, one a line.")
OUT = typer.Option("--out", "-o", metavar="FILE", help="Write there; what it holds already is not made again.")

ZERO = "Without training"
Source = Annotated[Path | None, IN]
Target = Annotated[Path | None, OUT]


def classify(
    run: Annotated[str, MODEL],
    text: Annotated[str | None, TEXT] = None,
    pair: Annotated[str | None, typer.Option(help="The second text of a pair.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels a,b,c for a model that was not trained on them.", rich_help_panel=ZERO)
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Where {text} and {label} stand; of an NLI model {label}.", rich_help_panel=ZERO)
    ] = None,
    calibrate: Annotated[
        bool, typer.Option(help="Take off what a label has whatever the text.", rich_help_panel=ZERO)
    ] = False,
    multi: Annotated[bool, typer.Option(help="Judge each label by itself (NLI).", rich_help_panel=ZERO)] = False,
    source: Source = None,
    target: Target = None,
) -> None:
    """Say what a text is: label, score, and the scores of all labels."""
    row = None if text is None else {"text": text} | ({} if pair is None else {"text_pair": pair})
    if labels is None:
        if template or calibrate or multi:
            raise InputError("--template, --calibrate and --multi are about --labels; name the labels there")
        predicted("classify", run, row, source, target)
        return
    if pair is not None:
        raise InputError("--labels judges one text; leave --pair out")
    options = {"candidates": labels.split(","), "template": template, "calibrate": calibrate, "multi": multi}
    predicted("zeroshot", run, row, source, target, options)


def extract(
    run: Annotated[str, MODEL],
    text: Annotated[str | None, TEXT] = None,
    source: Source = None,
    target: Target = None,
) -> None:
    """Find entities at their exact characters, and relations between them."""
    predicted("extract", run, None if text is None else {"text": text}, source, target)


def answer(
    run: Annotated[str, MODEL],
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", show_default=False)] = None,
    context: Annotated[str | None, typer.Option(help="The passage that answers it.")] = None,
    documents: Annotated[
        list[Path] | None,
        typer.Option(help="Files or folders that answer; may be repeated. RUN may be an instruct model then."),
    ] = None,
    passages: Annotated[int | None, typer.Option(help="Passages of documents to read.", show_default="5")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Of an instruct model: tokens to write at most.", show_default="256")
    ] = None,
    source: Source = None,
    target: Target = None,
) -> None:
    """Answer a question by the words of a passage or of documents, or say that there is no answer in them."""
    if documents:
        if context is not None:
            raise InputError("--context and --documents are given; a question is answered from one of them")
        wished = {"passages": passages, "max_new_tokens": max_new_tokens}
        _from_documents(run, documents, question, source, target, {k: v for k, v in wished.items() if v is not None})
        return
    if passages is not None or max_new_tokens is not None:
        raise InputError("--passages and --max-new-tokens are about --documents; name files or folders there")
    if question is not None and context is None:
        raise InputError("a question needs the passage that answers it; give --context, or --documents")
    row = None if question is None else {"question": question, "context": context}
    predicted("answer", run, row, source, target)


def _from_documents(
    run: str,
    documents: list[Path],
    question: str | None,
    source: Path | None,
    target: Path | None,
    options: dict[str, Any],
) -> None:
    """Answers from documents; what could not be read of them is said on standard error."""
    _check(question, source, target)
    from yanmo.tasks.documents import open_answerer

    answerer = open_answerer(run, documents, **options)
    library = answerer.library
    files = len({passage.source for passage in library.passages})
    print(f"yanmo: {len(library.passages):,} passages of {files:,} files", file=sys.stderr)
    for problem in library.report.problems:
        print(f"yanmo: {problem['what']}", file=sys.stderr)
    _put(answerer, None if question is None else {"question": question}, source, target)


def translate(
    run: Annotated[str, MODEL],
    text: Annotated[str | None, TEXT] = None,
    beams: Annotated[int | None, typer.Option(help="Texts that are followed.", show_default="5")] = None,
    nbest: Annotated[int | None, typer.Option(help="Translations of each text.", show_default="1")] = None,
    glossary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Lines of source, a tab, target; !target avoids a word.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="A term that could not be kept is an error.")] = False,
    length_penalty: Annotated[float | None, typer.Option(help="Above 1: longer.", show_default="1")] = None,
    coverage_penalty: Annotated[
        float | None, typer.Option(help="Above 0: leave nothing of the source out.", show_default="0")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="LANGUAGE", help="Of the text: en, de_DE.")] = None,
    to: Annotated[str | None, typer.Option(metavar="LANGUAGE", help="To write, of a model with codes.")] = None,
    source: Source = None,
    target: Target = None,
) -> None:
    """Translate a text, sentence by sentence; paragraphs, lists and indentation stay."""
    options = {
        "beams": beams,
        "nbest": nbest,
        "glossary": None if glossary is None else str(glossary),
        "strict": strict or None,
        "length_penalty": length_penalty,
        "coverage_penalty": coverage_penalty,
        "source_language": from_,
        "target_language": to,
    }
    given = {name: value for name, value in options.items() if value is not None}
    predicted("translate", run, None if text is None else {"text": text}, source, target, given)


def predicted(
    task: str,
    run: str,
    row: dict[str, Any] | None,
    source: Path | None,
    target: Path | None,
    options: dict[str, Any] | None = None,
    **opened: Any,
) -> None:
    """Predict one row, a file, or standard input, with `options` of this use; opened: see `load_predictor`."""
    _check(row, source, target)
    from yanmo.tasks.predictor import load_predictor

    predictor = load_predictor(run, task=task, **opened)
    predictor.options |= options or {}
    _put(predictor, row, source, target)


def _check(row: Any, source: Path | None, target: Path | None) -> None:
    if row is not None and (source is not None or target is not None):
        raise InputError("a text and --in or --out are given; give a text alone, or a file with --in")
    if target is not None and source is None:
        raise InputError("--out needs --in, a file whose rows can be counted when it goes on")


def _put(predictor: Any, row: dict[str, Any] | None, source: Path | None, target: Path | None) -> None:
    """Write what `predictor` (anything with `stream`) says of a row, a file or standard input."""
    from yanmo.tasks.streams import predict_file, predict_lines, read_rows

    if source is not None and target is not None:
        done = predict_file(predictor, source, target)
        if done:
            print(f"yanmo: went on after {done:,} rows that {target} had", file=sys.stderr)
        return
    with contextlib.ExitStack() as opened:
        if row is not None:
            rows = iter([row])
        elif source is not None:
            try:
                lines = opened.enter_context(open(source, encoding="utf-8-sig", newline=""))
            except OSError as error:
                raise FileError(f"{source}: cannot be read ({reason(error)}); check the path") from None
            rows = read_rows(lines, str(source))
        else:
            rows = read_rows(sys.stdin, "standard input")
        for line in predict_lines(predictor, rows):
            print(line, flush=True)
