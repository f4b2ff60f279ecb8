"""SentencePiece files: which ids, special tokens and frame each family gives to a .model.

In: a .model (or Marian's source.spm, target.spm and vocab.json) and the folder's settings. Out: a PieceEngine.

    plain          the library's own ids; a lone file, or a folder that names no family
    llama          Llama, Mistral, Gemma: BPE with byte fallback; BOS unless add_bos_token says no
    t5             <extra_id_0> … <extra_id_99> at the end, counted down; </s> after every text
    xlm_roberta    ids moved to fairseq's order: <s> <pad> </s> <unk>, pieces, <mask>
    marian         pieces looked up in vocab.json; </s> after every text
    m2m            pieces looked up in vocab.json, languages behind them; the source's before a text, </s> after it

Punctuation is not normalised for Marian: transformers does so only where the package sacremoses is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yanmo.errors import FileError
from yanmo.files import read_bytes
from yanmo.tokens.formats import read_table
from yanmo.tokens.piecemodel import CONTROL, UNKNOWN, PieceModel, read_model
from yanmo.tokens.sentencepieces import Layout, PieceEngine, Side
from yanmo.tokens.settings import GENERIC, ROLES, Added, Settings

# M2M100's languages in the order of their ids, which no file of a folder needs to say
LANGUAGES = {
    "m2m100": "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr "
    "ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps "
    "pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu",
    "wmt21": "en ha is ja cs ru zh de",
}
FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def read_pieces(path: Path, settings: Settings) -> PieceEngine:
    """Read a .model as the family of its folder has it."""
    model = read_model(path)
    family = settings.family
    if family in ("llama", "gemma"):
        return llama(model, settings)
    if family == "t5":
        return t5(model, settings)
    if family == "xlm-roberta":
        return xlm_roberta(model, settings)
    if family == "m2m":
        return m2m(model, settings)
    if family == "":
        return plain(model, settings)
    raise FileError(
        f"{path}: {settings.declared} has no reader for a .model here; save a tokenizer.json beside it (transformers: "
        "AutoTokenizer.from_pretrained(…).save_pretrained(…)), or read the .model alone by its own path"
    )


def plain(model: PieceModel, settings: Settings) -> PieceEngine:
    """A model with its own ids; nothing is added to a text, and special tokens in it are ordinary text."""
    side = Side(model, range(len(model.pieces)))
    processor = side.processor
    numbers = {
        "bos": processor.bos_id(),
        "eos": processor.eos_id(),
        "pad": processor.pad_id(),
        "unk": processor.unk_id(),
    }
    names = dict.fromkeys(ROLES)
    names.update({role: model.pieces[number] for role, number in numbers.items() if number >= 0})
    config = {"tokenizer_class": GENERIC}
    return PieceEngine(side, Layout("", names, files={"tokenizer.model": model.data}, config=config), settings)


def llama(model: PieceModel, settings: Settings) -> PieceEngine:
    """Llama and its relatives."""
    side = Side(model, range(len(model.pieces)))
    names, added = _added(side, settings, {piece: number for number, piece in enumerate(model.pieces)})
    add_bos, add_eos = settings.flag("add_bos_token"), settings.flag("add_eos_token")
    add_bos, add_eos = add_bos is not False, bool(add_eos)
    known = {entry.content: entry.id for entry in added}
    left = _ids(model.path, known, names["bos"]) if add_bos else ()
    right = _ids(model.path, known, names["eos"]) if add_eos else ()
    prefix = "never" if settings.flag("add_prefix_space") is False else "first"
    if settings.flag("legacy") and prefix == "first":
        prefix = "always"
    config = {
        "tokenizer_class": "GemmaTokenizer" if settings.family == "gemma" else "LlamaTokenizer",
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "legacy": bool(settings.flag("legacy")),
    }
    frame = (left, (*right, *left), right)
    files = {"tokenizer.model": model.data}
    return PieceEngine(
        side, Layout(settings.family or "", names, tuple(added), prefix, frame, None, files, config), settings
    )


def t5(model: PieceModel, settings: Settings) -> PieceEngine:
    """T5 and mT5."""
    side = Side(model, range(len(model.pieces)))
    table = {piece: number for number, piece in enumerate(model.pieces)}
    extra = settings.count("extra_ids", 100)
    if f"<extra_id_{extra - 1}>" in table:  # mT5 has its sentinels among the pieces
        sentinels = {token: number for token, number in table.items() if token.startswith("<extra_id_")}
    else:
        sentinels = {f"<extra_id_{place}>": len(table) + extra - 1 - place for place in range(extra)}
    names, added = _added(side, settings, table, {**table, **sentinels}, tuple(sentinels))
    known = {entry.content: entry.id for entry in added}
    end = _ids(model.path, known, names["eos"])
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra}
    files = {"spiece.model": model.data}
    return PieceEngine(side, Layout("t5", names, tuple(added), "always", ((), end, end), None, files, config), settings)


def xlm_roberta(model: PieceModel, settings: Settings) -> PieceEngine:
    """XLM-R: fairseq kept four ids of its own before the pieces, so every piece but the first three moves by one."""
    if model.types[0] != UNKNOWN or model.types[1:3] != [CONTROL, CONTROL]:
        raise FileError(
            f"{model.path}: begins with {model.pieces[:3]}, where <unk>, <s> and </s> are needed for XLM-R; "
            "is it the right file?"
        )
    fairseq = [3, 0, 2]
    side = Side(model, fairseq + [number + 1 for number in range(3, len(model.pieces))])
    table = {piece: side.ids[number] for number, piece in enumerate(model.pieces)}
    more = {"<pad>": 1, "<mask>": len(model.pieces) + 1}
    names, added = _added(side, settings, table, {**table, **more}, ("<pad>", "<mask>"))
    known = {entry.content: entry.id for entry in added}
    begin, end = _ids(model.path, known, names["cls"]), _ids(model.path, known, names["sep"])
    config = {"tokenizer_class": "XLMRobertaTokenizer"}
    files = {"sentencepiece.bpe.model": model.data}
    layout = Layout("xlm-roberta", names, tuple(added), "always", (begin, end + end, end), None, files, config)
    return PieceEngine(side, layout, settings)


def marian(folder: Path, settings: Settings) -> PieceEngine:
    """Marian: two models over one vocab.json."""
    if settings.flag("separate_vocabs"):
        raise FileError(
            f"{folder}: separate_vocabs, one vocab.json for each language, is not read here; use a model with one"
        )
    paths = {name: folder / name for name in ("source.spm", "target.spm", "vocab.json")}
    for path in paths.values():
        if not path.is_file():
            raise FileError(f"{path}: no such file, and Marian needs source.spm, target.spm and vocab.json; fetch it")
    table = read_table(paths["vocab.json"])
    models = [read_model(paths["source.spm"]), read_model(paths["target.spm"])]
    unknown = settings.name("unk") or "<unk>"
    if unknown not in table:
        raise FileError(f"{paths['vocab.json']}: no {unknown} in it, which Marian needs; is it the right file?")
    sides = [Side(model, [table.get(piece, table[unknown]) for piece in model.pieces]) for model in models]
    names, added = _added(sides[0], settings, table)
    known = {entry.content: entry.id for entry in added}
    end = _ids(paths["vocab.json"], known, names["eos"])
    files = {name: read_bytes(path) for name, path in paths.items()}
    config = {"tokenizer_class": "MarianTokenizer"}
    layout = Layout("marian", names, tuple(added), "always", ((), (), end), table, files, config)
    return PieceEngine(sides[0], layout, settings, sides[1])


def m2m(model: PieceModel, settings: Settings) -> PieceEngine:
    """M2M100: a model over a vocab.json, and behind that a token for each language."""
    path = model.path.with_name("vocab.json")
    if not path.is_file():
        raise FileError(f"{path}: no such file, and M2M100 needs it beside {model.path.name}; fetch it")
    table = read_table(path)
    unknown = settings.name("unk") or "<unk>"
    if unknown not in table:
        raise FileError(f"{path}: no {unknown} in it, which M2M100 needs; is it the right file?")
    kind = settings.raw.get("language_codes") or "m2m100"
    if kind not in LANGUAGES:
        raise FileError(f"{settings.source}: language_codes is {kind!r}; known are {' and '.join(LANGUAGES)}")
    size = max(table.values()) + 1
    languages = {f"__{code}__": size + place for place, code in enumerate(LANGUAGES[kind].split())}
    side = Side(model, [table.get(piece, table[unknown]) for piece in model.pieces])
    names, added = _added(side, settings, table, {**table, **languages}, tuple(languages))
    known = {entry.content: entry.id for entry in added}
    code = settings.raw.get("src_lang") or "en"
    begin, end = _ids(model.path, known, f"__{code}__"), _ids(path, known, names["eos"])
    files = {"sentencepiece.bpe.model": model.data, "vocab.json": read_bytes(path)}
    config = {"tokenizer_class": "M2M100Tokenizer", "language_codes": kind}
    layout = Layout("m2m", names, tuple(added), "always", (begin, (), end), table, files, config)
    return PieceEngine(side, layout, settings)


def _added(
    side: Side,
    settings: Settings,
    table: dict[str, int],
    known: dict[str, int] | None = None,
    more: tuple[str, ...] = (),
) -> tuple[dict[str, str | None], list[Added]]:
    """The tokens of each role, and all tokens that are found in text, each with its id.

    table: ids of the pieces; known: these and what the family adds; more: special tokens that the family adds. A token
    that nothing knows gets the next id if the folder names it, and is left out if only the family would.
    """
    known = known or table
    named: dict[str, Added] = {entry.content: entry for entry in settings.added}
    for own in more:
        named.setdefault(own, Added(own, lstrip=own == "<mask>"))
    names: dict[str, str | None] = {}
    for role in ROLES:
        name = settings.name(role)
        if name is not None and name not in named and name in known:
            named[name] = Added(name, lstrip=role == "mask")
        names[role] = name if name in named else None
    roles = set(names.values())
    free = max([*known.values(), *(entry.id for entry in named.values() if entry.id is not None)]) + 1
    owners = {number: token for token, number in known.items()}
    added = []
    for entry in named.values():
        number = entry.id if entry.id is not None else known.get(entry.content)
        if number is None:
            number, free = free, free + 1
        if owners.setdefault(number, entry.content) != entry.content:
            raise FileError(
                f"{settings.source}: the added token {entry.content!r} has the id {number}, which belongs to "
                f"{owners[number]!r}; correct added_tokens_decoder or added_tokens.json"
            )
        added.append(_with(entry, number, entry.special or entry.content in roles))
    return names, added


def _with(entry: Added, number: int, special: bool) -> Added:
    return Added(entry.content, number, special, entry.lstrip, entry.rstrip, entry.single_word, entry.normalized)


def _ids(path: Path, known: dict[str, int | None], token: str | None) -> tuple[int, ...]:
    """The id of a token that stands around every text."""
    number: Any = known.get(token) if token is not None else None
    if number is None:
        raise FileError(f"{path}: no token {token!r}, which stands around every text; is it the right file?")
    return (number,)
