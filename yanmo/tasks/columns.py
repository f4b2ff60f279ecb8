"""Which column plays which role: as the user says, by known names, or by what stands in it. And examples of classify.

In: named values (a table's or JSON's) and the user's {role: column}. Out: {role: column}, written into what was
understood, and examples.

    chosen          the roles of a task
    resolve         a column that the user names: a name, a number from 1, a path "a.b", or several as "a+b"
    value           what a row holds in it
    classified      rows → examples with labels or a value
    class_names     a file of names of classes → {what stands in the data: name}

Roles: text, text_pair, label, labels (several in one cell, or several columns of 0 and 1 as "a,b"), value (a number to
predict), id, group, target, question, context, answer, start, head, tail, relation, token, tag.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yanmo.errors import FileError, InputError, nearest
from yanmo.files import read_text
from yanmo.tasks import reading_json
from yanmo.tasks.examples import Bad, Example
from yanmo.tasks.reading_files import File, Reading, Refused, Rows, fit, identity, kind, short, together
from yanmo.tasks.reading_tables import KNOWN, NUMBER, SETTINGS

ROLES = {
    "classify": ("text", "text_pair", "label", "labels", "value", "id", "group"),
    "extract": ("text", "head", "tail", "relation", "token", "tag", "entities", "id", "group"),
    "answer": ("context", "question", "answer", "start", "id", "group"),
    "translate": ("text", "target", "id", "group"),
    "generate": ("text", "target", "id", "group"),
}
FEW = 0.5  # a column with more different values than this share of its rows holds no labels
DATES = 0.3  # share of digits from which a column is one of dates
MAX_LABEL = 500  # characters
VALUES = 20  # different numbers with fractions, from which a column of labels is one of values
SEVERAL = re.compile(r"[|;,]")
DOCUMENTS = ("docid", "doc_id", "document_id")  # fields of objects that name their group
Row = tuple[int, dict[str, Any]]


def check(task: str, columns: Mapping[str, str]) -> None:
    """Refuse a role that the task does not know, before any file is opened."""
    known = [*ROLES[task], *SETTINGS]
    for role, name in columns.items():
        if role not in known:
            raise InputError(f"{task} knows no column {role!r}{nearest(role, known)}; it knows {', '.join(known)}")
        if not isinstance(name, str) or not name:
            raise InputError(f"the column of {role} is {name!r}; give its name, or its number from 1")


def resolve(said: str, names: Sequence[str], file: File) -> str:
    """The column that a user names, or an InputError that lists those there are."""
    if said in names:
        return said
    small = [name for name in names if name.lower() == said.lower()]
    if len(small) == 1:
        return small[0]
    if said.isdecimal() and 1 <= int(said[:9]) <= len(names):
        return names[int(said) - 1]
    for sign in ("+", "."):
        head, found, _ = said.partition(sign)
        if found and head in names and (sign == "." or all(part in names for part in said.split("+"))):
            return said
    listed = ", ".join(map(short, list(names)[:12])) or "none"
    raise InputError(f"{file.name}: no column {said!r}{nearest(said, names)}; its columns are {listed}")


def value(row: Mapping[str, Any], column: str) -> Any:
    """What a row holds in a column; "a.b" looks inside, "a+b" joins texts by a line end. None where it is absent."""
    if column in row:
        return row[column]
    if "+" in column:
        parts = [row.get(part) for part in column.split("+")]
        return "\n".join(part for part in parts if isinstance(part, str) and part)
    found: Any = row
    for part in column.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def ignored(file: File, reading: Reading, *honoured: str) -> None:
    """Say of a file without named columns that the user's have no effect on it, but for those honoured."""
    for role, said in reading.columns.items():
        if role in ROLES[reading.task] and role not in honoured:
            reading.count(f"files without named columns, on which {role}={said} has no effect", file.name)


def named(row: Mapping[str, Any], reading: Reading, where: str) -> tuple[str, str]:
    """(id, group) of an object: fields as the user names them, or known ones."""
    said = reading.columns
    groups = [said["group"]] if "group" in said else DOCUMENTS
    group = next((found for name in groups if (found := value(row, name)) is not None), None)
    return identity(value(row, said.get("id", "id")), where), together(group)


