"""A tokenizer from text.

In: texts, a kind, a size. Out: a Tokenizer; the same texts and settings give the same one, byte for byte.

    train_tokenizer    bpe: bytes, any text comes back unchanged (decoders) · wordpiece: BERT's (encoders) · unigram:
                       T5's (encoder-decoders)
    train_pair         a model for each side of a translation, over one table of ids (Marian's)
    compression        bytes of text per token

Byte-level BPE splits text as Qwen 2 and 3 do before it counts pairs: letters, single digits, signs, line ends, spaces.
Chinese needs no words for that: a run of characters between two signs is one stretch, in which pairs are found.

Two trainers of the tokenizers library go through hash tables in an order that changes from run to run. For WordPiece
the order only numbers the alphabet, so the alphabet is counted and sorted here and handed to it. For Unigram it
changes sums and breaks ties, so the scores come from sentencepiece, which trained T5's own vocabulary, and the
tokenizers library runs the result.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from yanmo.errors import InputError
from yanmo.files import atomic_folder, reason, write_atomic, write_json
from yanmo.tokens.fast import FastEngine
from yanmo.tokens.formats import QWEN2
from yanmo.tokens.piecemodel import PieceModel, parse_model
from yanmo.tokens.settings import Settings
from yanmo.tokens.tokenizer import Tokenizer

KINDS = ("bpe", "wordpiece", "unigram")
END = "<|endoftext|>"
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
T5 = ("<pad>", "</s>", "<unk>")
MAX_VOCAB = 1_000_000
MAX_BYTES = 2**32  # pair counts of the trainer are 32 bits wide, and a sample of 1 GB gives the same vocabulary
PIECE = 16  # the longest Unigram piece, in characters; sentencepiece's own default
LINE = 4096  # bytes in one sentence of the Unigram trainer
THREADS = 4  # fixed, since the sums of the Unigram trainer depend on it, and not on the number of cores


def train_tokenizer(
    texts: Iterable[str],
    kind: str = "bpe",
    vocab_size: int = 8192,
    *,
    special_tokens: Sequence[str] = (),
    min_frequency: int = 2,
    lowercase: bool = True,
) -> Tokenizer:
    """Train a tokenizer of at most `vocab_size` ids; less only where the texts have no more pairs to join.

    texts: documents; bpe reads them once and keeps none, wordpiece keeps them and unigram keeps their lines.
    special_tokens: more of them, after the kind's own. min_frequency: pairs seen less often are not joined (bpe,
    wordpiece). lowercase: wordpiece alone. Raises InputError for texts without a character, a lone surrogate, more
    than 4 GiB, or a size that cannot hold the alphabet.
    """
    if kind not in KINDS:
        raise InputError(f"no tokenizer of the kind {kind!r}; kinds are {', '.join(KINDS)}")
    if not isinstance(vocab_size, int) or isinstance(vocab_size, bool) or not 1 <= vocab_size <= MAX_VOCAB:
        raise InputError(f"a vocabulary of {vocab_size!r} tokens; choose a number from 1 to {MAX_VOCAB:,}")
    if not isinstance(min_frequency, int) or min_frequency < 1:
        raise InputError(f"a smallest frequency of {min_frequency!r}; choose a number from 1")
    if isinstance(texts, str):
        raise InputError("one text where a list of texts is needed; put it into brackets")
    own = {"bpe": (END,), "wordpiece": BERT, "unigram": T5}[kind]
    more = tuple(special_tokens)
    if len({*own, *more}) != len(own) + len(more) or not all(isinstance(token, str) and token for token in more):
        raise InputError(f"the special tokens {list(more)} are empty, repeated, or among {list(own)}; name each once")
    checked = _checked(texts)
    if kind == "bpe":
        library = _bpe(checked, vocab_size, (*own, *more), min_frequency)
        names: dict[str, str | None] = {"eos": END}
    elif kind == "wordpiece":
        library = _wordpiece(list(checked), vocab_size, (*own, *more), min_frequency, lowercase)
        names = {"pad": BERT[0], "unk": BERT[1], "cls": BERT[2], "sep": BERT[3], "mask": BERT[4]}
    else:
        library = _unigram(checked, vocab_size, (*own, *more))
        names = {"pad": T5[0], "eos": T5[1], "unk": T5[2]}
    path = Path(f"trained-{kind}")
    return Tokenizer(FastEngine(library, path, names), Settings(path, "", names))


def compression(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Bytes of UTF-8 per token over all texts, without special tokens; higher is better."""
    n_bytes = n_tokens = 0
    for text in texts:
        n_tokens += len(tokenizer.encode(text, add_special_tokens=False))
        n_bytes += len(text.encode())
    if not n_tokens:
        raise InputError("no tokens to count, since the texts are empty; give some text")
    return n_bytes / n_tokens


def _checked(texts: Iterable[str]) -> Iterator[str]:
    total, seen = 0, False
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {number} is a {type(text).__name__}; texts are strings")
        try:
            total += len(text.encode())
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {number} holds the lone surrogate {text[error.start]!r} at position {error.start}, which is no "
                "character; remove it, or decode the source with the right encoding"
            ) from None
        if total > MAX_BYTES:
            raise InputError(f"more than {MAX_BYTES:,} bytes of text, which the trainer cannot count; give a sample")
        seen = seen or bool(text) and not text.isspace()
        if text:
            yield text
    if not seen:
        raise InputError("no text to train a tokenizer on; give documents with some characters")


