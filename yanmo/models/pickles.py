"""Weights that torch.save has pickled (pytorch_model.bin), read without unpickling anything.

In: a path. Out: the open file and where each of its tensors lies, or a FileError of one sentence.

    read_pickle      the zip archive, its data.pkl, and the tensors found in it
    run              a stack machine over pickletools' opcodes: what a dictionary of tensors needs, and nothing else
    _call            the three functions it knows, by their effect; any other name is refused and never imported
    _tensors         the dictionary that came out; everything in it must be a tensor

The machine holds numbers, strings, tuples, dictionaries and the records below; it creates no other object, calls
nothing that the file names, and stops after MAX_OPCODES. The data stay in the file, to be mapped in place.
"""

from __future__ import annotations

import io
import pickletools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yanmo.errors import FileError
from yanmo.files import reason
from yanmo.models.archives import CONVERT, Entry, read_directory
from yanmo.models.stored import OpenFile, Stored, check_stored, open_file, shown

MAX_PICKLE_BYTES = 64 * 2**20
MAX_OPCODES = 4_000_000  # about 40 for each tensor
STORAGES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
ORDERED, REBUILD, PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
CODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
KNOWN = {ORDERED, REBUILD, PARAMETER, *STORAGES}


@dataclass(frozen=True)
class _Name:
    """A name that the pickle wants to import: one of KNOWN, kept as a string."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """An entry of the archive that holds `numel` elements."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class _Tensor:
    """A view into a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Refused(Exception):
    """What a pickle holds and a dictionary of tensors does not; becomes a FileError that names the file."""


def read_pickle(path: str | Path) -> tuple[OpenFile, dict[str, Stored]]:
    """Open a file that torch.save wrote; return it and its tensors in the order of the dictionary."""
    file = open_file(path)
    try:
        return file, _read(file)
    except BaseException:
        file.close()
        raise


def _read(file: OpenFile) -> dict[str, Stored]:
    if file.read(0, min(4, file.size)) != b"PK\x03\x04":
        old = file.size > 1 and file.read(0, 2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        what = "the format of torch before 1.6" if old else "not a zip archive of torch.save"
        raise FileError(f"{file.path}: {what}, which is not read here; {CONVERT}")
    entries = read_directory(file)
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise FileError(f"{file.path}: a zip archive that torch.save did not write (no data.pkl); {CONVERT}")
    root = roots[0]
    if f"{root}byteorder" in entries:
        order = _content(file, entries[f"{root}byteorder"], "byteorder", 16)
        if order != b"little":
            raise FileError(
                f"{file.path}: its byte order is {shown(str(order))}, read is little-endian alone; {CONVERT}"
            )
    pickle = _content(file, entries[f"{root}data.pkl"], "data.pkl", MAX_PICKLE_BYTES)
    try:
        found = _tensors(run(pickle))
    except _Refused as refused:
        raise FileError(f"{file.path}: {refused}; it is not read, {CONVERT}") from None
    return {name: _locate(file, entries, root, name, tensor) for name, tensor in found.items()}


def _content(file: OpenFile, entry: Entry, name: str, limit: int) -> bytes:
    if entry.size > limit:
        raise FileError(
            f"{file.path}: {name} has {entry.size:,} bytes, at most {limit:,} are read; do not trust the file"
        )
    data = file.read(entry.offset, entry.size)
    if entry.crc and zlib.crc32(data) != entry.crc:  # torch can be told to write no checksum: then it is 0
        raise FileError(f"{file.path}: {name} does not match its checksum; the file is damaged: fetch it again")
    return data


def _locate(file: OpenFile, entries: dict[str, Entry], root: str, name: str, tensor: _Tensor) -> Stored:
    """Where a tensor lies in the file, proven to lie within its storage and its entry."""
    where = f"{file.path}: the tensor {shown(name)}"
    storage, itemsize = tensor.storage, tensor.storage.dtype.itemsize
    entry = entries.get(f"{root}data/{storage.key}")
    if entry is None:
        raise FileError(f"{where} is stored in {shown(storage.key)}, which the archive lacks; fetch the file again")
    if storage.numel * itemsize > entry.size:
        raise FileError(
            f"{where} claims a storage of {storage.numel * itemsize:,} bytes, its entry has {entry.size:,}; "
            "fetch the file again"
        )
    if tensor.offset > storage.numel:
        raise FileError(f"{where} begins at element {tensor.offset:,} of {storage.numel:,}; do not trust the file")
    begin = tensor.offset * itemsize
    stored = Stored(file, entry.offset + begin, storage.dtype, tensor.shape, tensor.strides)
    check_stored(stored, storage.numel * itemsize - begin, where)
    return stored


def _tensors(top: Any) -> dict[str, _Tensor]:
    """The tensors of a state dict; one that is wrapped as {"state_dict": …} alone is unwrapped."""
    if isinstance(top, dict) and list(top) == ["state_dict"] and isinstance(top["state_dict"], dict):
        top = top["state_dict"]
    if not isinstance(top, dict):
        raise _Refused(f"holds {_kind(top)} and not a dictionary of tensors")
    for key, value in top.items():
        if not isinstance(key, str) or any("\ud800" <= c <= "\udfff" for c in key):  # pickle passes half characters
            raise _Refused(f"holds the key {shown(key)}, which is not a name")
        if not isinstance(value, _Tensor):
            raise _Refused(f"holds {_kind(value)} under {shown(key)}, which is not a tensor")
    return top


def _kind(value: Any) -> str:
    if isinstance(value, _Name):
        return shown(value.name.replace(" ", "."))
    return {_Storage: "a storage", _Tensor: "a tensor"}.get(type(value)) or shown(value)


# The machine -------------------------------------------------------------------------------------------------------


class _Machine:
    """Stack, memo and the marks on the stack of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _Refused("takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def to_mark(self) -> list[Any]:
        if not self.marks:
            raise _Refused("lacks a mark")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise _Refused("sets the items of something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2]):
            if not isinstance(key, str | int):
                raise _Refused(f"holds {_kind(key)} as a key")
            if key in target:  # a state dict has each name once: the second would hide the first
                raise _Refused(f"holds the key {shown(key)} twice")
            target[key] = value

    def build(self) -> None:
        """An OrderedDict carries `_metadata` (versions of modules) as an attribute: dropped, no weights are in it."""
        state = self.pop()
        if not isinstance(self.top(), dict) or not isinstance(state, dict):
            raise _Refused("sets the attributes of something that is not a dictionary")


def run(pickle: bytes) -> Any:
    """Interpret a pickle; raise _Refused at the first opcode or name that a dictionary of tensors does not need."""
    machine, stream = _Machine(), io.BytesIO(pickle)
    for _ in range(MAX_OPCODES):
        position = stream.tell()
        opcode = CODES.get(stream.read(1))
        if opcode is None:
            damage = "ends without its last opcode" if position == len(pickle) else "holds a byte that is no opcode"
            raise _Refused(f"{damage} at byte {position:,} of its pickle")
        if opcode.name == "STOP":
            return machine.pop()
        if opcode.name not in ACTIONS:
            raise _Refused(f"holds the pickle opcode {opcode.name} at byte {position:,}, which no tensor needs")
        ACTIONS[opcode.name](machine, _argument(opcode, stream))
    raise _Refused(f"has more than {MAX_OPCODES:,} pickle opcodes")


def _argument(opcode: pickletools.OpcodeInfo, stream: io.BytesIO) -> Any:
    try:
        if opcode.name == "GLOBAL":  # pickletools would interpret escapes in the name, which pickle does not
            return " ".join(stream.readline().removesuffix(b"\n").decode() for _ in range(2))
        return opcode.arg and opcode.arg.reader(stream)
    except (ValueError, OverflowError, MemoryError) as error:
        raise _Refused(f"is damaged ({reason(error)})") from None


def _name(machine: _Machine, name: Any) -> None:
    if name not in KNOWN:
        raise _Refused(f"holds {shown(str(name).replace(' ', '.'))}, which is not a tensor")
    machine.stack.append(_Name(name))


def _stack_name(machine: _Machine, _: Any) -> None:
    attribute, module = machine.pop(), machine.pop()
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise _Refused("imports something without a name")
    _name(machine, f"{module} {attribute}")


def _recall(machine: _Machine, index: Any) -> None:
    if index not in machine.memo:
        raise _Refused(f"recalls the value {shown(index)}, which it has not stored")
    machine.stack.append(machine.memo[index])


def _tuple(size: int) -> Callable[[_Machine, Any], None]:
    def action(machine: _Machine, _: Any) -> None:
        items = [machine.pop() for _ in range(size)]
        machine.stack.append(tuple(reversed(items)))

    return action


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _storage(machine: _Machine, _: Any) -> None:
    """A persistent id: ('storage', type, key, device it was on, number of elements)."""
    identity = machine.pop()
    if (
        not isinstance(identity, tuple)
        or [type(part) for part in identity] != [str, _Name, str, str, int]
        or identity[0] != "storage"
        or identity[1].name not in STORAGES
        or not 0 <= identity[4] < 2**48
    ):
        raise _Refused("refers to something that is not a storage of numbers")
    machine.stack.append(_Storage(identity[2], STORAGES[identity[1].name], identity[4]))


def _call(machine: _Machine, _: Any) -> None:
    """What the three known functions would do; the rest of their arguments (gradients, hooks) is without effect."""
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise _Refused(f"calls {_kind(function)}")
    types = [type(argument) for argument in arguments]
    if function.name == ORDERED and not arguments:
        machine.stack.append({})
    elif function.name == PARAMETER and types == [_Tensor, bool, dict]:
        machine.stack.append(arguments[0])
    elif function.name == REBUILD and types[:6] == [_Storage, int, tuple, tuple, bool, dict]:
        storage, offset, shape, strides = arguments[:4]
        if any(type(n) is not int for n in (*shape, *strides)) or offset < 0:
            raise _Refused("holds a tensor whose shape is not made of sizes")
        if arguments[6:] not in ((), (None,), ({},)):
            raise _Refused("holds a tensor with metadata (a conjugate or negative view)")
        machine.stack.append(_Tensor(storage, offset, shape, strides))
    else:
        raise _Refused(f"calls {_kind(function)} with arguments that make no tensor")


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value)


def _store(machine: _Machine, index: Any) -> None:
    machine.memo[index] = machine.top()


ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"), _push),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _store),
    "MEMOIZE": lambda machine, _: _store(machine, len(machine.memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _recall),
    "GLOBAL": _name,
    "STACK_GLOBAL": _stack_name,
    "BINPERSID": _storage,
    "REDUCE": _call,
    "BUILD": lambda machine, _: machine.build(),
}
