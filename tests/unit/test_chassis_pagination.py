"""Cursors: opaque, and refused when somebody else has made them."""

import base64
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import orjson
import pytest
from ecom_common.errors import Problem
from ecom_common.pagination import decode_int, decode_text, decode_uuid, encode_cursor, page
from hypothesis import given
from hypothesis import strategies as st

AN_ID = UUID("0192f0a0-0000-7000-8000-000000000001")
Decoder = Callable[[str | None], Any]
DECODERS: list[Decoder] = [decode_text, decode_int, decode_uuid]


def test_no_cursor_is_the_beginning() -> None:
    assert [decode(None) for decode in DECODERS] == [None, None, None]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_text_survives_its_cursor(text: str) -> None:
    assert decode_text(encode_cursor(text)) == text


@given(st.integers(0, 2**63 - 1))
def test_an_integer_survives_its_cursor(number: int) -> None:
    assert decode_int(encode_cursor(number)) == number


def test_a_uuid_survives_its_cursor() -> None:
    assert decode_uuid(encode_cursor(str(AN_ID))) == AN_ID


def test_a_cursor_needs_no_escaping_in_a_url() -> None:
    assert all(char.isalnum() or char in "-_" for char in encode_cursor("ÿ?>/ and more ÿÿÿÿ" * 5))


@pytest.mark.parametrize("decode", DECODERS)
@given(cursor=st.text() | st.text("abcdefABCDEF0123456789-_=", max_size=40))
def test_whatever_a_client_makes_up_is_refused_and_never_an_error(
    decode: Decoder, cursor: str
) -> None:
    with suppress(Problem):
        decode(cursor)


@pytest.mark.parametrize("value", [None, True, False, -1, 2**63, 1.5, [], {}, "text", [1]])
def test_an_integer_cursor_holds_an_integer_that_sql_can_hold(value: Any) -> None:
    with pytest.raises(Problem, match="validation_failed"):
        decode_int(_cursor_of(value))


@pytest.mark.parametrize("value", [None, True, 7, ["a"], {"a": 1}, "with \0 inside"])
def test_a_text_cursor_holds_a_text_that_postgres_can_hold(value: Any) -> None:
    with pytest.raises(Problem, match="validation_failed"):
        decode_text(_cursor_of(value))


@pytest.mark.parametrize("value", ["", "not a uuid", str(AN_ID)[:-1], 7])
def test_a_uuid_cursor_holds_a_uuid(value: Any) -> None:
    with pytest.raises(Problem, match="validation_failed"):
        decode_uuid(_cursor_of(value))


def test_a_page_is_cut_to_its_limit_and_says_where_the_next_begins() -> None:
    rows, cursor = page(["a", "b", "c"], 2, lambda row: row)
    assert rows == ["a", "b"]
    assert decode_text(cursor) == "b"


def test_the_last_page_has_no_cursor_even_when_it_is_full() -> None:
    assert page(["a", "b"], 2, lambda row: row) == (["a", "b"], None)
    assert page([], 2, str) == ([], None)


def _cursor_of(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode()
