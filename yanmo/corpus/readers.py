"""Which kinds of source are read by units: the table that reading looks into, and how a kind is told by content."""

from __future__ import annotations

from yanmo.corpus import warc, wikipedia
from yanmo.corpus.units import Reader

READERS: dict[str, Reader] = {"wikipedia": wikipedia.READER, "archive": warc.READER}

# What the reasons of pages that are left out on purpose mean, for people.
MEANINGS = {
    "continuation": "a part of a record, not a page",
    "disambiguation": "a page that lists pages of one name",
    "empty_page": "a capture without content",
    "http_status": "a capture of an answer other than 200",
    "media_type": "a capture of something other than HTML or plain text",
    "metadata": "a record about another record",
    "namespace": "a page that is no article",
    "no_text": "a page without a main text",
    "not_wikitext": "a page in another language than wikitext, such as a program",
    "redirect": "a page that leads to another",
    "request": "what a crawler asked for",
    "revisit": "a capture that refers to an earlier one",
    "warcinfo": "a record about the archive",
}


def kind_by_content(head: bytes) -> str | None:
    """The kind of a file of READERS by its first kilobytes, packed or not, whatever its name; None for any other."""
    if warc.is_archive(head):
        return "archive"
    return "wikipedia" if wikipedia.is_dump(head) else None
