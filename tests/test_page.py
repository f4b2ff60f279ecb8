"""The page and its charts: well-formed, self-contained, and safe with any text and any number."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo import charts, page

HOSTILE = "</title><script>alert(1)</script><img src=https://evil.example/x onerror=y>\"'&\x00\x1b[31m\ud800研墨"
VOID = {"meta", "br", "img", "input", "hr", "link", "wbr"}
SIZED = ["wide", "narrow"]


class Outline(HTMLParser):
    """Checks that every tag is closed in order, and collects tags, attributes and ids."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    parser.close()
    assert parser.stack == []
    return parser


def drawings(text: str) -> list[ElementTree.Element]:
    """Every SVG of the page, parsed as XML."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def everything(text: str) -> str:
    """A page that uses each part once, with `text` wherever a text can stand."""
    parts = [
        text,
        page.cards([(text, 1234567, text), (text, text, "")]),
        page.section(text, text, page.heading(text), page.note(text, page.strong(text), page.inline_code(text))),
        page.facts({text: text, "n": None}),
        page.table([text, "n"], [[text, 1.5], [text, None]], caption=text, best=0),
        page.sample(text, [(text, text), (text, text)], source=text),
        page.code(text),
        page.commands([(text, text)]),
        charts.line_chart([charts.Series(text, [(0, 1), (1, 2)])], text, text, text),
        charts.bar_chart([(text, 2.0)], text, unit=text, remark=text),
        charts.heat_maps([(text, [[1.0, 0.0], [0.5, 0.5]])], [text, "b"], text, remark=text),
    ]
    return page.document(text, parts, lede=text, eyebrow=text, footer=text, language="en")


def test_a_page_is_well_formed_and_names_its_language() -> None:
    text = everything("plain text")
    found = outline(text)
    assert ("html", "lang", "en") in found.attributes
    assert found.tags.count("h1") == 1
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = " ".join(value for _, name, value in found.attributes if name == "aria-labelledby").split()
    assert set(referred) <= set(ids)


def test_hostile_text_stays_text() -> None:
    text = everything(HOSTILE)
    found = outline(text)
    assert not {"script", "img", "iframe", "object", "link"} & set(found.tags)
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert "\x00" not in text and "\x1b" not in text and "\ud800" not in text
    text.encode("utf-8")
    assert len(drawings(text)) >= 6


def test_a_page_loads_nothing_from_anywhere() -> None:
    text = everything("see https://example.org/page")
    found = outline(text)
    assert not [entry for entry in found.attributes if entry[1] in ("src", "href", "action", "srcset", "background")]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None and "url(" not in style[1] and "@import" not in style[1]
    assert "default-src &#x27;none&#x27;" in text


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_any_text_gives_a_well_formed_page(text: str) -> None:
    whole = everything(text)
    outline(whole)
    drawings(whole)
    whole.encode("utf-8")


numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
points = st.lists(st.tuples(numbers, numbers), max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.lists(points, max_size=4), st.booleans(), st.booleans())
def test_any_series_gives_a_chart_without_a_number_that_is_none(runs: list, log_x: bool, log_y: bool) -> None:
    series = [charts.Series(f"s{i}", run) for i, run in enumerate(runs)]
    text = charts.line_chart(series, "title", "x", "y", log_x=log_x, log_y=log_y)
    outline(text)
    for svg in drawings(text):
        for element in svg.iter():
            for name in ("d", "x", "y", "x1", "y1", "cx", "cy", "width", "height"):
                assert not re.search(r"nan|inf", element.get(name, ""))


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, max_size=6))
def test_any_bars_and_any_weights_can_be_drawn(values: list[float]) -> None:
    outline(charts.bar_chart([(f"b{i}", value) for i, value in enumerate(values)], "bars"))
    text = charts.heat_maps([("head", [values] * len(values))], [f"t{i}" for i in range(len(values))], "map")
    outline(text)
    assert 'opacity="nan"' not in text and 'opacity="inf"' not in text


def test_a_missing_value_breaks_the_line_and_is_counted() -> None:
    run = [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 1.0), (4.0, 2.0)]
    text = charts.line_chart([charts.Series("loss", run)], "title", "x", "y")
    assert "loss: 1 value that cannot be drawn" in text
    wide = drawings(text)[0]
    assert len([e for e in wide.iter("path") if e.get("class") == "curve"]) == 2


def test_an_empty_chart_says_so() -> None:
    assert "no finite value" in charts.line_chart([charts.Series("a", [])], "t", "x", "y")
    assert "no value" in charts.bar_chart([], "t")
    assert "nothing to draw" in charts.heat_maps([], [], "t")
    text = charts.line_chart([charts.Series("a", [(0, 1)]), charts.Series("b", [])], "t", "x", "y")
    assert "b (no value)" in text


def test_series_differ_in_more_than_colour() -> None:
    series = [charts.Series(f"s{i}", [(0, i), (1, i + 1)]) for i in range(4)]
    for svg, kind in zip(drawings(charts.line_chart(series, "t", "x", "y")), SIZED):
        assert svg.get("class") == kind
        dashes = [e.get("stroke-dasharray") for e in svg.iter("path") if e.get("class") == "curve"]
        assert len(dashes) == 4 and len(set(dashes)) == 4


def test_every_chart_has_a_title_and_a_description() -> None:
    for svg in drawings(charts.line_chart([charts.Series("a", [(0, 1), (1, 3)])], "Loss", "steps", "nats")):
        if svg.get("aria-hidden"):
            continue
        assert svg.get("role") == "img"
        assert svg.findtext("title") == "Loss"
        assert "a ends at 3" in (svg.findtext("desc") or "")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (1.7, 3.1, [1.5, 2, 2.5, 3, 3.5]), (5, 5, None), (-3, 3, [-4, -2, 0, 2, 4])],
)
def test_ticks_are_round_numbers_that_enclose_the_range(low: float, high: float, ticks: list[float] | None) -> None:
    found = charts.linear_ticks(low, high)
    assert found[0] <= low and found[-1] >= high
    if ticks is not None:
        assert found == pytest.approx(ticks)


def test_logarithmic_ticks_enclose_the_range() -> None:
    assert charts.log_ticks(1.5, 9) == pytest.approx([1, 2, 5, 10])
    assert charts.log_ticks(1, 1e9)[0] == 1
    assert len(charts.log_ticks(1e-9, 1e9)) <= 10


def test_labels_tell_ticks_apart() -> None:
    assert charts.tick_labels([0.0, 500_000.0, 1_000_000.0]) == ["0", "0.5M", "1M"]
    assert charts.tick_labels([1.0, 1.5, 2.0]) == ["1", "1.5", "2"]


def test_numbers_stand_right_and_words_left() -> None:
    text = page.table(["model", "loss", "time"], [["a", 1.5, "12 s"], ["b", None, "3 min 5 s"]])
    cells = re.findall(r'<(t[dh])(?: scope="\w+")?( class="n")?>', text)
    assert [bool(kind) for _, kind in cells] == [False, True, True] * 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (-12, "−12"),
        (1.84123, "1.841"),
        (0.0, "0"),
        (1e-9, "1.000e−09"),
        (math.nan, "not a number"),
        (math.inf, "∞"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_are_for_people(value: float, text: str) -> None:
    assert page.number(value) == text


def test_durations_bytes_and_operations_are_for_people() -> None:
    assert [page.duration(s) for s in (0.25, 4.26, 42.4, 178, 4800)] == [
        "0.25 s",
        "4.3 s",
        "42 s",
        "2 min 58 s",
        "1 h 20 min",
    ]
    assert [page.nbytes(b) for b in (512, 3_200_000, 999_999)] == ["512 B", "3.2 MB", "1 MB"]
    assert page.flops(4.1e11, per_second=True) == "410 GFLOP/s"


def test_chinese_text_is_marked_as_chinese() -> None:
    assert 'lang="zh"' in page.sample("研墨", [("model", "写字")])
    assert page.lang_of("ink") == ' lang=""'


def test_a_spike_among_thousands_of_points_is_drawn():
    points = [(float(x), 100.0 if x == 3217 else 1.0 + x % 7) for x in range(5000)]
    for drawing in drawings(charts.line_chart([charts.Series("a", points)], "t", "x", "y")):
        path = next(node.attrib["d"] for node in drawing.iter() if node.attrib.get("class") == "curve")
        heights = [float(pair.split()[1]) for pair in re.split("[ML]", path) if pair]
        assert len(heights) < 2 * charts.MAX_POINTS
        assert min(heights) == 26.0 and "100" in {node.text for node in drawing.iter()}  # the top of the axis


def test_a_band_reaches_from_the_lowest_to_the_highest_and_breaks_where_there_is_none():
    band = [(0.0, 1.0, 3.0), (1.0, 2.0, 5.0), (2.0, math.nan, math.nan), (3.0, 0.0, 1.0)]
    chart = charts.line_chart([charts.Series("a", [(0.0, 2.0), (3.0, 0.5)], band, missing=7)], "t", "x", "y")
    assert "a: 7 values that cannot be drawn." in chart
    for drawing in drawings(chart):
        outlines = [node.attrib["d"] for node in drawing.iter() if node.attrib.get("class") == "band c0"]
        assert [outline.count(" ") for outline in outlines] == [4, 2]


def test_one_of_the_choices_is_open_and_each_button_has_its_name():
    text = page.document("t", [page.choices("axis", "Over", [("steps", page.paragraph("a")), (HOSTILE, "b")])])
    found = outline(text)
    inputs = [value for tag, name, value in found.attributes if tag == "input" and name == "id"]
    labels = [value for tag, name, value in found.attributes if tag == "label" and name == "for"]
    assert inputs == labels == ["axis-0", "axis-1"]
    assert text.count(" checked>") == 1
    assert "script" not in found.tags
