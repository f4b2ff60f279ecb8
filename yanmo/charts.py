"""Charts as inline SVG for `yanmo.page`: no toolkit, no script, legible at 360 pixels and on paper.

In: series of numbers. Out: `Markup` of a figure with a caption, a title and a description for screen readers.

    line_chart     several series over a common axis, each with a colour, a dash and a mark of its own
    bar_chart      labelled horizontal bars from zero
    heat_maps      square maps side by side: the attention of several heads over the tokens of one text
    linear_ticks, log_ticks     where an axis is labelled

Line and bar charts are drawn twice, at the width of a desk and of a phone; the style sheet shows the one that fits, so
that the letters keep their size. A value that is not finite, beyond 1e30, or not positive on a logarithmic axis breaks
the line and is counted in the caption. A curve of many points is thinned so that its peaks stay.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from yanmo.page import Markup, escape, number

WIDE, NARROW = 940, 328  # the inner width of the page on a desk and on a phone of 360 pixels
CHARACTER = 6.7  # the mean width of a character of the 12-pixel system font
DASHES = ("", "7 4", "2 4", "10 4 2 4", "1 5", "12 5")
LARGEST, SMALLEST = 1e30, 1e-30  # beyond these an axis has no exact ticks
Runs = Sequence[Sequence[tuple[float, float]]]  # one curve, broken where a value is missing
MAX_POINTS = 400  # a curve of more points than pixels is thinned for drawing


@dataclass(frozen=True)
class Series:
    """A named curve: points as (x, y).

    `band`, (x, lowest, highest), is drawn behind a curve of means. `missing`: values that the points leave out.
    """

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    missing: int = 0


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def linear_ticks(low: float, high: float, target: int = 6) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) from at or below `low` to at or above `high`."""
    if high - low <= max(1e-9 * max(abs(low), abs(high)), SMALLEST):
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(target - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float, target: int = 7) -> list[float]:
    """1, 2, 5 times powers of ten that enclose the range, thinned to powers of ten (of 100, …) where they are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-12)
    fine = [m * 10.0**e for e in range(first, max(last, first + 1) + 1) for m in (1, 2, 5)]
    inside = [v for v in fine if low * 0.999 <= v <= high * 1.001]
    below, above = [v for v in fine if v < low * 0.999], [v for v in fine if v > high * 1.001]
    ticks = below[-1:] + inside + above[:1]
    if len(ticks) <= target:
        return ticks
    stride = max(1, math.ceil((last - first + 1) / target))
    return [10.0**e for e in range(first, last + stride, stride)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels of equal precision, as short as they tell the ticks apart; thousands as k, millions as M."""
    top = max(abs(t) for t in ticks)
    for limit, divisor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if top >= limit:
            return [("0" if t == 0 else f"{t / divisor:.6g}{unit}").replace("-", "−") for t in ticks]
    if top < 1e-3:
        return [f"{t:.2g}".replace("-", "−") for t in ticks]
    return [f"{round(t, 10):.10g}".replace("-", "−") for t in ticks]


def line_chart(
    series: Sequence[Series], title: str, x_label: str, y_label: str, *, log_x: bool = False, log_y: bool = False
) -> Markup:
    """Curves over a common axis. Series without a drawable point stay in the legend, marked "no value"."""
    kept = [_drawable(one.points, log_x, log_y) for one in series]
    counts = [(one.name, max(missing, one.missing)) for one, (_, missing) in zip(series, kept)]
    dropped = [(name, count) for name, count in counts if count]
    curves = [[_thin(run) for run in runs] for runs, _ in kept]
    bands = [_drawable_band(one.band, log_x, log_y) for one in series]
    points = [p for runs in curves for run in runs for p in run]
    remark = "".join(f" {name}: {count} value{'s' * (count > 1)} that cannot be drawn." for name, count in dropped)
    if not points:
        return _figure(title, f"There is no finite value to draw.{remark}", [])
    ends = [f"{one.name} ends at {number(runs[-1][-1][1])}" for one, runs in zip(series, curves) if runs]
    described = f"{y_label} against {x_label}. {'; '.join(ends)}."
    names = [one.name if runs else f"{one.name} (no value)" for one, runs in zip(series, curves)]

    def draw(width: float) -> tuple[str, float]:
        return _draw_lines((curves, bands), names, (x_label, y_label), (log_x, log_y), width)

    legend = [_legend(names)] if len(names) > 1 else []  # the title names a single curve
    return _figure(title, remark.strip(), [*_two_widths(draw, title, described), *legend])


