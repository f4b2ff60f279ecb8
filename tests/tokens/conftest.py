"""Small vocabularies of every format, made in the test's own folder from one bilingual text."""

from __future__ import annotations

import json
import textwrap
import typing
from pathlib import Path

import pytest
import sentencepiece
from vocabularies import CHINESE, config, spm

WORDS = {"llama": 600, "t5": 400, "xlm-roberta": 400, "marian": 300}


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Some thousand lines of English and Chinese that every Python has."""
    english = [line for module in (textwrap, typing) for line in Path(module.__file__).read_text("utf-8").split("\n")]
    return english + [CHINESE[place:] for place in range(len(CHINESE))] * 3


@pytest.fixture(scope="session")
def llama_model(corpus: list[str]) -> bytes:
    settings = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
    return spm(corpus, "bpe", WORDS["llama"], character_coverage=0.98, **settings)


@pytest.fixture(scope="session")
def t5_model(corpus: list[str]) -> bytes:
    return spm(corpus, "unigram", WORDS["t5"], pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


@pytest.fixture(scope="session")
def xlmr_model(corpus: list[str]) -> bytes:
    return spm(corpus, "unigram", WORDS["xlm-roberta"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


@pytest.fixture
def llama(folder: Path, llama_model: bytes) -> Path:
    (folder / "tokenizer.model").write_bytes(llama_model)
    config(folder, tokenizer_class="LlamaTokenizer", legacy=False, add_bos_token=True, add_eos_token=False)
    return folder


@pytest.fixture
def t5(folder: Path, t5_model: bytes) -> Path:
    (folder / "spiece.model").write_bytes(t5_model)
    config(folder, tokenizer_class="T5Tokenizer")
    return folder


@pytest.fixture
def xlmr(folder: Path, xlmr_model: bytes) -> Path:
    (folder / "sentencepiece.bpe.model").write_bytes(xlmr_model)
    config(folder, tokenizer_class="XLMRobertaTokenizer")
    return folder


@pytest.fixture
def m2m(folder: Path, t5_model: bytes) -> Path:
    """M2M100: its own four ids, pieces in an order of their own, languages behind them."""
    model = sentencepiece.SentencePieceProcessor(model_proto=t5_model)
    pieces = [model.id_to_piece(number) for number in range(3, model.get_piece_size())]
    table = {piece: number for number, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces[::-1]])}
    (folder / "sentencepiece.bpe.model").write_bytes(t5_model)
    (folder / "vocab.json").write_text(json.dumps(table), "utf-8")
    config(folder, tokenizer_class="M2M100Tokenizer", src_lang="zh")
    return folder


@pytest.fixture(scope="session")
def marian_files(corpus: list[str]) -> dict[str, bytes]:
    english = [line for line in corpus if line.isascii()]
    chinese = [line for line in corpus if not line.isascii()]
    source = spm(english, "unigram", WORDS["marian"])
    target = spm(chinese, "unigram", 120)
    pieces: dict[str, int] = {"</s>": 0, "<unk>": 1}
    for data in (source, target):
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        for number in range(3, model.get_piece_size()):
            pieces.setdefault(model.id_to_piece(number), len(pieces))
    for token in (">>zh<<", "<pad>"):
        pieces[token] = len(pieces)
    return {"source.spm": source, "target.spm": target, "vocab.json": json.dumps(pieces).encode()}


@pytest.fixture
def marian(folder: Path, marian_files: dict[str, bytes]) -> Path:
    for name, data in marian_files.items():
        (folder / name).write_bytes(data)
    config(folder, tokenizer_class="MarianTokenizer")
    return folder


@pytest.fixture(scope="session")
def pair_files(corpus: list[str]) -> tuple[str, str]:
    """vocab.json and merges.txt of a byte-level BPE with the special tokens of GPT-2 and RoBERTa."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(corpus, trainer)
    model = json.loads(library.to_str())["model"]
    return json.dumps(model["vocab"]), "#version: 0.2\n" + "\n".join(
        " ".join(merge) for merge in model["merges"]
    ) + "\n"


@pytest.fixture
def pair(folder: Path, pair_files: tuple[str, str]) -> Path:
    (folder / "vocab.json").write_text(pair_files[0], "utf-8")
    (folder / "merges.txt").write_text(pair_files[1], "utf-8")
    return folder


@pytest.fixture(scope="session")
def vocab_text() -> str:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.,!?；，。！你好世界今天气很")
    words = ["hello", "world", "model", "the", "cafe", "##ing", "##ed"]
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]
    return "\n".join(lines) + "\n"


@pytest.fixture
def bert(folder: Path, vocab_text: str) -> Path:
    (folder / "vocab.txt").write_text(vocab_text, "utf-8")
    config(folder, tokenizer_class="BertTokenizer", do_lower_case=True)
    return folder
