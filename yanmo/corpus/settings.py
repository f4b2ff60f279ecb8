"""The recipe of a corpus: what a user may decide about it, as TOML.

In: a TOML file and overrides "section.key=value". Out: a checked, frozen CorpusRecipe; the same as plain values.

    load_settings         file or none, overrides → CorpusRecipe; a mistake is one sentence, with the nearest key
    from_values           plain values (of a work folder) → CorpusRecipe

Every key has a default, so an empty file is a recipe. Paths are taken from the folder in which the command runs.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from yanmo.corpus.near import Shape
from yanmo.errors import ConfigError
from yanmo.files import read_text
from yanmo.recipe import MAX_RECIPE, Section, mistake, override

Share = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[float, Field(ge=0)]
Files = list[str]


class SourcesSection(Section):
    """How sources are read."""

    text_column: list[str] = Field(default_factory=list)  # names of columns of texts; the first that a file has counts


class LanguagesSection(Section):
    """Which languages stay; codes of ISO 639-1 such as "en". With none named, all."""

    keep: list[str] = Field(default_factory=list)
    identify: bool = False  # find the language where none, or surely a wrong one, is stated


class CleanSection(Section):
    """What is changed in texts; Unicode is cleaned always."""

    boilerplate: bool = False  # mend mojibake, take boilerplate lines out
    mask: bool = False  # a fixed word for emails, phones, numbers of identity, cards and accounts


class QualitySection(Section):
    """Rules of Gopher, C4 and FineWeb, as docs/quality.md has them; a limit of 0 turns a rule off."""

    on: bool = False
    min_words: Limit = 50  # Gopher
    max_words: Limit = 0  # Gopher has 100,000, which would drop most novels
    min_word_length: Limit = 3  # Gopher; characters, in scripts with spaces
    max_word_length: Limit = 10
    max_symbols: Limit = 0.1  # Gopher; # and … a word
    max_bullets: Limit = 0.9  # Gopher; lines
    max_ellipses: Limit = 0.3  # Gopher; lines
    min_alphabetic: Limit = 0.8  # Gopher; words with a letter
    min_stop_words: Limit = 2  # Gopher; English and Chinese
    max_duplicate_lines: Limit = 0.3  # Gopher
    max_duplicate_paragraphs: Limit = 0.3
    max_duplicate_line_characters: Limit = 0.1  # FineWeb; Gopher has 0.2
    max_duplicate_paragraph_characters: Limit = 0.2
    top_grams: Limit = 1  # times Gopher's limits for n = 2 … 4
    duplicate_grams: Limit = 1  # times Gopher's limits for n = 5 … 10
    spaceless_grams: Limit = 2  # times both in scripts without spaces, where one long term is an n-gram
    max_braces: Limit = 0.01  # C4 drops any; characters
    min_ended_lines: Limit = 0.12  # FineWeb; lines that end in a terminal mark
    max_short_lines: Limit = 0.67  # FineWeb; lines of at most 30 characters
    max_line_breaks: Limit = 0.3  # FineWeb; a word
    lorem_ipsum: Limit = 1  # C4
    javascript: Limit = 1  # C4; a page that asks for it


class BlocklistSection(Section):
    """Files of words, domains and addresses, one a line; what has one of them is left out."""

    words: Files = Field(default_factory=list)
    domains: Files = Field(default_factory=list)
    urls: Files = Field(default_factory=list)


class PerplexitySection(Section):
    """An n-gram model of trusted text for a language; documents whose bucket is not kept are left out."""

    models: Files = Field(default_factory=list)  # "en=trusted/": language and texts, or a saved model (.npz)
    reference: Files = Field(default_factory=list)  # "en=sample.jsonl": texts whose thirds are head, middle and tail
    keep: list[Literal["head", "middle", "tail"]] = ["head", "middle"]

    @model_validator(mode="after")
    def _named(self) -> PerplexitySection:
        for entry in [*self.models, *self.reference]:
            language, _, path = entry.partition("=")
            if not (re.fullmatch("[a-z]{2,3}", language) and path):
                raise ValueError(f"models has {entry!r}; write language=file, such as en=trusted.txt")
        return self


class DuplicatesSection(Section):
    """Equal documents always go but one, near ones where asked for, and what a corpus of `against` has."""

    near: bool = False
    threshold: Share = 0.7  # share of equal values of two signatures
    words: Annotated[int, Field(ge=1, le=64)] = Shape().words  # of an n-gram
    characters: Annotated[int, Field(ge=1, le=64)] = Shape().characters  # of an n-gram in scripts without spaces
    bands: Annotated[int, Field(ge=1, le=256)] = Shape().bands
    rows: Annotated[int, Field(ge=1, le=64)] = Shape().rows
    paragraphs: bool = False  # take out paragraphs that came before, in the same document or another
    against: list[str] = Field(default_factory=list)  # corpus folders; their texts are not read
    index: bool = True  # keep signatures in the folder, 0.44 kB a document, so that it can be an old corpus later


class ContaminationSection(Section):
    """Evaluation sets; a document that holds `share` of an item's n-grams is counted, and left out."""

    sets: Files = Field(default_factory=list)
    share: Annotated[float, Field(gt=0, le=1)] = 0.7
    remove: bool = True  # false: only counted


