"""One self-contained HTML page: what a report is made of.

In: texts, numbers, tables, charts (`yanmo.charts`). Out: one string of HTML that loads nothing from anywhere, reads
well on a phone, on a screen, in the dark and on paper, and shows Chinese and English alike.

    document      the page: title, lede, parts, footer; the style sheet is inlined, the network is forbidden
    section       a heading with its parts
    paragraph, note, code, commands
    cards         a row of big numbers
    facts         a list of names and values
    choices       the same thing in several forms, of which a reader sees one
    table         numbers to the right; scrolls inside its own box
    sample        a prompt and how it was continued
    number, duration, nbytes, flops      figures for people

Every function returns `Markup`; a plain `str` is text and is escaped where it enters a page, so foreign text cannot
become markup.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
NUMERIC = re.compile(r"[-+−–<>≈~ ]*[\d.,]+( ?[%×a-zA-Zµ/]{0,10})?|\d+ (h|min) \d+ (min|s)")
HAN = re.compile(r"[㐀-鿿豈-﫿]")
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff￾￿]")


class Markup(str):
    """HTML that is already escaped."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """Text as HTML; markup passes, and characters that no HTML may hold are shown as U+FFFD."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(CONTROLS.sub("�", str(text)), quote=True))


def join(parts: Sequence[object], separator: str = "\n") -> Markup:
    """Parts in a row, each escaped unless it is markup."""
    return Markup(separator.join(escape(part) for part in parts))


def document(
    title: str,
    parts: Sequence[object],
    *,
    lede: object = "",
    eyebrow: str = "",
    footer: object = "",
    language: str = "en",
) -> str:
    """The whole page as text. `language` is the page's lang attribute (BCP 47)."""
    style = resources.files("yanmo").joinpath("page.css").read_text(encoding="utf-8")
    body = [paragraph(part) if not isinstance(part, Markup) else part for part in parts]
    over = f'<p class="eyebrow">{escape(eyebrow)}</p>' if eyebrow else ""
    under = f'<p class="lede">{escape(lede)}</p>' if lede else ""
    return f"""<!DOCTYPE html>
<html lang="{escape(language)}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="Yanmo">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<span class="seal" lang="zh" aria-hidden="true">研<br>墨</span>
<div>{over}<h1>{escape(title)}</h1>{under}</div>
</header>
<main>
{join(body)}
</main>
<footer>{escape(footer)}</footer>
</body>
</html>
"""


def section(heading: str, *parts: object) -> Markup:
    """A part of the page under a heading of the second level; plain text becomes paragraphs."""
    inner = join([part if isinstance(part, Markup) else paragraph(part) for part in parts])
    return Markup(f"<section>\n<h2>{escape(heading)}</h2>\n{inner}\n</section>")


def heading(text: str) -> Markup:
    """A heading of the third level."""
    return Markup(f"<h3>{escape(text)}</h3>")


def paragraph(*text: object) -> Markup:
    """A paragraph."""
    return Markup(f"<p>{join(text, '')}</p>")


def note(*text: object) -> Markup:
    """A paragraph of smaller weight: how something was measured, what it leaves out."""
    return Markup(f'<p class="note">{join(text, "")}</p>')


def strong(text: object) -> Markup:
    """Words that matter in a sentence."""
    return Markup(f"<strong>{escape(text)}</strong>")


def inline_code(text: object) -> Markup:
    """A name, path or value inside a sentence."""
    return Markup(f"<code>{escape(text)}</code>")


def code(text: str) -> Markup:
    """A block of code or commands, kept as it is; long lines wrap without a sign of their own."""
    return Markup(f'<pre class="code"><code>{escape(text.rstrip())}</code></pre>')


def commands(steps: Sequence[tuple[str, str]]) -> Markup:
    """A list of (what it does, command)."""
    items = [f"<li><p>{escape(what)}</p>{code(command)}</li>" for what, command in steps]
    return Markup(f'<ol class="commands">{"".join(items)}</ol>')


def cards(items: Sequence[tuple[str, object, str]]) -> Markup:
    """Big numbers in a row: (label, value, remark)."""
    boxes = []
    for label, value, remark in items:
        small = f'<dd class="remark">{escape(remark)}</dd>' if remark else ""
        boxes.append(f'<div><dt>{escape(label)}</dt><dd class="value">{escape(figure(value))}</dd>{small}</div>')
    return Markup(f'<dl class="cards">{"".join(boxes)}</dl>')


def facts(items: Mapping[str, object]) -> Markup:
    """Names and values, one pair a line."""
    lines = [f"<div><dt>{escape(name)}</dt><dd>{escape(figure(value))}</dd></div>" for name, value in items.items()]
    return Markup(f'<dl class="facts">{"".join(lines)}</dl>')


