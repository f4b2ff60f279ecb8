"""The rules of docs/design.md and of the style, over every file: directions of imports, sizes, what is never done."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "yanmo"

BASE = {"errors", "files"}
ROOMS = ["corpus", "tokens", "models", "training", "inference", "tasks"]  # text flows from left to right
NATIVE = {"kernels"}  # beside models: these and the rooms to their right may import it
BESIDE = {"runs", "recipe", "machine", "rates", "system", "hub", "hubfiles", "gguf"}
BESIDE |= {"page", "charts", "runpage", "nativetext"}
# beside the rooms, and standing on another file there
PARTS = {"hub": {"hubfiles"}, "machine": {"rates", "system"}, "charts": {"page"}, "runpage": {"page", "charts", "runs"}}
DOORS = {"__init__", "__main__", "plan", "tour", "pretrain", "finetune", "cli"}
TENSORS = {
    "kernels",
    "models",
    "training",
    "inference",
    "tasks",
    "tour",
    "pretrain",
    "finetune",
}  # the command line imports these inside its verbs

MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 400, 60, 8

# "file::function": (date, reason). The parameters of a verb of the command line are its options, and are not counted.
LONGER: dict[str, tuple[str, str]] = {}
MORE_PARAMETERS: dict[str, tuple[str, str]] = {
    "inference/model.py::load": ("2026-11-25", "the first door of all: what people say of a model, by its own name"),
}

PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def place(path: Path) -> str:
    """The room, or the file's own name where it stands in no room."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (module, imported name) of every import in a file, those inside functions too."""
    for item in ast.walk(node):
        if isinstance(item, ast.Import):
            yield from ((alias.name, "") for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, "imports are absolute"
            yield from ((item.module or "", alias.name) for alias in item.names)


def imported_places(path: Path) -> set[str]:
    """The rooms and files of this package that a file imports from."""
    found = set()
    for module, imported in imports(tree(path)):
        if module == "yanmo":
            found |= {imported or "__init__"} - {"__version__"}
        elif module.startswith("yanmo."):
            found.add(module.split(".")[1])
    return found


def may_import(here: str) -> set[str]:
    if here in BASE:
        return BASE
    if here in BESIDE:
        return BASE | PARTS.get(here, set()) | {here}
    if here in NATIVE:
        return BASE | {"system"} | NATIVE
    if here in ROOMS:
        native = NATIVE if ROOMS.index(here) >= ROOMS.index("models") else set()
        return BASE | BESIDE | native | set(ROOMS[: ROOMS.index(here) + 1])
    return BASE | BESIDE | NATIVE | set(ROOMS) | DOORS


def is_verb(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return place(path) == "cli" and not node.name.startswith("_")


def lines(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0].lineno if is_verb(path, node) else node.lineno
    return (node.end_lineno or 0) - first + 1


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{name(path)}::{node.name}", node


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of every text file that git holds or would hold."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout")
    for file in filter(None, listed.split("\0")):
        try:
            yield file, (ROOT / file).read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue


def test_every_file_has_a_place():
    known = BASE | set(ROOMS) | NATIVE | BESIDE | DOORS
    assert {place(path) for path in files()} <= known, "docs/design.md says where a file belongs"


def test_text_flows_from_left_to_right():
    wrong = {
        f"{name(path)} imports {other}"
        for path in files()
        for other in imported_places(path)
        if other not in may_import(place(path))
    }
    assert not wrong


def test_torch_is_imported_where_tensors_live_and_transformers_nowhere():
    wrong = set()
    for path in files():
        top_level = {module.split(".")[0] for item in tree(path).body for module, _ in _own_imports(item)}
        anywhere = {module.split(".")[0] for module, _ in imports(tree(path))}
        if (
            "torch" in top_level
            and place(path) not in TENSORS
            and name(path) not in {"tokens/batches.py", "plan/measure.py"}
        ):
            wrong.add(f"{name(path)} imports torch at import")
        if place(path) in {"corpus", *BASE} and "torch" in anywhere:
            wrong.add(f"{name(path)} imports torch")
        if "transformers" in anywhere:
            wrong.add(f"{name(path)} imports transformers")
    assert not wrong


def _own_imports(item: ast.stmt) -> Iterator[tuple[str, str]]:
    """The imports that run when the file is imported: not those for type checkers, not those inside functions."""
    if isinstance(item, (ast.Import, ast.ImportFrom)):
        yield from imports(item)
    elif isinstance(item, ast.Try) or (isinstance(item, ast.If) and ast.unparse(item.test) != "TYPE_CHECKING"):
        for inner in (*item.body, *item.orelse):
            yield from _own_imports(inner)


def test_a_file_is_a_page_of_thought():
    long = {name(path): n for path in files() if (n := len(path.read_text("utf-8").splitlines())) > MAX_FILE}
    assert not long


def test_functions_are_short():
    long = {
        key: n
        for path in files()
        for key, node in functions(path)
        if (n := lines(path, node)) > MAX_FUNCTION and key not in LONGER
    }
    assert not long


def test_more_than_eight_parameters_are_a_config():
    many = {}
    for path in files():
        for key, node in functions(path):
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([a for a in named if a.arg not in ("self", "cls")])
            if count > MAX_PARAMETERS and not is_verb(path, node) and key not in MORE_PARAMETERS:
                many[key] = count
    assert not many


def test_exceptions_are_dated_explained_and_still_needed():
    known = {key for path in files() for key, _ in functions(path)}
    for key, (date, reason) in {**LONGER, **MORE_PARAMETERS}.items():
        assert key in known, f"{key} is gone: strike it from the list"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
        assert len(reason.split()) >= 4


def test_every_file_opens_with_what_it_is():
    assert not [name(path) for path in files() if not ast.get_docstring(tree(path))]


def test_a_room_s_own_file_holds_only_its_docstring():
    assert not [room for room in [*ROOMS, *NATIVE] if len(tree(PACKAGE / room / "__init__.py").body) != 1]


def test_annotations_are_never_evaluated():
    line = "from __future__ import annotations"
    assert not [name(p) for p in files() if len(tree(p).body) > 1 and line not in p.read_text("utf-8")]


def test_nothing_is_unpickled_or_evaluated():
    wrong = set()
    for path in files():
        wrong |= {f"{name(path)} imports {m}" for m, _ in imports(tree(path)) if m.split(".")[0] in PICKLES}
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            loads = called in ("torch.load", "np.load", "numpy.load")
            pickled = any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords)
            if called in ("eval", "exec", "compile", "__import__", "os.system") or pickled:
                wrong.add(f"{name(path)}:{node.lineno} calls {called}")
            if loads and called == "torch.load" and not safe:
                wrong.add(f"{name(path)}:{node.lineno} calls torch.load without weights_only=True")
    assert not wrong


def test_no_tracked_file_names_a_place_on_one_machine():
    pattern = re.compile("(?<![\\w.~-])/(?:" + "|".join(["home", "root", "work", "Users"]) + ")/")
    wrong = {
        f"{file}:{number}: {line.strip()[:80]}"
        for file, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    }
    assert not wrong


def test_the_design_draws_the_rooms_in_this_order():
    assert f"\n    {' → '.join(ROOMS)}\n" in (ROOT / "docs/design.md").read_text("utf-8")