def train_pair(sources: Iterable[str], targets: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train Marian's kind of tokenizer, a Unigram model of at most `vocab_size` pieces for each side, into `folder`.

    Pieces of both sides that are alike share an id, so there are up to twice as many ids. Raises as train_tokenizer.
    """
    sides = {
        name: piece_model(_checked(texts), vocab_size) for name, texts in (("source", sources), ("target", targets))
    }
    pieces = dict.fromkeys(piece for model in sides.values() for piece in model.pieces)
    words = [piece for piece in pieces if piece not in T5]
    table = {word: number for number, word in enumerate(("</s>", "<unk>", *words, "<pad>"))}
    with atomic_folder(folder) as made:
        for name, model in sides.items():
            write_atomic(made / f"{name}.spm", model.data)
        write_json(made / "vocab.json", table)
        write_json(made / "tokenizer_config.json", {"tokenizer_class": "MarianTokenizer"})


def _bpe(texts: Iterator[str], size: int, special: tuple[str, ...], least: int) -> Library:
    smallest = 256 + len(special)
    _fits(size, smallest, "the 256 bytes")
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=least,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    return library


def _wordpiece(texts: list[str], size: int, special: tuple[str, ...], least: int, lowercase: bool) -> Library:
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    texts = [normalizer.normalize_str(text) for text in texts]
    letters = _letters(texts, splitter, size - len(special))
    _fits(size, len(special) + len(letters), f"{len(letters)} letters, at the beginning and inside of words,")
    library = Library(models.BPE(continuing_subword_prefix="##"))
    library.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=least,
        special_tokens=[*special, *letters],
        limit_alphabet=0,  # the letters are all in special_tokens, which keep their order
        initial_alphabet=[],
        continuing_subword_prefix="##",
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    table = library.get_vocab(True)
    result = Library(models.WordPiece(table, unk_token="[UNK]"))
    result.normalizer = normalizer
    result.pre_tokenizer = splitter
    result.decoder = decoders.WordPiece()
    _add(result, special)
    result.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, table[token]) for token in ("[CLS]", "[SEP]")],
    )
    return result


def _letters(texts: list[str], splitter: pre_tokenizers.PreTokenizer, room: int) -> list[str]:
    """The alphabet, sorted: each letter, and ##letter where it stands inside a word.

    Letters beyond half of the room are left to [UNK], the rarest first, so that there is room for words.
    """
    counts: Counter[str] = Counter()
    pairs: set[tuple[str, str]] = set()
    for text in texts:
        counts.update(text)
        pairs.update(zip(text, text[1:]))
    joined = (first + second for first, second in pairs)
    inside = {pair[1] for pair in joined if splitter.pre_tokenize_str(pair) == [(pair, (0, 2))]}
    ranked = sorted((letter for letter in counts if not letter.isspace()), key=lambda c: (-counts[c], c))
    kept: list[str] = []
    for letter in ranked:
        forms = [letter, "##" + letter] if letter in inside else [letter]
        if len(kept) + len(forms) > max(room // 2, 1) and kept:
            break
        kept += forms
    return sorted(kept)


def _unigram(texts: Iterator[str], size: int, special: tuple[str, ...]) -> Library:
    more = special[len(T5) :]
    _fits(size, len(special) + 1, "one piece")
    model = piece_model(texts, size - len(more))
    pieces = list(zip(model.pieces, model.scores))
    library = Library(models.Unigram([*pieces, *((token, 0.0) for token in more)], unk_id=2, byte_fallback=False))
    library.normalizer = normalizers.Precompiled(model.charsmap)
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always", split=True)]
    )
    library.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    _add(library, special)
    library.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return library


def piece_model(texts: Iterator[str], size: int) -> PieceModel:
    """A SentencePiece Unigram model of at most `size` pieces: <pad>, </s> and <unk> are its first."""
    written = io.BytesIO()
    lines = _Lines(texts)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=written,
            vocab_size=size,
            model_type="unigram",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            max_sentencepiece_length=PIECE,
            max_sentence_length=2 * LINE,
            num_threads=THREADS,
            minloglevel=3,
        )
    except (RuntimeError, OSError) as error:
        if lines.failure is not None:
            raise lines.failure from None
        raise InputError(
            f"no unigram vocabulary of {size:,} tokens from these texts ({reason(error)[:200]}); "
            "give more text or another size"
        ) from None
    if lines.failure is not None:
        raise lines.failure
    return parse_model(Path("trained-unigram"), written.getvalue())


class _Lines:
    """Texts as sentences for sentencepiece: lines, and longer ones in parts, so that none is skipped for its length.

    An error while the texts are read is kept, since it cannot pass through the library.
    """

    def __init__(self, texts: Iterator[str]) -> None:
        self.failure: BaseException | None = None
        self._parts = self._cut(texts)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._parts)
        except StopIteration:
            raise
        except BaseException as error:
            self.failure = error
            raise StopIteration from None

    @staticmethod
    def _cut(texts: Iterator[str]) -> Iterator[str]:
        width = LINE // 4  # characters; UTF-8 has at most four bytes for one
        for text in texts:
            for line in re.split(r"[\r\n\0]+", text):  # the trainer refuses NUL, which is no letter of any word
                while len(line) > width:
                    end = line.rfind(" ", 1, width)
                    end = end if end > 0 else width
                    yield line[:end]
                    line = line[end:]
                if line.strip():
                    yield line


def _add(library: Library, special: tuple[str, ...]) -> None:
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])


def _fits(size: int, smallest: int, what: str) -> None:
    if size < smallest:
        raise InputError(
            f"a vocabulary of {size:,} tokens cannot hold {what} and the special tokens; choose at least {smallest:,}"
        )