def choices(name: str, label: str, options: Sequence[tuple[str, object]]) -> Markup:
    """One of up to four forms of the same thing, by buttons that need no script; `name` is unique on the page."""
    assert 1 <= len(options) <= 4, "the style sheet knows four"
    buttons = []
    for index, (title, _) in enumerate(options):
        key = f"{name}-{index}"
        checked = " checked" if index == 0 else ""
        buttons.append(f'<input type="radio" name="{escape(name)}" id="{escape(key)}"{checked}>')
        buttons.append(f'<label for="{escape(key)}">{escape(title)}</label>')
    forms = [f'<div class="choice">{escape(form)}</div>' for _, form in options]
    about = f'<span class="about">{escape(label)}</span>'
    group = f'role="group" aria-label="{escape(label)}"'
    return Markup(f'<div class="choices" {group}>{about}{"".join(buttons)}{"".join(forms)}</div>')


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "", best: int | None = None
) -> Markup:
    """A table; a column of numbers stands to the right, `best` is the row that is marked, None is shown as a dash."""
    width = len(header)
    assert all(len(row) == width for row in rows), "every row needs a cell for every column"
    right = [_is_numeric([row[i] for row in rows]) for i in range(width)]
    side = [' class="n"' if flag else "" for flag in right]
    head = "".join(f'<th scope="col"{side[i]}>{escape(header[i])}</th>' for i in range(width))
    body = []
    for index, row in enumerate(rows):
        first = f'<th scope="row"{side[0]}>{escape(figure(row[0]))}</th>'
        rest = "".join(f"<td{side[i]}>{escape(figure(row[i]))}</td>" for i in range(1, width))
        body.append(f"<tr{' class=best' if index == best else ''}>{first}{rest}</tr>")
    if not rows:
        body.append(f'<tr><td colspan="{width}">nothing to show</td></tr>')
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    label = f' aria-label="{escape(caption or "table")}"'
    inner = f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return Markup(f'<div class="scroll" role="region" tabindex="0"{label}>{inner}</div>')


def _is_numeric(cells: Sequence[object]) -> bool:
    seen = [cell for cell in cells if cell is not None]
    plain = (isinstance(cell, (int, float)) or NUMERIC.fullmatch(str(cell)) is not None for cell in seen)
    return bool(seen) and all(plain)


def sample(prompt: str, continuations: Sequence[tuple[str, str]], *, source: str = "", label: str = "Prompt") -> Markup:
    """A prompt and its continuations as (who wrote it, text); line breaks are kept."""
    lines = [_voice(label, prompt, "prompt")]
    lines += [_voice(who, text, "truth" if index else "written") for index, (who, text) in enumerate(continuations)]
    cite = f'<figcaption class="note">{escape(source)}</figcaption>' if source else ""
    return Markup(f'<figure class="sample">{"".join(lines)}{cite}</figure>')


def _voice(who: str, text: str, kind: str) -> str:
    return f'<div class="{kind}"><span class="who">{escape(who)}</span><div{lang_of(text)}>{escape(text)}</div></div>'


def lang_of(text: str) -> str:
    """The lang attribute for a foreign text: Chinese where its characters are, else undetermined."""
    return ' lang="zh"' if HAN.search(text) else ' lang=""'


def figure(value: object) -> object:
    """A cell or card value: numbers are formatted, None is a dash, anything else stays."""
    if value is None:
        return "–"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return value


def number(value: float, digits: int = 4) -> str:
    """A number for people: thousands grouped, `digits` significant digits, no exponent between 1e-4 and 1e15."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return (text.rstrip("0").rstrip(".") if "." in text and places > 4 else text).replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds for people: 0.85 s, 42 s, 2 min 58 s, 1 h 20 min."""
    if not math.isfinite(seconds):
        return number(seconds)
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def nbytes(value: float) -> str:
    """Bytes for people, in steps of 1000: 512 B, 3.2 MB."""
    return _scaled(value, ["B", "kB", "MB", "GB", "TB", "PB"])


def flops(value: float, per_second: bool = False) -> str:
    """Floating-point operations for people: 12.3 TFLOP, 410 GFLOP/s."""
    unit = "FLOP/s" if per_second else "FLOP"
    return _scaled(value, [prefix + unit for prefix in ("", "k", "M", "G", "T", "P", "E")])


def _scaled(value: float, units: Sequence[str]) -> str:
    if not math.isfinite(value):
        return number(value)
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:
        value /= 1000
        step += 1
    return f"{value:.0f} {units[step]}" if step == 0 or abs(value) >= 99.95 else f"{value:.3g} {units[step]}"
