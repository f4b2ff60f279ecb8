"""`yanmo generate`: continue a text with a model.

In: a model, a prompt (argument or standard input), sampling options. Out: the new text on standard output, as it is
written; with --json everything that is known of it.

    read_prompt     the argument, or standard input
    visible         control characters that a terminal would obey, as signs
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yanmo.errors import InputError

if TYPE_CHECKING:
    from yanmo.inference.model import Model
    from yanmo.inference.text import Generation

LENGTH, CHOICE, OUTPUT = "How long", "Which words", "Output and machine"
FORM = "What the text must be (extra: grammar)"
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}


def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, a run folder, or a hub id.")],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="The text to continue; - or nothing reads it from standard input.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="New tokens at most.", show_default="256", rich_help_panel=LENGTH)
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens at most, the prompt included.", rich_help_panel=LENGTH)
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Text that ends the writing and is left out; may be repeated.", rich_help_panel=LENGTH),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="0 always takes the likeliest token; above 0 draws, the higher the more freely.",
            show_default="0",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest.", rich_help_panel=CHOICE)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest whose mass reaches p.", rich_help_panel=CHOICE)
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Draw from those at least p times as likely as the likeliest.", rich_help_panel=CHOICE),
    ] = None,
    typical_p: Annotated[
        float | None,
        typer.Option(help="Draw from the mass p whose surprise is the expected one.", rich_help_panel=CHOICE),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: avoid tokens of prompt and text.", rich_help_panel=CHOICE)
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option(help="Above 0: avoid tokens of the text.", rich_help_panel=CHOICE)
    ] = None,
    frequency_penalty: Annotated[
        float | None, typer.Option(help="The same for each time it was written.", rich_help_panel=CHOICE)
    ] = None,
    penalty_alpha: Annotated[
        float | None,
        typer.Option(help="Contrastive search, with --top-k: avoid likeness to the text; 0.6.", rich_help_panel=CHOICE),
    ] = None,
    json_schema: Annotated[
        str, typer.Option(metavar="FILE", help="The text is JSON that keeps to this schema.", rich_help_panel=FORM)
    ] = "",
    regex: Annotated[
        str | None, typer.Option(help="The whole text matches this regular expression.", rich_help_panel=FORM)
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="The text is one of these; to be repeated.", rich_help_panel=FORM),
    ] = None,
    grammar: Annotated[
        str, typer.Option(metavar="FILE", help="The text keeps to this grammar (Lark's format).", rich_help_panel=FORM)
    ] = "",
    draft: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="A smaller model of the same vocabulary that guesses ahead: the same text, sooner.",
            rich_help_panel=OUTPUT,
        ),
    ] = "",
    suffix: Annotated[
        str | None, typer.Option(help="Write what stands between PROMPT and this (models for code).")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--in", metavar="FILE", help="Prompts, one JSON object or text a line.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write there; what it holds is not made again.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="PROMPT is a user's message; the model answers in its chat template.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same text.", rich_help_panel=CHOICE)] = None,
    n: Annotated[int, typer.Option("--n", help="Texts to write.", rich_help_panel=OUTPUT)] = 1,
    logprobs: Annotated[
        int | None,
        typer.Option(help="Show each token's log-probability and the k likeliest.", rich_help_panel=OUTPUT),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16.", show_default="as the model is stored", rich_help_panel=OUTPUT
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, mps.", show_default="a GPU where there is one", rich_help_panel=OUTPUT),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="Keep keys and values in int8, bfloat16 or float32; int8 is faster behind long prompts.",
            show_default="as they are computed",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Continue a text with a model; only the new text is printed, as it is written."""
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "max_length": max_length,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "stop": tuple(stop or ()),
        "regex": regex,
        "choices": choices or None,
    } | ({} if penalty_alpha is None else {"penalty_alpha": penalty_alpha})
    import yanmo
    from yanmo.inference.grammar import from_files

    opened: dict[str, Any] = {"dtype": dtype, "device": device, "cache": cache}
    if chat and suffix is not None:
        raise InputError("--chat and --suffix are given; a message is answered, or a gap is filled")
    if target is not None and source is None:
        raise InputError("--out needs --in, a file of prompts; of one prompt, send standard output to a file")
    if logprobs is not None and (source is not None or suffix is not None):
        raise InputError("--logprobs is about one prompt; leave it out, or --in and --suffix")
    options |= from_files(json_schema, grammar)
    if draft:
        options["draft"] = yanmo.load(draft, dtype=dtype, device=device)
    if source is not None or suffix is not None:
        options |= ({"mode": "chat"} if chat else {}) | ({} if n == 1 else {"n": n})
        _rows(model, {"prefix": prompt or "", "suffix": suffix}, source, target, options, opened, as_json)
        return
    text = read_prompt(prompt)
    writer = yanmo.load(model, **opened)
    asked: Any = text  # or the ids of a conversation, which prompts may be as well
    if chat:
        from yanmo.tokens.chat import chat_ids

        asked = chat_ids(writer.tokenizer, [{"role": "user", "content": text}])
    if as_json or n != 1 or logprobs is not None:
        texts = writer.generations([asked], n=n, logprobs=logprobs, **options)[0]
        if as_json:
            found = {"model": model, "prompt": text, "texts": [asdict(generation) for generation in texts]}
            print(json.dumps(found, indent=2, ensure_ascii=False))
        else:
            _print_texts(writer, texts)
    else:
        _print_stream(writer, asked, options)


