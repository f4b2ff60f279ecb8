"""Main text of web pages: token F-score on pages whose segments people have marked, ours beside the peers.

In: a tar.gz with evaldata.json (url → file, with: segments to keep, without: segments to drop) and the pages. Out: a
line for each extractor, on all pages and on the half that no rule of ours was tried on.

    score      extractor → precision, recall and F over the tokens of the marked segments
    main       python -m benchmarks.extraction [ARCHIVE]

A segment counts with all its tokens (words, or single Han characters) if it is in the text, white space aside, else
with none: a kept `with` is a true positive, a missed one a false negative, a kept `without` a false positive.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yanmo.corpus import extract

ARCHIVE = Path(__file__).resolve().parents[2] / "shared/data/webcrawl/trafilatura-html-extraction-gold.tar.gz"
_TOKENS = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")

Gold = list[tuple[bytes, list[str], list[str]]]


def load(archive: Path = ARCHIVE, held_out: bool | None = None) -> Gold:
    """Pages with their segments; held_out: True for the half that was not looked at, False for the other."""
    with tarfile.open(archive) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}  # type: ignore[union-attr]
    known = json.loads(next(data for name, data in files.items() if name.endswith("evaldata.json")))
    pages = {name.rsplit("/", 1)[-1]: data for name, data in files.items()}
    gold = []
    for url, marks in sorted(known.items()):
        half = hashlib.sha1(url.encode()).digest()[0] % 2 == 1
        page = pages.get(marks["file"].rsplit("/", 1)[-1])
        if page is not None and held_out in (None, half):
            gold.append((page, marks["with"], marks["without"]))
    return gold


def score(gold: Gold, extractor: Callable[[bytes], str]) -> dict[str, float]:
    """Precision, recall and F over the tokens of marked segments, and seconds."""
    right = missed = wrong = 0
    extractor(gold[0][0])  # what is loaded at the first page
    began = time.monotonic()  # the child's time counts
    texts = [extractor(page) for page, _, _ in gold]
    seconds = time.monotonic() - began
    for text, (_, keep, drop) in zip(texts, gold):
        flat = "".join(text.split())
        for segment in keep:
            size = len(_TOKENS.findall(segment))
            found = "".join(segment.split()) in flat
            right, missed = right + size * found, missed + size * (not found)
        for segment in drop:
            wrong += len(_TOKENS.findall(segment)) * ("".join(segment.split()) in flat)
    precision, recall = right / max(right + wrong, 1), right / max(right + missed, 1)
    f = 2 * precision * recall / max(precision + recall, 1e-9)
    return {"precision": precision, "recall": recall, "f": f, "seconds": seconds}


def extractors() -> dict[str, Callable[[bytes], str]]:
    """Ours and the peers that are installed."""
    found: dict[str, Callable[[bytes], str]] = {"yanmo": lambda page: ours(page, {})}
    found["yanmo fast"] = lambda page: ours(page, {"careful": "off"})
    try:
        import trafilatura

        found["trafilatura"] = lambda page: trafilatura.extract(page) or ""
        found["trafilatura as datatrove"] = lambda page: (
            trafilatura.extract(page, favor_precision=True, include_comments=False, deduplicate=True) or ""
        )
    except ImportError:
        pass
    try:
        import lxml.html
        import readability

        def readable(page: bytes) -> str:
            text = page.decode("utf-8", "replace")
            try:
                return lxml.html.fromstring(readability.Document(text).summary()).text_content()
            except Exception:  # the peer fails on some pages
                return ""

        found["readability"] = readable
    except ImportError:
        pass
    from resiliparse.extract.html2text import extract_plain_text

    found["resiliparse"] = lambda page: extract_plain_text(
        page.decode("utf-8", "replace"), main_content=True, alt_texts=False
    )
    return found


def ours(page: bytes, settings: dict[str, Any]) -> str:
    """The main text as the corpus gets it."""
    try:
        return extract.main_text(page, "", True, settings).text
    except Exception:
        return ""


def main() -> None:
    """Print the table."""
    archive = Path(sys.argv[1]) if len(sys.argv) > 1 else ARCHIVE
    for name, half in (("all", None), ("held out", True)):
        gold = load(archive, half)
        for label, extractor in extractors().items():
            s = score(gold, extractor)
            figures = f"P {s['precision']:.4f} R {s['recall']:.4f} F {s['f']:.4f} {s['seconds']:.2f} s"
            print(f"{name:9} {len(gold):4} pages {label:26} {figures}")


if __name__ == "__main__":
    main()
