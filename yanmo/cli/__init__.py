"""The command `yanmo`: one file per verb beside this one, each parse → one call of the package → print → exit code.

In: the command line. Out: text for people, JSON with --json, on standard output; progress and errors on standard error.

    app      the verbs, in the order in which the help shows them
    main     runs one, and turns what escapes it into an exit code:
             0 done · 1 a defect of Yanmo, with its traceback · 2 a mistake that the user can mend · 130 Ctrl-C

The verbs import their rooms inside their functions, so that `yanmo --help` imports nothing heavy; a test measures it.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from yanmo import __version__
from yanmo.cli.corpus import app as corpus
from yanmo.cli.doctor import doctor
from yanmo.cli.finetune import finetune
from yanmo.cli.generate import generate
from yanmo.cli.plan import plan
from yanmo.cli.predict import answer, classify, extract, translate
from yanmo.cli.pretrain import pretrain
from yanmo.cli.quantize import quantize
from yanmo.cli.tokenizer import app as tokenizer
from yanmo.cli.tour import tour
from yanmo.errors import Error

app = typer.Typer(
    name="yanmo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a defect shows Python's own traceback, which can be pasted into a report
    epilog="Begin with: yanmo tour",
    context_settings={"help_option_names": ["-h", "--help"]},
)

MAKE, USE, KNOW = "From text to a model", "Using a model", "Knowing the machine"

app.command(rich_help_panel=MAKE)(tour)
app.add_typer(corpus, name="corpus", rich_help_panel=MAKE)
app.add_typer(tokenizer, name="tokenizer", rich_help_panel=MAKE)
app.command(rich_help_panel=MAKE)(pretrain)
app.command(rich_help_panel=MAKE)(finetune)
app.command(rich_help_panel=USE)(generate)
app.command(rich_help_panel=USE)(classify)
app.command(rich_help_panel=USE)(extract)
app.command(rich_help_panel=USE)(answer)
app.command(rich_help_panel=USE)(translate)
app.command(rich_help_panel=USE)(quantize)
app.command(rich_help_panel=KNOW)(plan)
app.command(rich_help_panel=KNOW)(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"yanmo {__version__}")
        raise typer.Exit


@app.callback()
def _yanmo(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From raw text to a language model that works, on the computer that you have."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command line (by default this process's own) and exit with its code."""
    _speak_utf8()
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is quiet too
        code = 1
    sys.exit(code)


def _run(args: Sequence[str] | None) -> int:
    """The exit code of one command line."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app(args, prog_name="yanmo")
    except SystemExit as end:  # typer has done its part: 0, a usage error (2), or an interrupt (130)
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        raise
    except Error as error:
        print(f"yanmo: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        print("yanmo: this is a defect of Yanmo; please report it with the lines above", file=sys.stderr)
        return 1
    else:
        return 0
    if code == 130 and os.environ.get("RANK", "0") == "0":  # of several processes of torchrun one speaks
        print("\nyanmo: interrupted; run the same command again: a run goes on, all else begins anew", file=sys.stderr)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    """One line without the place in our code, which tells a user nothing."""
    print(f"yanmo: {message}", file=sys.stderr)


def _speak_utf8() -> None:
    """Write UTF-8 whatever the locale says (Windows pipes), unless PYTHONIOENCODING asks for something else."""
    if os.environ.get("PYTHONIOENCODING"):
        return
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # absent where a test or a notebook put its own stream
        if reconfigure is not None and stream.encoding.lower().replace("-", "") != "utf8":
            reconfigure(encoding="utf-8", errors=stream.errors)
