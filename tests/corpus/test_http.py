"""HTTP responses as crawlers kept them."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yanmo.corpus.html import Unusable
from yanmo.corpus.http import media_type, read_response

PAGE = b"<html><body>" + b"some text " * 20 + b"</body></html>"


def kept(payload: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"", payload])


def chunks(data: bytes, size: int = 50) -> bytes:
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_chunks_and_packing_are_undone():
    raw = zlib.compressobj(wbits=-15)
    deflated = raw.compress(PAGE) + raw.flush()
    for block in (
        kept(PAGE),
        kept(chunks(PAGE), b"Transfer-Encoding: chunked"),
        kept(PAGE, b"Transfer-Encoding: chunked"),
        kept(gzip.compress(PAGE), b"Content-Encoding: gzip"),
        kept(PAGE, b"Content-Encoding: gzip"),
        kept(chunks(gzip.compress(PAGE)), b"Transfer-Encoding: chunked", b"Content-Encoding: gzip"),
        kept(zlib.compress(PAGE), b"Content-Encoding: deflate"),
        kept(deflated, b"Content-Encoding: deflate"),
        b"HTTP/1.0 200\n\n" + PAGE,
        PAGE,
    ):
        assert read_response(block).payload == PAGE


def test_brotli_is_unpacked():
    brotli = pytest.importorskip("brotli")
    assert read_response(kept(brotli.compress(PAGE), b"Content-Encoding: br")).payload == PAGE


def test_broken_chunks_are_damage_unless_the_crawler_cut_them():
    block = kept(chunks(PAGE)[:-60], b"Transfer-Encoding: chunked")
    with pytest.raises(Unusable) as error:
        read_response(block)
    assert error.value.reason == "bad_chunks"
    assert PAGE.startswith(read_response(block, cut=True).payload)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_packing_that_ends_early_is_damage_unless_the_crawler_cut_it(coding: str):
    brotli = pytest.importorskip("brotli")
    page = b"".join(b"line %d of the page\n" % (number * number) for number in range(2000))
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress}[coding](page)
    block = kept(packed[: len(packed) // 2], b"Content-Encoding: " + coding.encode())
    with pytest.raises(Unusable) as error:
        read_response(block)
    assert error.value.reason == "cut_packing"
    part = read_response(block, cut=True).payload
    assert part and page.startswith(part)


def test_types_and_charsets():
    assert media_type('Text/HTML; charset="GBK"') == ("text/html", "GBK")
    assert media_type("") == ("", "")


@given(st.binary(max_size=400), st.sampled_from([b"gzip", b"deflate", b"br"]))
def test_any_bytes_are_a_response_or_unusable(data: bytes, coding: bytes):
    for block in (data, kept(data, b"Content-Encoding: " + coding, b"Transfer-Encoding: chunked")):
        try:
            read_response(block)
        except Unusable as error:
            assert error.reason
