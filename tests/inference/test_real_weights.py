"""A real model that nobody here trained: 260K parameters, taught on TinyStories."""

from __future__ import annotations

from pathlib import Path

import pytest

import yanmo
from tests.llama2c import convert

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
)


@pytest.fixture(scope="module")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> yanmo.Model:
    folder = tmp_path_factory.mktemp("stories")
    weights = shared_data / "weights"
    convert(weights / "stories260K.bin", weights / "stories260K-tok512.bin", folder)
    return yanmo.load(folder)


def test_it_writes_the_known_story_from_its_first_token_alone(stories: yanmo.Model) -> None:
    assert stories.tokenizer.encode("") == [1]
    assert stories.generate("", max_new_tokens=120).startswith(STORY)


def test_it_continues_a_prompt_and_streams_the_same_text(stories: yanmo.Model) -> None:
    prompt = STORY[:52]
    text = stories.generate(prompt, max_new_tokens=60)
    assert (prompt + text).startswith(STORY[:100])
    pieces = list(stories.stream(prompt, max_new_tokens=60))
    assert "".join(pieces) == text
    assert len(pieces) > 20


def test_a_saved_copy_writes_the_same_story(stories: yanmo.Model, tmp_path: Path) -> None:
    stories.save(tmp_path / "copy")
    assert yanmo.load(tmp_path / "copy").generate("", max_new_tokens=40) == stories.generate("", max_new_tokens=40)


def test_the_end_of_a_prompt_does_not_come_back_in_the_text(stories: yanmo.Model) -> None:
    """A line end is a byte of its own here, which is held until it is known whether a character goes on."""
    text = stories.generate("Once upon a time\n", max_new_tokens=8)
    ids = stories.tokenizer.encode("Once upon a time\n")
    new = stories.generations(["Once upon a time\n"], max_new_tokens=8)[0][0].ids
    assert "Once upon a time\n" + text == stories.tokenizer.decode(ids + new)
