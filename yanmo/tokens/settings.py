"""What the small JSON files beside a vocabulary say about it.

In: a folder with any of tokenizer_config.json, special_tokens_map.json, added_tokens.json, config.json (its
model_type alone), chat_template.jinja, chat_template.json. Out: `Settings`, or a FileError that names file and key.

    read_settings     a folder → Settings
    lone              a single file → Settings that say nothing
    Settings.flag     a yes-or-no key of tokenizer_config.json
    to_config         Settings → tokenizer_config.json

The family decides how a vocabulary file without a tokenizer.json is read. It comes from tokenizer_class, else from
the model_type of config.json; a class that is not listed here has no family, and only its tokenizer.json is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yanmo.errors import FileError
from yanmo.files import read_json_object, read_text

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
MAX_ID = 2**24  # the largest public vocabularies hold about a million ids; the bound keeps tables small
MAX_TEMPLATE = 2**20  # characters; the longest public chat templates are about 30,000
GENERIC = "PreTrainedTokenizerFast"  # the class that every version of transformers reads as "use tokenizer.json as is"

CLASSES = {
    "LlamaTokenizer": "llama",
    "CodeLlamaTokenizer": "llama",
    "GemmaTokenizer": "gemma",
    "T5Tokenizer": "t5",
    "MT5Tokenizer": "t5",
    "XLMRobertaTokenizer": "xlm-roberta",
    "MarianTokenizer": "marian",
    "M2M100Tokenizer": "m2m",
    "MBartTokenizer": "mbart",
    "MBart50Tokenizer": "mbart50",
    "NllbTokenizer": "nllb",
    "BertTokenizer": "bert",
    "DistilBertTokenizer": "bert",
    "ElectraTokenizer": "bert",
    "RobertaTokenizer": "roberta",
    "BartTokenizer": "roberta",
    "LongformerTokenizer": "roberta",
    "GPT2Tokenizer": "gpt2",
    "CodeGenTokenizer": "gpt2",
    "Qwen2Tokenizer": "qwen2",
    GENERIC: "",
    "TokenizersBackend": "",
    "PreTrainedTokenizer": "",
}
MODEL_TYPES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "gemma": "gemma",
    "gemma2": "gemma",
    "t5": "t5",
    "mt5": "t5",
    "xlm-roberta": "xlm-roberta",
    "marian": "marian",
    "m2m_100": "m2m",
    "bert": "bert",
    "distilbert": "bert",
    "electra": "bert",
    "roberta": "roberta",
    "bart": "roberta",
    "longformer": "roberta",
    "gpt2": "gpt2",
    "qwen2": "qwen2",
    "qwen3": "qwen2",
}
_XLMR = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
NAMES: dict[str, dict[str, str]] = {
    "llama": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "gemma": {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>"},
    "t5": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
    "xlm-roberta": _XLMR,
    "roberta": _XLMR,
    "marian": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
    "m2m": {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>"},
    **dict.fromkeys(("mbart", "mbart50", "nllb"), _XLMR),
    "bert": {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    "gpt2": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
    "qwen2": {"eos": "<|endoftext|>", "pad": "<|endoftext|>"},
}


@dataclass(frozen=True)
class Added:
    """One token that is found in the text before the model of the vocabulary sees it."""

    content: str
    id: int | None = None
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class Settings:
    """What a folder says about its vocabulary; `names` holds None for a role that it sets to null."""

    source: Path
    family: str | None = None
    names: Mapping[str, str | None] = field(default_factory=dict)
    added: tuple[Added, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)
    declared: str = ""

    def flag(self, key: str) -> bool | None:
        """A key of tokenizer_config.json that must be true, false, null or absent."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, bool):
            raise _bad(self.source / "tokenizer_config.json", key, value, "true or false")
        return value

    def count(self, key: str, default: int) -> int:
        """A key of tokenizer_config.json that must be a number of tokens."""
        value = self.raw.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100_000:
            raise _bad(self.source / "tokenizer_config.json", key, value, "a whole number from 0 to 100000")
        return value

    def name(self, role: str) -> str | None:
        """The token of a role: what the folder says, else what its family uses."""
        if role in self.names:
            return self.names[role]
        return NAMES.get(self.family or "", {}).get(role)

    def known(self, token: str) -> Added | None:
        """How the folder describes an added token."""
        return next((entry for entry in self.added if entry.content == token), None)


