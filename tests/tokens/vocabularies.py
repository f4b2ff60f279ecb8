"""What the tests of tokenizers share: texts that go wrong elsewhere, and how small vocabularies are made."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece

CHINESE = (
    "研墨是把墨在砚台上慢慢磨开。今天天气很好，我们去公园散步。"
    "语言模型从文字里学习下一个词。数字是12345，价格为99.5元！"
)

TEXTS = [
    "",
    " ",
    "  two  spaces and a tab\there ",
    "Hello world",
    " Hello, World! It's 3.14 o'clock; isn't it?",
    "你好，世界！今天天气很好。",
    "我用Python写了一个语言模型 model v2。",
    "emoji 🙂👩‍👩‍👧‍👦🏳️‍🌈 and flags 🇨🇳",
    "a\nb\r\nc\n\n\n  d\u2028e",
    "NUL \0 and \x01\x02 and \x7f\x85 and \ufeff mark",
    "naïve café ÀÉÎ ﬁ ﷺ ① ½ Å",
    "ⰀⰁ 𠀀𪛖 ᚠᛇ क्षि ไทย",
    "▁ literal ▁▁ marks Ġ and ##ing",
    "<s> and </s> and <unk> [CLS] [MASK] <|endoftext|> <extra_id_0> <pad>",
    "</s></s>x<s>",
    "\u202emixed \u0301 combining e\u0301\u0323",
    "x" * 300,
]


def spm(corpus: list[str], kind: str, size: int, **settings: Any) -> bytes:
    """A SentencePiece model, trained by the library itself."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=out,
        model_type=kind,
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=3,
        **settings,
    )
    return out.getvalue()


def config(folder: Path, **values: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(values), "utf-8")
