"""What is written can be done: commands parse, links lead somewhere, both READMEs say the same, pages are fresh."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import yanmo
from benchmarks.b0 import make_model
from yanmo.cli import app, reference

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
GENERATED = {"docs/cli.md", "docs/recipes.md", "docs/benchmarks.md", "docs/results.md"}
PAGES = [*READMES, *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
INSTALL = 'pip install -c constraints.txt ".[all]" && yanmo tour'
TEST = 'pip install -c constraints.txt ".[all,test]" && pytest -q'


def pages() -> list[Path]:
    return [page for page in dict.fromkeys(PAGES) if page.relative_to(ROOT).as_posix() not in GENERATED]


def blocks(text: str) -> list[str]:
    """The code blocks of a page, fenced or indented by four columns after an empty line."""
    fenced = re.compile(r"^```[^\n]*\n(.*?)^```", re.M | re.S)
    found = [(match.start(), match[1]) for match in fenced.finditer(text)]
    rest = fenced.sub(lambda match: "." * len(match[0]), text)
    indented = re.compile(r"(?:\A|\n)\n((?: {4}[^\n]*(?:\n|\Z)|\n(?= {4}))+)")
    found += [(match.start(1), textwrap.dedent(match[1])) for match in indented.finditer(rest)]
    return [code.strip("\n") for _, code in sorted(found)]


def commands(code: str) -> Iterator[list[str]]:
    """The words of each `yanmo …` in a block of shell lines; a backslash joins lines."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\||;", line.strip().removeprefix("$ ")):
            words = shlex.split(part.partition(" # ")[0]) if re.match(r"\s*yanmo\s+[\w-]", part) else []
            if words:
                ends = [place for place, word in enumerate(words) if word in (">", ">>", "<", "2>")]
                yield words[: min(ends, default=len(words))]


def parse(words: list[str]) -> None:
    """Read a command line as typer does, every option and argument, and run nothing."""
    command, name, rest, parent = typer.main.get_command(app), words[0], words[1:], None
    while hasattr(command, "commands"):
        assert rest, f"{' '.join(words)}: a verb is missing"
        if rest[0].startswith("-"):  # `yanmo --help`
            break
        if rest[0] not in command.commands and hasattr(command, "left_out"):
            rest = [command.left_out, *rest]
        name, *rest = rest
        assert name in command.commands, f"{' '.join(words)}: there is no verb {name}"
        command = command.commands[name]
    with contextlib.suppress(typer.Exit):  # --help, --version
        command.make_context(name, rest, parent=parent)


def test_both_readmes_hold_the_same_code():
    english, chinese = (blocks(page.read_text("utf-8")) for page in READMES)
    assert english == chinese


def test_both_readmes_have_the_same_shape():
    english, chinese = (re.findall(r"^(#+) ", page.read_text("utf-8"), re.M) for page in READMES)
    assert english == chinese


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_readme_opens_with_the_two_commands(page: Path):
    code = blocks(page.read_text("utf-8"))
    assert code[0].splitlines()[0].strip() == INSTALL
    lines = [line for block in code for line in block.splitlines() if "pytest" in line]
    assert lines[0].strip() == TEST


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_line_parses(page: Path):
    for block in blocks(page.read_text("utf-8")):
        for words in commands(block):
            try:
                parse(words)
            except AssertionError:
                raise
            except Exception as error:  # typer's usage errors, whose class differs between its releases
                pytest.fail(f"{' '.join(words)}: {getattr(error, 'message', error)}")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_verb_and_option_named_in_a_sentence_exists(page: Path):
    known = {
        name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for name, command in reference.commands()
    }
    groups = {" ".join(name.split()[:2]) for name in known}
    known |= {"yanmo corpus": known["yanmo corpus build"]}  # the verb that may be left out
    for sentence in re.findall(r"`(yanmo [\w-][^`]*)`", page.read_text("utf-8")):
        words = [word for word in sentence.split() if word not in ("…", "...")]
        name = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in known), " ".join(words[:2]))
        if words[1].startswith("-"):
            continue
        assert name in known or name in groups, f"{sentence}: there is no such verb"
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", sentence):
            assert option in known.get(name, set()) | {"--help"}, f"{sentence}: there is no {option}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path):
    prose = re.sub(r"`[^`\n]*`", "", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        assert re.match(r"[a-z]+:", target) or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_in_a_page_is_python(page: Path):
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        ast.parse(code)


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_python_in_the_readme_runs(page: Path, tmp_path, monkeypatch, capsys):
    """With a tiny random model in place of each hub id, since a test reaches no hub."""
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0}
    make_model(pytest.importorskip("transformers"), tmp_path / "tiny", **sizes)
    load = yanmo.load
    monkeypatch.setattr(yanmo, "load", lambda name: load(name if Path(name).exists() else tmp_path / "tiny"))
    monkeypatch.chdir(tmp_path)
    reviews = [f"{'fine' if n % 2 else 'dull'} film {n},{'ab'[n % 2]}" for n in range(60)]
    Path("reviews.csv").write_text("\n".join(["text,label", *reviews]) + "\n")
    codes = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    assert codes
    for code in codes:
        exec(compile(code, page.name, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_references_of_command_line_and_recipes_are_fresh():
    for name, text in (("cli.md", reference.page()), ("recipes.md", reference.recipes())):
        assert (ROOT / "docs" / name).read_text("utf-8") == text, "run python -m yanmo.cli.reference"


def test_the_reference_of_recipes_says_what_each_key_takes():
    text = reference.recipes()
    assert "| `paths` | list of texts |  |" in text and "| `ema` | number ≥ 0, < 1 | `0.0` |" in text
    assert "| `bits` | `4` or `8` |" in text and "| `recompute` | true or false | `false` |" in text


def test_a_wrong_command_line_would_be_seen():
    assert [*commands("$ yanmo tour a.txt && yanmo doctor --json > x.json\nls")] == [
        ["yanmo", "tour", "a.txt"],
        ["yanmo", "doctor", "--json"],
    ]
    parse(["yanmo", "doctor", "--json"])
    with pytest.raises(AssertionError, match="there is no verb doctr"):
        parse(["yanmo", "doctr"])
    for wrong in (["doctor", "--jso"], ["generate"], ["generate", "gpt2", "--seed", "one"]):
        with pytest.raises(Exception):  # noqa: B017 (see above)
            parse(["yanmo", *wrong])


def test_blocks_are_found_fenced_and_indented():
    page = "a\n\n    one\n    two\n\nb\n\n```sh\nthree\n\n    four\n```\n\n- c\n    not code\n"
    assert blocks(page) == ["one\ntwo", "three\n\n    four"]


def test_constraints_pin_everything_and_nothing_of_one_machine():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    assert not [pin for pin in pins if re.match(r"nvidia|triton|cuda", pin)]
    assert not [version for version in pins.values() if "+" in version or "@" in version]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *(r for rows in project["optional-dependencies"].values() for r in rows)]
    names = {re.split(r"[^\w.-]", r, maxsplit=1)[0].lower().replace("_", "-") for r in asked} - {"yanmo"}
    assert names <= {pin.lower().replace("_", "-") for pin in pins}
