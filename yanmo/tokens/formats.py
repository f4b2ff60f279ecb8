"""Vocabulary files that the tokenizers library runs: each is read with limits and checked before it is used.

In: tokenizer.json; vocab.json + merges.txt (also encoder.json + vocab.bpe); vocab.txt; the folder's settings.
Out: a `tokenizers.Tokenizer` without truncation and padding, or a FileError.

    from_json        tokenizer.json as it is
    byte_level       GPT-2, RoBERTa and Qwen 2: byte-level BPE
    wordpiece        BERT
    partner          the other file of a pair, beside the one that is given
    guarded          a call into the library: its errors and panics become a FileError
    prepare          the tokens and the frame that a folder's settings ask for
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from yanmo.errors import FileError
from yanmo.files import read_json, read_json_object, read_text, reason
from yanmo.tokens.settings import MAX_ID, NAMES, Settings

T = TypeVar("T")

PAIRS = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
LANGUAGE = {"mbart": "en_XX", "mbart50": "en_XX", "nllb": "eng_Latn"}  # of a source where a folder says none
MAX_GROWTH = 1024  # how much longer the replacements of a tokenizer.json may make a text

# The pre-tokenizer of Qwen 2 and 3: a contraction, a word with the sign before it, a digit, signs with the line ends
# after them, line ends, spaces. Programs that run these models know it by name (llama.cpp: `qwen2`).
QWEN2 = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
# What the library strips from the end of a line of vocab.txt: the white space of Unicode
WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def guarded(path: Path, action: Callable[..., T], *args: Any) -> T:
    """Call the library; what it raises, panics of its Rust code included, is a FileError that names the file."""
    try:
        return action(*args)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a PanicException is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        text = reason(error) if isinstance(error, Exception) else str(error).partition("\n")[0]
        raise FileError(f"{path}: not a usable tokenizer ({text[:200]}); fetch the file again") from None


def from_json(path: Path) -> Library:
    """Read a tokenizer.json."""
    text = read_text(path)
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise FileError(f"{path}: no tokenizer.json (an object with a model is needed); is it the right file?")
    _bounded(path, value)
    text = _pairs(path, value) or text
    library = guarded(path, Library.from_str, text)
    library.no_truncation()  # nothing is cut here in silence; who wants a limit cuts ids
    library.no_padding()
    table = guarded(path, library.get_vocab, True)
    check_ids(path, table)
    for entry in _nodes(value.get("added_tokens")):
        token, number = str(entry.get("content")), entry.get("id")
        if table.get(token) != number:  # the library counts on where a file leaves a gap
            raise FileError(
                f"{path}: the added token {token[:80]!r} has the id {number}, which the library would read as "
                f"{table.get(token)}; number the added tokens on from the vocabulary"
            )
    return library


def _pairs(path: Path, value: dict[str, Any]) -> str | None:
    """The JSON again with merges as pairs, where a merge "a b" has a token with a space in it.

    The form of a string says then not where the pair parts, and the library refuses the file (a public Llama 2 has
    three of them); the vocabulary says it, since both parts and the whole are tokens.
    """
    model = value["model"]
    merges, vocab = model.get("merges"), model.get("vocab")
    if not isinstance(merges, list) or not isinstance(vocab, dict):
        return None
    if all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges):
        return None
    pairs = []
    for merge in merges:
        if not isinstance(merge, str):
            return None  # pairs already
        splits = [place for place, letter in enumerate(merge) if letter == " "]
        found = [(merge[:place], merge[place + 1 :]) for place in splits]
        found = [pair for pair in found if pair[0] in vocab and pair[1] in vocab and "".join(pair) in vocab]
        if len(found) != 1:
            raise FileError(f"{path}: the merge {merge[:80]!r} parts into no two tokens; fetch the file again")
        pairs.append(found[0])
    model["merges"] = pairs
    return json.dumps(value)


def check_ids(path: Path, table: dict[str, int]) -> None:
    """Refuse an empty vocabulary, an id beyond the limit, and an id that two tokens share."""
    if not table:
        raise FileError(f"{path}: no tokens in it; fetch the file again")
    seen: dict[int, str] = {}
    for token, number in table.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < MAX_ID:
            raise FileError(
                f"{path}: the token {token[:80]!r} has the id {number!r}, where a whole number from 0 to {MAX_ID - 1} "
                "is needed; fetch the file again"
            )
        if number in seen:
            raise FileError(
                f"{path}: the tokens {seen[number][:80]!r} and {token[:80]!r} share the id {number}; "
                "fetch the file again"
            )
        seen[number] = token


def partner(path: Path) -> tuple[Path, Path]:
    """(vocabulary, merges) for either file of a GPT-2 pair; `x-encoder.json` belongs to `x-vocab.bpe`."""
    for vocab, merges in PAIRS.items():
        for own, other in ((vocab, merges), (merges, vocab)):
            if path.name.endswith(own):
                beside = path.with_name(path.name.removesuffix(own) + other)
                if not beside.is_file():
                    raise FileError(f"{path}: its partner {beside.name} is not beside it; copy it to {path.parent}")
                return (path, beside) if own == vocab else (beside, path)
    raise FileError(
        f"{path}: a vocabulary whose merges cannot be found by its name; name the pair vocab.json and merges.txt"
    )


def read_table(path: Path) -> dict[str, int]:
    """A JSON file of tokens and ids."""
    table = read_json_object(path)
    check_ids(path, table)
    return table


def byte_level(vocab: Path, merges: Path, settings: Settings) -> Library:
    """Read a byte-level BPE vocabulary: GPT-2's, or RoBERTa's or Qwen 2's where the settings say so."""
    table = read_table(vocab)
    pairs = list(_merges(merges))
    model = guarded(merges, _bpe, table, pairs)
    library = Library(model)
    prefix = bool(settings.flag("add_prefix_space"))
    if settings.family == "qwen2":
        split = pre_tokenizers.Split(Regex(QWEN2), "isolated")
        library.normalizer = normalizers.NFC()
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)]
        )
    else:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    library.decoder = decoders.ByteLevel()
    prepare(library, vocab, settings)
    if settings.family == "roberta":
        sep, cls = settings.name("sep") or "</s>", settings.name("cls") or "<s>"
        pair = f"{cls} $A {sep} {sep} $B {sep}"
        _template(library, vocab, f"{cls} $A {sep}", pair, [cls, sep])
    return library