def chosen(
    file: File, names: list[str], rows: Sequence[Row], reading: Reading, needed: Iterable[str]
) -> dict[str, str]:
    """The roles of this file's columns; a role of `needed` that cannot be told is an InputError."""
    roles: dict[str, str] = {}
    for role, said in reading.columns.items():
        if role in ROLES[reading.task]:
            parts = said.split(",") if role == "labels" and said not in names else [said]
            roles[role] = ",".join(resolve(part.strip(), names, file) for part in parts)
    twice = next((column for column in roles.values() if list(roles.values()).count(column) > 1), None)
    both = [role for role, column in roles.items() if column == twice and role not in ("id", "group")]
    if len(both) > 1:
        raise InputError(f"{file.name}: column {twice!r} cannot be both {both[0]} and {both[1]}; name two columns")
    for role in ROLES[reading.task]:
        if role in roles or (role in ("label", "value", "labels") and roles.keys() & {"label", "labels", "value"}):
            continue
        small = {name.lower(): name for name in reversed(names) if name not in _taken(roles)}
        known = next((small[name] for name in KNOWN.get(role, ()) if name in small), None)
        if known is not None:
            roles[role] = known
    missing = [role for role in needed if role not in roles]
    if missing and reading.task == "classify":
        _by_content(names, rows, roles)
        missing = [role for role in needed if role not in roles]
    if "labels" in roles or "value" in roles:
        missing = [role for role in missing if role != "label"]
    if missing:
        listed = ", ".join(map(short, names[:12])) or "none"
        raise InputError(
            f"{file.name}: which column is the {missing[0]} cannot be told; its columns are {listed}; name it, as in "
            f"--column {missing[0]}={names[-1] if names else '1'}"
        )
    for role in ROLES[reading.task]:
        if role in roles:
            reading.understood.columns.setdefault(role, roles[role])
    unused = [name for name in names if name not in _taken(roles)]
    if unused:
        reading.note(f"{file.name}: not used: {', '.join(map(short, unused[:12]))}")
    return roles


def _taken(roles: Mapping[str, str]) -> set[str]:
    return {part for column in roles.values() for part in [column, *re.split("[,+.]", column)]}


def _by_content(names: list[str], rows: Sequence[Row], roles: dict[str, str]) -> None:
    """The label is the column with few different values, the texts are the longest of the others, in their order."""
    sample = rows[:2000]
    columns = {name: [str(row.get(name, "")) for _, row in sample] for name in names if name not in _taken(roles)}
    columns = {name: cells for name, cells in columns.items() if any(cell.strip() for cell in cells)}
    length = {name: sum(map(len, cells)) / len(cells) for name, cells in columns.items()}
    if not roles.keys() & {"label", "labels", "value"}:
        few = {name: len(set(cells)) for name, cells in columns.items() if len(columns) > 1 or "text" in roles}
        # A column of one value says nothing, unless every row is of one class; one with empty cells is no label
        few = {name: n for name, n in few.items() if n > 1} or few
        few = {name: n for name, n in few.items() if all(cell.strip() for cell in columns[name])} or few
        if few:
            best = min(few, key=lambda name: (few[name], length[name]))
            if few[best] <= max(2, FEW * len(sample)) or length[best] * 3 < max(length.values()):
                roles["label"] = best
        numbers = [name for name in columns if len(columns) > 1 and _is_value(columns[name])]
        if "label" not in roles and numbers:
            roles["label"] = numbers[-1]
    texts = [name for name in columns if name != roles.get("label") and not _is_number(columns[name])]
    texts = [name for name in texts if _digits(columns[name]) < DATES] or texts
    if "text" not in roles and texts:
        longest = max(length[name] for name in texts)
        texts = [name for name in texts if " " in "".join(columns[name][:50]) or length[name] * 4 > longest]
        if len(texts) == 2 and "text_pair" not in roles:
            roles["text"], roles["text_pair"] = texts
        elif texts:
            # Templates are long too, and return
            roles["text"] = max(texts, key=lambda name: length[name] * len(set(columns[name])))


def _digits(cells: Sequence[str]) -> float:
    """The share of digits: dates and numbers of articles are no texts."""
    return sum(letter.isdecimal() for cell in cells for letter in cell) / max(sum(map(len, cells)), 1)


def _is_number(cells: Sequence[str]) -> bool:
    return all(NUMBER.fullmatch(cell.strip()) for cell in cells if cell.strip())


def classified(file: File, names: list[str], rows: Sequence[Row], reading: Reading) -> Rows:
    """Rows → examples of classification or regression."""
    roles = chosen(file, names, rows, reading, ("text", "label"))
    guessed = not reading.columns.keys() & {"label", "labels", "value"}
    if guessed and "label" in roles and _is_value([value(row, roles["label"]) for _, row in rows[:2000]]):
        roles["value"] = roles.pop("label")
        reading.understood.columns.pop("label", None)
        reading.understood.columns["value"] = roles["value"]
        reading.note(f"{file.name}: {roles['value']} holds numbers to predict; name it as the label to have classes")
    if guessed and "label" in roles and _is_several(roles["label"], rows):
        roles["labels"] = roles.pop("label")
        reading.understood.columns.pop("label", None)
        reading.understood.columns["labels"] = roles["labels"]
    translate = class_names(reading.columns["names"]) if "names" in reading.columns else None
    reading.understood.classes = list((translate or {}).values())
    for line, row in rows:
        where = file.at(line)
        try:
            yield _example(row, roles, where, translate)
        except Refused as refused:
            yield Bad(where, str(refused))