def lone(path: Path) -> Settings:
    """The settings of a single file: none."""
    return Settings(source=path)


def read_settings(folder: Path) -> Settings:
    """Read every settings file of a folder; an absent one says nothing."""
    path = folder / "tokenizer_config.json"
    raw = read_json_object(path) if path.is_file() else {}
    names, entries = _tokens(path, raw)
    added = {entry.content: entry for entry in _decoder(path, raw)}
    added.update({entry.content: entry for entry in entries if entry.content not in added})
    if "added_tokens_decoder" not in raw:  # the layout before 2023 kept these in two files of their own
        path = folder / "special_tokens_map.json"
        if path.is_file():
            more, entries = _tokens(path, read_json_object(path))
            names.update(more)
            added.update({entry.content: entry for entry in entries})
        path = folder / "added_tokens.json"
        if path.is_file():
            for token, number in read_json_object(path).items():
                old = added.get(token)
                special = old.special if old else token in names.values()
                flags = {"lstrip": old.lstrip, "rstrip": old.rstrip, "single_word": old.single_word} if old else {}
                added[token] = Added(token, _id(path, token, number), special, normalized=not special, **flags)
    _distinct(folder, added.values())
    family, declared = _family(folder, raw)
    templates = _templates(folder, raw)
    return Settings(folder, family, names, tuple(added.values()), templates, raw, declared)


def to_config(settings: Settings, names: Mapping[str, str | None], added: list[Added]) -> dict[str, Any]:
    """tokenizer_config.json for a folder that is written: what was read, and what was decided since."""
    config = {key: value for key, value in settings.raw.items() if key not in ("auto_map", "name_or_path")}
    config.setdefault("tokenizer_class", GENERIC)
    config.setdefault("clean_up_tokenization_spaces", False)
    config["added_tokens_decoder"] = {
        str(entry.id): {
            "content": entry.content,
            "lstrip": entry.lstrip,
            "normalized": entry.normalized,
            "rstrip": entry.rstrip,
            "single_word": entry.single_word,
            "special": entry.special,
        }
        for entry in sorted(added, key=lambda entry: entry.id or 0)
    }
    for role in ROLES:
        config[f"{role}_token"] = names.get(role)
    if len(settings.templates) > 1:
        config["chat_template"] = [{"name": name, "template": text} for name, text in settings.templates.items()]
    elif settings.templates:
        config["chat_template"] = next(iter(settings.templates.values()))
    return config


def _bad(path: Path, key: str, value: object, need: str) -> FileError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return FileError(f"{path}: {key} is {shown}, where {need} is needed; correct the file or fetch it again")


def _id(path: Path, token: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_ID:
        raise _bad(path, f"the id of {token!r}", value, f"a whole number from 0 to {MAX_ID - 1}")
    return value


def _tokens(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, str | None], list[Added]]:
    """The tokens that a config names: by role, and all of them as entries."""
    names: dict[str, str | None] = {}
    entries = []
    for role in ROLES:
        key = f"{role}_token"
        if key not in config:
            continue
        if config[key] is None:
            names[role] = None
            continue
        entry = _entry(path, key, config[key])
        names[role] = entry.content
        entries.append(entry)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key)
        if more is None:
            continue
        if isinstance(more, dict):  # {"image_token": "<image>"} in newer folders
            more = list(more.values())
        if not isinstance(more, list):
            raise _bad(path, key, more, "a list of tokens")
        entries += [_entry(path, key, value) for value in more]
    return names, entries


