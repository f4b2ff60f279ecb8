"""Sentences of a text and its layout: nothing is lost, and lists, indentation and wrapped lines come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yanmo.tasks.sentences import joined, rebuild, sentences, split

LAYOUT = """# A heading

Dr. Smith went to Washington, e.g. to the Capitol. He left
on Monday!

 - one item. Two sentences.
 - second item
   1) a deep item

\tIndented by a tab.\r
他来了。“真的吗？”她问。2017年他又走了。

"""
WRAPPED = """This is a paragraph that was wrapped by hand at about sixty
characters, so that its sentences go over lines. The second
sentence is here. And a third.
"""


def parts(text: str, language: str) -> list[str]:
    return [text[begin:end] for begin, end in sentences(text, language)]


@pytest.mark.parametrize(
    ("language", "wanted"),
    [
        ("en", ["Dr. Smith paid 3.50 dollars, e.g. for No. 5.", "He left!", '"Really?" she asked.', "Yes."]),
        ("de", ["Am 3. Oktober kam Dr. Müller z. B. nach Berlin.", "Er blieb lange.", "12 Gäste warteten."]),
        ("zh", ["他来了。", "1917年她走了！", "真的？", "ABC公司在3.5公里外。"]),
    ],
)
def test_sentences_end_where_a_reader_sees_it(language: str, wanted: list[str]) -> None:
    assert parts(("" if language == "zh" else " ").join(wanted), language) == wanted


def test_a_text_comes_back_with_its_layout() -> None:
    blocks = split(LAYOUT, "en")
    assert rebuild(blocks, [block.sentences for block in blocks]) == LAYOUT
    said = [sentence for block in blocks for sentence in block.sentences]
    assert "one item." in said and "a deep item" in said and "Indented by a tab." in said
    assert all(sentence == sentence.strip() and sentence for sentence in said)


def test_wrapped_lines_are_one_paragraph_and_are_wrapped_again() -> None:
    (block,) = split(WRAPPED, "en")
    assert block.sentences[1] == "The second sentence is here."
    assert rebuild([block], [block.sentences]) == WRAPPED
    longer = rebuild([block], [[sentence.upper() + " AND MORE WORDS" for sentence in block.sentences]])
    assert max(map(len, longer.splitlines())) <= 59 and longer.count("\n") >= 3


def test_between_chinese_sentences_stands_no_space_and_between_others_one() -> None:
    blocks = split("He came. She left.", "en")
    assert rebuild(blocks, [["他来了。", "她走了。"]]) == "他来了。她走了。"
    blocks = split("他来了。她走了。", "zh")
    assert rebuild(blocks, [["He came.", "She left."]]) == "He came. She left."
    assert joined(["他来了，", "", " 她走了"]) == "他来了，她走了" and joined(["he came", "也", "来"]) == "he came 也来"
    assert joined(["", ""]) == ""


@given(st.text(alphabet=st.characters() | st.sampled_from("\n\t .!?。！-*1)（“”aÄ中"), max_size=200))
def test_every_character_of_any_text_is_kept(text: str) -> None:
    blocks = split(text, "de")
    for block in blocks:
        assert len(block.gaps) == max(len(block.sentences) - 1, 0)
    flat = "".join(b.before + "".join(b.sentences) + "".join(b.gaps) + b.after for b in blocks)
    assert "".join(flat.split()) == "".join(text.split())
    if not any(block.width for block in blocks) and "\n" in text:
        assert [line.strip() == "" for line in rebuild(blocks, [b.sentences for b in blocks]).split("\n")] == [
            line.strip() == "" for line in text.split("\n")
        ]