def _drawable(
    points: Sequence[tuple[float, float]], log_x: bool, log_y: bool
) -> tuple[list[list[tuple[float, float]]], int]:
    """Split into runs of drawable points, and count those that are not."""
    runs: list[list[tuple[float, float]]] = [[]]
    missing = 0
    for x, y in points:
        within = abs(x) <= LARGEST and abs(y) <= LARGEST  # false for what is not a number
        if within and (x >= SMALLEST or not log_x) and (y >= SMALLEST or not log_y):
            runs[-1].append((x, y))
        else:
            missing += 1
            runs.append([])
    return [run for run in runs if run], missing


def _drawable_band(band: Sequence[tuple[float, float, float]], log_x: bool, log_y: bool) -> Runs:
    """The outlines of a band: along its highest values, and back along its lowest."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for x, low, high in band:
        if _drawable([(x, low), (x, high)], log_x, log_y)[1]:
            runs.append([])
        else:
            runs[-1].append((x, low, high))
    return [[*((x, high) for x, _, high in run), *((x, low) for x, low, _ in reversed(run))] for run in runs if run]


def _thin(run: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points, or a few more: of each span of the run the lowest and the highest stay."""
    if len(run) <= MAX_POINTS:
        return run
    stride = math.ceil(len(run) / (MAX_POINTS // 2))
    kept = [run[0]]
    for at in range(0, len(run), stride):
        span = range(at, min(at + stride, len(run)))
        low, high = min(span, key=lambda i: run[i][1]), max(span, key=lambda i: run[i][1])
        kept += [run[i] for i in sorted({low, high})]
    return [*kept, run[-1]]


def _draw_lines(
    drawn: tuple[Sequence[Runs], Sequence[Runs]],
    names: Sequence[str],
    labels: tuple[str, str],
    logs: tuple[bool, bool],
    width: float,
) -> tuple[str, float]:
    narrow = width < 600
    height = 250.0 if narrow else 360.0
    curves, bands = drawn
    points = [p for part in drawn for runs in part for run in runs for p in run]
    x_ticks, y_ticks = (
        (log_ticks if logs[i] else linear_ticks)(
            min(p[i] for p in points), max(p[i] for p in points), 5 if narrow and i == 0 else 7
        )
        for i in (0, 1)
    )
    y_names = tick_labels(y_ticks)
    left = max(len(name) for name in y_names) * CHARACTER + 12
    named = not narrow and len(names) > 1
    right = min(max(len(name) for name in names) * CHARACTER * 1.15 + 18, 230.0) if named else 14.0
    top, bottom = 26.0, 44.0
    x_high = max(p[0] for p in points) if not logs[0] else x_ticks[-1]
    x = Axis(x_ticks[0], x_high if x_high > x_ticks[0] else x_ticks[-1], left, width - right, logs[0])
    y = Axis(y_ticks[0], y_ticks[-1], height - bottom, top, logs[1])
    out = [f'<text x="0" y="12">{escape(labels[1])}</text>']
    for tick, name in zip(y_ticks, y_names):
        out.append(
            f'<line class="grid" x1="{left:.1f}" x2="{width - right:.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        out.append(f'<text x="{left - 7:.1f}" y="{y(tick) + 4:.1f}" text-anchor="end">{name}</text>')
    base = height - bottom
    out.append(f'<line class="axis" x1="{left:.1f}" x2="{width - right:.1f}" y1="{base:.1f}" y2="{base:.1f}"/>')
    for tick, name in zip(x_ticks, tick_labels(x_ticks)):
        if tick <= x.high * 1.0001:
            out.append(
                f'<line class="axis" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{base:.1f}" y2="{base + 4:.1f}"/>'
            )
            out.append(f'<text x="{x(tick):.1f}" y="{base + 18:.1f}" text-anchor="middle">{name}</text>')
    out.append(f'<text x="{width - right:.1f}" y="{height - 8:.1f}" text-anchor="end">{escape(labels[0])}</text>')
    for index, runs in enumerate(bands):
        for run in runs:
            outline = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in run) + "Z"
            out.append(f'<path class="band c{index % 6}" d="{outline}"/>')
    for index, runs in enumerate(curves):
        out.append(_curve(index, [[(x(a), y(b)) for a, b in run] for run in runs]))
    if named:
        out += _end_labels([(runs[-1][-1] if runs else None) for runs in curves], names, x, y)
    return "".join(out), height


def _curve(index: int, runs: Runs) -> str:
    """A curve with about six marks, so that it is told apart without colour."""
    out = [f'<g class="c{index % 6}">']
    dash = f' stroke-dasharray="{DASHES[index % 6]}"' if DASHES[index % 6] else ""
    for run in runs:
        if len(run) > 1:
            path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in run)
            out.append(f'<path class="curve"{dash} d="{path}"/>')
    flat = [p for run in runs for p in run]
    gap = (flat[-1][0] - flat[0][0]) / 6 if flat else 0.0
    reached = -math.inf
    for position, (a, b) in enumerate(flat):
        if a >= reached or position == len(flat) - 1:
            out.append(_mark(index, a, b))
            reached = a + max(gap, 1.0)
    return "".join(out) + "</g>"


def _mark(index: int, a: float, b: float) -> str:
    x, y = f"{a:.1f}", f"{b:.1f}"
    shapes = (
        f'<circle class="dot" cx="{x}" cy="{y}" r="3.6"/>',
        f'<rect class="dot" x="{a - 3.4:.1f}" y="{b - 3.4:.1f}" width="6.8" height="6.8"/>',
        f'<path class="dot" d="M{x} {b - 4.6:.1f}l4.4 7.4h-8.8z"/>',
        f'<path class="dot" d="M{x} {b - 5:.1f}l5 5l-5 5l-5 -5z"/>',
    )
    return shapes[index % len(shapes)]


def _end_labels(ends: Sequence[tuple[float, float] | None], names: Sequence[str], x: Axis, y: Axis) -> list[str]:
    """Names beside the ends of the curves, moved apart where they would touch."""
    placed = sorted((y(end[1]), i) for i, end in enumerate(ends) if end is not None)
    out = []
    last = -math.inf
    for at, index in placed:
        last = max(at, last + 16)
        out.append(
            f'<text class="name c{index % 6}" x="{x.end + 12:.1f}" y="{last + 4:.1f}">{escape(names[index])}</text>'
        )
    return out


def _legend(names: Sequence[str]) -> Markup:
    items = []
    for index, name in enumerate(names):
        line = _curve(index, [[(2.0, 7.0), (32.0, 7.0)]]).replace(_mark(index, 2.0, 7.0), "")
        items.append(f'<li><svg viewBox="0 0 40 14" aria-hidden="true">{line}</svg>{escape(name)}</li>')
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')


def bar_chart(rows: Sequence[tuple[str, float]], title: str, *, unit: str = "", remark: str = "") -> Markup:
    """Horizontal bars from zero with their value; a negative or not finite value is written, not drawn."""
    finite = [value for _, value in rows if math.isfinite(value) and value > 0]
    if not rows:
        return _figure(title, f"There is no value to draw. {remark}".strip(), [])
    top = max(finite, default=1.0)
    shown = [f"{number(value, 3)} {unit}".strip() for _, value in rows]

    def draw(width: float) -> tuple[str, float]:
        narrow = width < 600
        name_width = 0.0 if narrow else min(max(len(name) for name, _ in rows) * CHARACTER * 1.1 + 14, 260.0)
        room = width - name_width - max(len(text) for text in shown) * CHARACTER - 14
        pitch = 44 if narrow else 30
        out = []
        for i, ((name, value), text) in enumerate(zip(rows, shown)):
            at = i * pitch + (20 if narrow else 4)
            length = max(value / top * room, 1.0) if math.isfinite(value) and value > 0 else 0.0
            out.append(f'<text class="strong" x="0" y="{at - 6 if narrow else at + 14}">{escape(name)}</text>')
            out.append(
                f'<rect class="bar c{i % 6}" x="{name_width:.1f}" y="{at}" width="{length:.1f}" height="18" rx="2"/>'
            )
            out.append(f'<text x="{name_width + length + 7:.1f}" y="{at + 14}">{escape(text)}</text>')
        return "".join(out), len(rows) * pitch + 4.0

    told = "; ".join(f"{name}: {text}" for (name, _), text in zip(rows, shown))
    return _figure(title, remark, _two_widths(draw, title, told))


def heat_maps(
    maps: Sequence[tuple[str, Sequence[Sequence[float]]]], tokens: Sequence[str], title: str, *, remark: str = ""
) -> Markup:
    """Square maps side by side, one per (name, weights): row i, column j is how much token i looks at token j.

    Weights are shares from 0 to 1 and share one scale; a weight that is not finite is left blank and counted.
    """
    if not maps or not tokens:
        return _figure(title, f"There is nothing to draw. {remark}".strip(), [])
    values = [v for _, weights in maps for row in weights for v in row if math.isfinite(v)]
    missing = sum(1 for _, weights in maps for row in weights for v in row if not math.isfinite(v))
    top = max([*values, 1e-9])
    boxes = [f"<div><h4>{escape(name)}</h4>{_heat_map(name, weights, tokens, top)}</div>" for name, weights in maps]
    if missing:
        remark = f"{remark} {missing} weights are not finite and left blank.".strip()
    return _figure(title, remark, [Markup(f'<div class="heads">{"".join(boxes)}</div>'), _scale(top)])


def _heat_map(name: str, weights: Sequence[Sequence[float]], tokens: Sequence[str], top: float) -> str:
    count = len(tokens)
    labels = [visible(token) for token in tokens]
    margin = min(max(len(label) + 0.9 * _wide_characters(label) for label in labels) * 6.1 + 8, 96.0)
    size = 300.0
    cell = (size - margin) / count
    font = max(min(cell * 0.86, 11.0), 6.0)
    square = f'x="{margin:.1f}" y="{margin:.1f}" width="{size - margin:.1f}" height="{size - margin:.1f}"'
    out = [f'<rect class="wash" {square}/>']
    strongest = (0.0, 0, 0)
    for i, row in enumerate(weights):
        at = margin + i * cell
        text = f'style="font-size:{font:.1f}px" text-anchor'
        middle, edge = f"{at + cell / 2 + font * 0.36:.1f}", f"{margin - 4:.1f}"
        label = escape(labels[i])
        out.append(f'<text x="{edge}" y="{middle}" {text}="end">{label}</text>')
        out.append(f'<text transform="translate({middle} {edge}) rotate(-90)" {text}="start">{label}</text>')
        for j, value in enumerate(row):
            if math.isfinite(value) and value / top >= 0.01:
                strongest = max(strongest, (value, i, j))
                tip = f"<title>{escape(labels[i])} → {escape(labels[j])}: {value:.2f}</title>" if value >= 0.05 else ""
                box = f'x="{margin + j * cell:.1f}" y="{at:.1f}" width="{cell:.1f}" height="{cell:.1f}"'
                out.append(f'<rect class="cell" fill-opacity="{value / top:.2f}" {box}>{tip}</rect>')
    _, i, j = strongest
    told = f"{count} tokens; the strongest link is from {labels[i]} to {labels[j]}, {strongest[0]:.2f}."
    return _svg("".join(out), size, size, name, told, "")


def visible(token: str) -> str:
    """A token as it is shown on an axis: spaces and line breaks visible, long ones shortened in the middle."""
    for plain, sign in (("\n", "⏎"), ("\t", "⇥"), ("\r", "␍"), (" ", "·")):
        token = token.replace(plain, sign)
    return token if len(token) <= 14 else token[:8] + "…" + token[-5:]


def _wide_characters(text: str) -> int:
    return sum(1 for character in text if ord(character) >= 0x2E80)


def _scale(top: float) -> Markup:
    steps = "".join(
        f'<rect class="cell" fill-opacity="{(i + 0.5) / 20:.3f}" x="{i * 8}" y="0" width="8" height="12"/>'
        for i in range(20)
    )
    frame = '<rect class="frame" x="0.5" y="0.5" width="159" height="11"/>'
    ends = f'<text x="0" y="26">0</text><text x="160" y="26" text-anchor="end">{top:.2f}</text>'
    inner = (
        f'<svg viewBox="0 0 240 30" aria-hidden="true">{steps}{frame}{ends}<text x="168" y="10">attention</text></svg>'
    )
    return Markup(f'<div class="scale">{inner}</div>')


def _two_widths(draw: Callable[[float], tuple[str, float]], title: str, described: str) -> list[Markup]:
    out = []
    for width, kind in ((WIDE, "wide"), (NARROW, "narrow")):
        inner, height = draw(width)
        out.append(Markup(_svg(inner, width, height, title, described, kind)))
    return out


def _svg(inner: str, width: float, height: float, title: str, described: str, kind: str) -> str:
    key = "g" + hashlib.sha256(f"{kind}{title}{described}{inner}".encode("utf-8", "replace")).hexdigest()[:10]
    names = f'role="img" aria-labelledby="{key}t {key}d"'
    about = f'<title id="{key}t">{escape(title)}</title><desc id="{key}d">{escape(described)}</desc>'
    name = f' class="{kind}"' if kind else ""
    return f'<svg{name} viewBox="0 0 {width:.0f} {height:.0f}" {names}>{about}{inner}</svg>'


def _figure(title: str, remark: str, parts: Sequence[str]) -> Markup:
    more = f"<br>{escape(remark)}" if remark else ""
    return Markup(f"<figure><figcaption><b>{escape(title)}</b>{more}</figcaption>{''.join(parts)}</figure>")