def _entry(path: Path, key: str, value: object, number: int | None = None) -> Added:
    """A token as a string or as a dictionary with flags."""
    if isinstance(value, str) and value:
        return Added(_text(path, key, value), number)
    if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
        flags = {}
        for flag in ("special", "lstrip", "rstrip", "single_word", "normalized"):
            flags[flag] = value.get(flag, flag == "special" and number is None)
            if not isinstance(flags[flag], bool):
                raise _bad(path, f"{key}.{flag}", flags[flag], "true or false")
        return Added(_text(path, key, value["content"]), number, **flags)
    raise _bad(path, key, value, "a token (a string, or an object with content)")


def _text(path: Path, key: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad(path, key, value, "a token of whole characters") from None
    return value


def _decoder(path: Path, config: Mapping[str, Any]) -> list[Added]:
    table = config.get("added_tokens_decoder")
    if table is None:
        return []
    if not isinstance(table, dict):
        raise _bad(path, "added_tokens_decoder", table, "an object of ids and tokens")
    entries = []
    for key, value in table.items():
        number = int(key) if key.isascii() and key.isdigit() and len(key) < 20 else key
        entry = _entry(path, f"added_tokens_decoder.{key}", value, _id(path, f"added token {key}", number))
        entries.append(entry)
    return entries


def _distinct(folder: Path, entries: Any) -> None:
    seen: dict[int, str] = {}
    for entry in entries:
        if entry.id is None:
            continue
        if entry.id in seen:
            raise FileError(
                f"{folder}: the added tokens {seen[entry.id]!r} and {entry.content!r} share the id {entry.id}; "
                "correct tokenizer_config.json"
            )
        seen[entry.id] = entry.content


def _family(folder: Path, raw: Mapping[str, Any]) -> tuple[str | None, str]:
    """The family, and the words that a folder uses for it."""
    name = raw.get("tokenizer_class")
    if name is not None and not isinstance(name, str):
        raise _bad(folder / "tokenizer_config.json", "tokenizer_class", name, "a name")
    if name:
        plain = name if name in CLASSES else name.removesuffix("Fast")
        return CLASSES.get(plain), f"tokenizer_class {name!r}"
    path = folder / "config.json"
    kind = read_json_object(path).get("model_type") if path.is_file() else None
    if isinstance(kind, str):
        return MODEL_TYPES.get(kind), f"model_type {kind!r}"
    return "", ""


def _templates(folder: Path, raw: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; the file chat_template.jinja takes the place of the one in tokenizer_config.json."""
    path = folder / "tokenizer_config.json"
    value = raw.get("chat_template")
    legacy = folder / "chat_template.json"
    if value is None and legacy.is_file():
        path, value = legacy, read_json_object(legacy).get("chat_template")
    found: dict[str, str] = {}
    if isinstance(value, str):
        found["default"] = value
    elif isinstance(value, list):
        for item in value:
            named = isinstance(item, dict) and isinstance(item.get("name"), str)
            if not named or not isinstance(item.get("template"), str):
                raise _bad(path, "chat_template", item, "an object with name and template")
            found[item["name"]] = item["template"]
    elif value is not None:
        raise _bad(path, "chat_template", value, "a template or a list of named templates")
    single = folder / "chat_template.jinja"
    if single.is_file():
        found["default"] = read_text(single, 4 * MAX_TEMPLATE)
    more = folder / "additional_chat_templates"
    if more.is_dir():
        found.update({file.stem: read_text(file, 4 * MAX_TEMPLATE) for file in sorted(more.glob("*.jinja"))})
    for name, text in found.items():
        if len(text) > MAX_TEMPLATE:
            raise FileError(
                f"{folder}: the chat template {name!r} has {len(text):,} characters, at most {MAX_TEMPLATE:,} "
                "are read; is it a template?"
            )
    return found