def _is_value(cells: Sequence[Any]) -> bool:
    texts = [str(cell).strip() for cell in cells if cell is not None and not isinstance(cell, (list, dict, bool))]
    numbers = len(texts) == len(cells) and bool(texts) and all(NUMBER.fullmatch(text) for text in texts)
    return numbers and len(set(texts)) > VALUES and any("." in text and float(text) % 1 for text in texts)


def _is_several(column: str, rows: Sequence[Row]) -> bool:
    """Whether cells hold several labels: the column's name is a plural, and its parts recur more than its cells."""
    cells = [cell for _, row in rows[:2000] if isinstance(cell := row.get(column), str)]
    if not column.lower().endswith(("labels", "tags", "topics", "categories")):
        return False
    parts = Counter(part.strip() for cell in cells for part in SEVERAL.split(cell))
    return any(SEVERAL.search(cell) for cell in cells) and len(parts) < len(set(cells))


def _example(row: Mapping[str, Any], roles: Mapping[str, str], where: str, names: dict[str, str] | None) -> Example:
    text = fit(value(row, roles["text"]), "text")
    pair = fit(value(row, roles["text_pair"]), "second text") if "text_pair" in roles else None
    labels, number = None, None
    if "value" in roles:
        number = _number(value(row, roles["value"]))
    elif "labels" in roles and "," in roles["labels"]:
        labels = tuple(column for column in roles["labels"].split(",") if _flag(row, column))
    else:
        held = value(row, roles.get("labels") or roles["label"])
        if isinstance(held, str) and "labels" in roles:
            held = [part.strip() for part in SEVERAL.split(held) if part.strip()]
        labels = tuple(dict.fromkeys(_label(item) for item in (held if isinstance(held, list) else [held])))
    if labels is not None and names is not None:
        unknown = next((label for label in labels if label not in names), None)
        if unknown is not None:
            raise Refused(f"the label {short(unknown)} is not among the {len(names)} named classes")
        labels = tuple(names[label] for label in labels)
    group = value(row, roles["group"]) if "group" in roles else ""
    return Example(
        id=identity(value(row, roles["id"]) if "id" in roles else None, where),
        where=where,
        text=text,
        text_pair=pair,
        labels=labels,
        value=number,
        group=together(group),
    )


def _label(held: Any) -> str:
    if isinstance(held, bool):
        return str(held).lower()
    if isinstance(held, float) and held.is_integer():
        held = int(held)
    if isinstance(held, (int, float)) and math.isfinite(held):
        return str(held)
    if held is None:
        raise Refused("it has no label")
    if not isinstance(held, str):
        raise Refused(f"the label is {kind(held)}, where a text or a number is needed")
    if len(held) > MAX_LABEL:
        raise Refused(f"the label {short(held)} has {len(held):,} characters, and at most {MAX_LABEL} are a label")
    return fit(held, "label").strip()


def _flag(row: Mapping[str, Any], column: str) -> bool:
    held = value(row, column)
    if str(held).strip().lower() in ("0", "0.0", "false", "no"):
        return False
    if str(held).strip().lower() in ("1", "1.0", "true", "yes"):
        return True
    raise Refused(f"{short(column)} is {short(held)}, where 0 or 1 is needed")


def _number(held: Any) -> float:
    try:
        number = float(held) if not isinstance(held, (bool, list, dict)) and held is not None else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Refused(f"the value is {short(held)}, where a number is needed")
    return number


def class_names(path: str) -> dict[str, str]:
    """{what stands in the data: name} of a file with a name a line, "key TAB name" lines, or JSON lines of two texts.

    Where a line is one name, what stands in the data is its number from 0.
    """
    text = read_text(path, 2**24)
    file = File(Path(path), Path(path).name)
    found: dict[str, str] = {}
    if reading_json.looks_like_json(text):
        for item in _pairs(file, text):
            found[item[0]] = item[1]
    else:
        lines = [line.strip("\r") for line in text.split("\n") if line.strip()]
        for number, line in enumerate(lines):
            key, tab, name = line.partition("\t")
            found[key.strip() if tab else str(number)] = (name if tab else key).strip()
    if not found or not all(found.values()):
        raise FileError(f"{path}: no names of classes in it; write one name a line, or number, tab and name")
    if len(set(found.values())) < len(found):
        raise FileError(f"{path}: two classes have the same name; give each its own")
    return found


def _pairs(file: File, text: str) -> Iterator[tuple[str, str]]:
    for item in reading_json.values(file, text):
        held = None if isinstance(item, Bad) else item[1]
        if isinstance(held, str):
            yield held, held
        elif isinstance(held, dict) and len(held) >= 2 and all(isinstance(v, (str, int)) for v in held.values()):
            key = next((held[name] for name in ("label", "id", "index") if name in held), next(iter(held.values())))
            name = next((held[k] for k in ("label_desc", "name", "desc") if k in held), list(held.values())[-1])
            yield str(key), str(name)
        else:
            raise FileError(f"{file.path}: no names of classes in it; write one name a line, or number, tab and name")
