"""Personal data: what must be masked, what must not, and that no text breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.privacy import TOKENS, mask

PERSONAL = {
    "Write to jane.doe+x@mail.example.co.uk today": "email",
    "邮箱zhang_san@163.com，谢谢": "email",
    "call +44 20 7946 0958 now": "phone",
    "call +86 138-1234-5678 now": "phone",
    "我的手机是13812345678，": "phone",
    "联系 139 1234 5678": "phone",
    "电话：010-62345678": "phone",
    "请拨(021)62345678": "phone",
    "传真：62345678": "phone",
    "(415) 555-2671 is hers": "phone",
    "415-555-2671": "phone",
    "Tel: 5551 2671": "phone",
    "au 01 42 34 56 78 le": "phone",
    "身份证11010519491231002X。": "id",
    "SSN 123-45-6789.": "ssn",
    "pay to DE89 3704 0044 0532 0130 00": "iban",
    "IBAN GB82WEST12345698765432": "iban",
    "card 4111 1111 1111 1111 now": "card",
    "card 5555555555554444,": "card",
    "amex 3782 822463 10005": "card",
    "the server 151.101.1.69 answered": "ip",
    "from 2606:4700:4700::1111 on": "ip",
}
HARMLESS = [
    "On 2024-05-21 at 12:30:45, 21/05/2024, 05.21.2024 and 2024.05.21",
    "version 1.2.3.4, v10.0.19041.388 and release 5.15.0.91",
    "ISBN 978-7-111-40701-0, ISBN 9787111407010, ISBN 0-306-40615-2, ISSN 0378-5955",
    "the years 1999-2003 and 1914 – 1918, pages 1024-1048",
    "$1,234,567.89, ¥13812345678, 1 234 567,89 € and 12.345.678 people",
    "local 192.168.1.1, 127.0.0.1, 10.0.0.8",
    "3.14159265358979, 6.02214076e23, 299792458 m/s, 1013.25 hPa",
    "身份证号 110105194912310021 的校验码不对",
    "order 4111 1111 1111 1112 and 1234567890123",
    "timestamp 1716288000 and 1716288000000, id 20240521123045",
    "C++ a::b::c, std::vector, 12::30 and 10:20:30",
    "@user on twitter, a @ b, foo@localhost",
    "000-12-3456, 666-12-3456, 900-12-3456 and 123-00-4567",
    "GB82 WEST 1234 5698 7654 33 has a wrong checksum",
    "人口1380123456789人，面积960万平方公里，公元1949年10月1日",
    "doi 10.1016/j.cell.2008.10.017 and 10.1002/zaac.19472550110",
    "coordinates 39.904200, 116.407396",
]


@pytest.mark.parametrize(("text", "kind"), PERSONAL.items())
def test_personal_data_gives_way_to_its_token(text: str, kind: str) -> None:
    masked, counts = mask(text)
    assert counts == {kind: 1}
    assert TOKENS[kind] in masked
    assert mask(masked) == (masked, {})


@pytest.mark.parametrize("text", HARMLESS)
def test_numbers_of_other_kinds_stay(text: str) -> None:
    assert mask(text) == (text, {})


def test_several_kinds_in_one_text_keep_what_is_between() -> None:
    text = "a@b.org，13812345678；b@c.org"
    assert mask(text) == ("<EMAIL>，<PHONE>；<EMAIL>", {"email": 2, "phone": 1})


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789 .-+()@:/XaGB中\ud800\x00"), max_size=80))
def test_any_text_comes_through(text: str) -> None:
    masked, counts = mask(text)
    assert sum(masked.count(token) for token in TOKENS.values()) == sum(counts.values())
    assert bool(counts) == (masked != text)