class MixSection(Section):
    """How many times training documents are written. Nothing here changes that unless one of the last three does."""

    by: Literal["source", "language"] = "source"  # a source is a path that was given
    weights: list[str] = Field(default_factory=list)  # "wiki=3": group and share; one that is not named is not drawn
    temperature: Annotated[float, Field(ge=1)] = 1.0  # without weights: above 1, small groups are drawn more often
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0  # all that is drawn, as a multiple of all that is there

    @model_validator(mode="after")
    def _weighed(self) -> MixSection:
        for entry in self.weights:
            name, _, weight = entry.partition("=")
            if not (name and re.fullmatch(r"[0-9]+(\.[0-9]+)?", weight)):
                raise ValueError(f"weights has {entry!r}; write name=number, such as wiki=3")
        if self.weights and self.temperature != 1:
            raise ValueError("give either weights or a temperature")
        return self


class WikipediaSection(Section):
    """What is read of a MediaWiki dump."""

    variant: str = "zh-cn"  # of Chinese markup
    namespaces: list[int] = Field(default_factory=lambda: [0])
    tables: bool = True


class ArchiveSection(Section):
    """How the main text of a captured page is found."""

    careful: Literal["auto", "on", "off"] = "auto"  # the careful extractor: where trafilatura is installed
    careful_from: Annotated[int, Field(ge=0)] = 100  # characters of the fast text
    seconds: Annotated[float, Field(gt=0)] = 20.0  # for a page
    memory: Annotated[int, Field(ge=2**28)] = 2 * 2**30  # bytes for the extractor


class OutSection(Section):
    """The folder that is written."""

    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0  # of the choice of validation documents
    shard_mb: Annotated[float, Field(gt=0, le=65536)] = 256.0  # of text; about a third of it on the disk


class CorpusRecipe(Section):
    """Everything that a corpus depends on but its sources."""

    sources: SourcesSection = SourcesSection()
    languages: LanguagesSection = LanguagesSection()
    clean: CleanSection = CleanSection()
    quality: QualitySection = QualitySection()
    blocklist: BlocklistSection = BlocklistSection()
    perplexity: PerplexitySection = PerplexitySection()
    duplicates: DuplicatesSection = DuplicatesSection()
    contamination: ContaminationSection = ContaminationSection()
    mix: MixSection = MixSection()
    wikipedia: WikipediaSection = WikipediaSection()
    archive: ArchiveSection = ArchiveSection()
    out: OutSection = OutSection()


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation  # type: ignore[misc]
    for name, field in CorpusRecipe.model_fields.items()
}


PATHS = {  # the keys that name files and folders
    "blocklist": ("words", "domains", "urls"),
    "perplexity": ("models", "reference"),
    "duplicates": ("against",),
    "contamination": ("sets",),
}


def load_settings(path: str | Path | None = None, overrides: Sequence[str] = ()) -> CorpusRecipe:
    """Read a recipe file, or begin with the defaults, and change it by overrides such as "languages.keep=[en, zh]".

    Raises FileError for a file that cannot be read, else ConfigError of one sentence.
    """
    text = "" if path is None else read_text(path, MAX_RECIPE)
    source = "the settings" if path is None else str(path)
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{source}: not TOML ({error}); see recipes/corpus.toml for an example") from None
    for given in overrides:
        section, key, value = override(given, SECTIONS)
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {section} is {table!r:.40}, a section [{section}] is needed")
        table[key] = value
    for section, table in values.items():  # one text needs no brackets
        known = SECTIONS[section].model_fields if section in SECTIONS and isinstance(table, dict) else {}
        for key in set(known) & set(table):
            if isinstance(table[key], str) and isinstance(known[key].get_default(call_default_factory=True), list):
                table[key] = [table[key]]
    return from_values(values, source)


def with_values(recipe: CorpusRecipe, given: Mapping[str, Any]) -> CorpusRecipe:
    """The recipe with values put in by the names of their keys, such as "out.seed"."""
    values = recipe.model_dump()
    for name, value in given.items():
        section, _, key = name.partition(".")
        values[section][key] = value
    return from_values(values)


def from_values(values: dict[str, Any], source: str = "the settings") -> CorpusRecipe:
    """The recipe of plain values, checked."""
    try:
        return CorpusRecipe.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {mistake(error, SECTIONS)}") from None


def files_of(recipe: CorpusRecipe) -> list[str]:
    """Every file that a recipe names: a corpus is the same only as long as they are."""
    models = [path for _, path in pairs([*recipe.perplexity.models, *recipe.perplexity.reference])]
    blocked = recipe.blocklist
    return [*blocked.words, *blocked.domains, *blocked.urls, *models, *recipe.contamination.sets]


def pairs(entries: Sequence[str]) -> list[tuple[str, str]]:
    """("en", "a.txt") of each "en=a.txt"."""
    return [(name, value) for name, _, value in (entry.partition("=") for entry in entries)]


def absolute(recipe: CorpusRecipe) -> CorpusRecipe:
    """The recipe with every path made absolute."""
    return from_values(_with_paths(recipe, os.path.abspath))


def for_card(recipe: CorpusRecipe) -> dict[str, Any]:
    """The recipe as plain values that tell nothing of this machine: of each path the last name."""
    return _with_paths(recipe, lambda path: Path(path).name)


def _with_paths(recipe: CorpusRecipe, change: Callable[[str], str]) -> dict[str, Any]:
    values = recipe.model_dump()
    for section, keys in PATHS.items():
        for key in keys:
            named = [
                entry.partition("=") if section == "perplexity" else ("", "", entry) for entry in values[section][key]
            ]
            values[section][key] = [code + equals + change(path) for code, equals, path in named]
    return values