def _bpe(table: dict[str, int], pairs: list[tuple[str, str]]) -> models.BPE:
    return models.BPE(vocab=table, merges=pairs, fuse_unk=False)


def _merges(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if line.startswith("#version") or not line:
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise FileError(
                f"{path}: line {number} is {line[:80]!r}, where two tokens and a space are needed; fetch the file again"
            )
        yield left, right


def wordpiece(path: Path, settings: Settings) -> Library:
    """Read BERT's vocab.txt: one token per line, the line number from 0 is its id, the last of two equal lines counts.

    Letters are lowered where do_lower_case says so; where nothing says so, where no word of the vocabulary
    has a capital A-Z, since such a vocabulary could only read capitals as unknown.
    """
    text = read_text(path)
    if "\0" in text:
        raise FileError(f"{path}: NUL characters, which no vocabulary holds; is it the right file?")
    lines = [line.rstrip(WHITE) for line in text.removesuffix("\n").split("\n")]
    table = {token: number for number, token in enumerate(lines)}
    unknown = settings.name("unk") or "[UNK]"
    if unknown not in table:
        raise FileError(f"{path}: no {unknown} in it, which a BERT vocabulary needs; is it the right file?")
    check_ids(path, table)
    lower = settings.flag("do_lower_case")
    if lower is None:
        lower = not any(_capital(token) for token in table)
    chinese = settings.flag("tokenize_chinese_chars")
    library = Library(guarded(path, lambda: models.WordPiece(table, unk_token=unknown)))
    library.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True if chinese is None else chinese,
        strip_accents=settings.flag("strip_accents"),
        lowercase=lower,
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    prepare(library, path, settings)
    cls, sep = settings.name("cls") or "[CLS]", settings.name("sep") or "[SEP]"
    present = library.token_to_id(cls) is not None and library.token_to_id(sep) is not None
    if present:
        _template(library, path, f"{cls}:0 $A:0 {sep}:0", f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1", [cls, sep])
    return library


def _capital(token: str) -> bool:
    """Whether a token is a word with a capital letter; [CLS] and <S> are no words."""
    return token[:1] not in ("[", "<") and any("A" <= letter <= "Z" for letter in token)


def prepare(library: Library, path: Path, settings: Settings) -> None:
    """Give the library the tokens that the settings name and the frame that they ask for.

    A named token that the vocabulary lacks gets the next id, as in transformers; a family's own default is left out
    instead. add_bos_token and add_eos_token replace the frame where they are given, except where the family fixes it.
    """
    named = dict.fromkeys(entry.content for entry in settings.added)
    for role, token in NAMES.get(settings.family or "", {}).items():
        if role not in settings.names and library.token_to_id(token) is not None:
            named.setdefault(token)
    roles = {settings.name(role) for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
    entries = sorted((_described(settings, token, token in roles) for token in named), key=_by_id)
    for entry, special, number in entries:
        add = library.add_special_tokens if special else library.add_tokens
        guarded(path, add, [entry])
        got = library.token_to_id(entry.content)
        if number is not None and got != number:
            raise FileError(
                f"{settings.source}: the added token {entry.content!r} has the id {number}, but follows the "
                f"vocabulary as {got}; correct added_tokens_decoder or added_tokens.json"
            )
    bos, eos = settings.flag("add_bos_token"), settings.flag("add_eos_token")
    if (bos is not None or eos is not None) and settings.family not in ("bert", "roberta", "xlm-roberta", "t5"):
        left = settings.name("bos") if bos else None
        right = settings.name("eos") if eos else None
        single = " ".join(filter(None, (left, "$A", right)))
        second = " ".join(f"{token}:1" for token in (left, "$B", right) if token)
        _template(library, path, single, f"{single} {second}", [token for token in (left, right) if token])
    if settings.family in LANGUAGE:
        _languages(library, path, settings)


def _languages(library: Library, path: Path, settings: Settings) -> None:
    """The frame of a source in the family's way, whatever language the file was saved in: its code, and the end."""
    code, end = settings.raw.get("src_lang") or LANGUAGE[settings.family or ""], settings.name("eos")
    if not isinstance(code, str) or library.token_to_id(code) is None or end is None:
        return  # a vocabulary of other languages: its own frame stays
    behind = settings.family == "mbart" or (settings.family == "nllb" and settings.flag("legacy_behaviour"))
    texts = ("$A", "$A $B")
    single, pair = (f"{text} {end} {code}" if behind else f"{code} {text} {end}" for text in texts)
    _template(library, path, single, pair, [code, end])


def _described(settings: Settings, token: str, role: bool) -> tuple[AddedToken, bool, int | None]:
    known = settings.known(token)
    if known is None:
        mask = settings.family in ("roberta", "xlm-roberta", *LANGUAGE) and token == settings.name("mask")
        return AddedToken(token, special=True, normalized=False, lstrip=mask), True, None
    special = known.special or role
    entry = AddedToken(
        token,
        special=special,
        lstrip=known.lstrip,
        rstrip=known.rstrip,
        single_word=known.single_word,
        normalized=known.normalized,
    )
    return entry, special, known.id


def _by_id(item: tuple[AddedToken, bool, int | None]) -> tuple[int, int]:
    return (1, 0) if item[2] is None else (0, item[2])


def _template(library: Library, path: Path, single: str, pair: str, tokens: list[str]) -> None:
    """Set the frame; the tokens in it must exist."""
    special = []
    for token in dict.fromkeys(tokens):
        number = library.token_to_id(token)
        if number is None:
            raise FileError(f"{path}: no token {token!r}, which stands around every text; is it the right file?")
        special.append((token, number))
    pieces = [part.rpartition(":")[0] if part[-2:] in (":0", ":1") else part for part in pair.split(" ")]
    if any(token not in pieces for token, _ in special):  # a name with a space or a colon at its end
        raise FileError(f"{path}: the tokens {tokens!r} cannot stand around a text; rename them without spaces")
    build = lambda: processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)  # noqa: E731
    library.post_processor = guarded(path, build)


def _bounded(path: Path, value: dict[str, Any]) -> None:
    """Refuse a tokenizer.json whose replacements or frames multiply a text without bound."""
    growth = 1.0
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        for node in _nodes(value.get(part)):
            if node.get("type") == "Replace":
                pattern = node.get("pattern")
                fixed = pattern.get("String") if isinstance(pattern, dict) else None
                length = len(fixed.encode("utf-8", "replace")) if isinstance(fixed, str) and fixed else 1
                content = node.get("content")
                size = len(content.encode("utf-8", "replace")) if isinstance(content, str) else 1
                growth *= max(1.0, size / length + (0 if fixed else 1))
            if node.get("type") == "TemplateProcessing":
                for key in ("single", "pair"):
                    items = node.get(key)
                    texts = (
                        [json.dumps(item) for item in items if "Sequence" in item] if isinstance(items, list) else []
                    )
                    growth *= max(1, len(texts) - (key == "pair"))
    if growth > MAX_GROWTH:
        raise FileError(
            f"{path}: its replacements could make a text {growth:.0f} times longer, and at most {MAX_GROWTH} times is "
            "read; do not trust it"
        )


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a part of a tokenizer.json."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