def _rows(
    model: str,
    row: dict[str, Any],
    source: Path | None,
    target: Path | None,
    options: dict[str, Any],
    opened: dict[str, Any],
    as_json: bool,
) -> None:
    """Texts for the rows of a file, as JSON lines, or for one place between two texts; opened: see `load_predictor`."""
    from yanmo.cli.predict import predicted

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if source is not None:
        if row["suffix"] is not None or row["prefix"]:
            raise InputError("--in and a prompt are given; put the prompt into the file, or leave --in out")
        predicted("generate", model, None, source, target, given, **opened)
        return
    from yanmo.tasks.predictor import load_predictor

    predictor = load_predictor(model, task="generate", **opened)
    predictor.options |= given
    found = predictor.predict(row)
    texts = found.get("texts", [found["text"]])
    print(json.dumps(found, ensure_ascii=False) if as_json else visible("\n----\n".join(texts)))


def read_prompt(prompt: str | None) -> str:
    """The argument, or all of standard input without its last line break (`echo` adds one)."""
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise InputError("no prompt was given; write it after the model, or - to type it on standard input")
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input: byte {data[error.start]:#04x} at offset {error.start} is not UTF-8; convert the text"
        ) from None


def visible(text: str) -> str:
    """The text for standard output: on a terminal, control characters that it would obey are shown as signs."""
    return text.translate(CONTROLS) if sys.stdout.isatty() else text


def _print_stream(writer: Model, prompt: Any, options: dict[str, Any]) -> None:
    last = "\n"
    for piece in writer.stream(prompt, **options):
        sys.stdout.write(visible(piece))
        sys.stdout.flush()
        last = piece[-1]
    if last != "\n":
        print()


def _print_texts(writer: Model, texts: list[Generation]) -> None:
    """Several texts, a line of dashes between them; under each its tokens, if their probabilities were asked for."""
    for number, generation in enumerate(texts):
        if number:
            print("----")
        print(visible(generation.text.removesuffix("\n")))
        for place, logprob in enumerate(generation.logprobs or ()):
            token = writer.tokenizer.decode([generation.ids[place]], skip_special_tokens=False)
            likeliest = "  ".join(f"{other!r} {p:.3f}" for other, p in (generation.top or [])[place])
            print(f"{logprob:9.3f}  {token!r:<20}{likeliest}".rstrip())
