"""Keyset pagination: a page is what comes after the cursor, so inserts never shift or repeat rows.

Cursors are opaque to clients: base64url of the JSON of the last row's sort key.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import orjson
from fastapi import Query

from ecom_common.errors import Problem

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most items on the page.")]
CursorParameter = Annotated[
    str | None,
    Query(max_length=512, description="`next_cursor` of the page before; opaque."),
]


def encode_cursor(value: str | int) -> str:
    """The cursor that continues after `value`."""
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


def decode_text(cursor: str | None) -> str | None:
    """The text in a cursor; raises `validation_failed` when we did not make it."""
    if cursor is None:
        return None
    value = _decode(cursor)
    if isinstance(value, str) and "\0" not in value:
        return value
    raise _bad_cursor()


def decode_int(cursor: str | None) -> int | None:
    """The integer in a cursor; raises `validation_failed` when we did not make it."""
    if cursor is None:
        return None
    value = _decode(cursor)
    # `type(...) is` and not isinstance: true is no place in a list.
    if type(value) is int and 0 <= value < 2**63:
        return value
    raise _bad_cursor()


def decode_uuid(cursor: str | None) -> UUID | None:
    """The UUID in a cursor; raises `validation_failed` when we did not make it."""
    text = decode_text(cursor)
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise _bad_cursor() from None


def _decode(cursor: str) -> Any:
    try:
        return orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        raise _bad_cursor() from None


def _bad_cursor() -> Problem:
    return Problem("validation_failed", "Use `next_cursor` of an earlier answer, unchanged.")


def page(
    rows: Sequence[T], limit: int, cursor_of: Callable[[T], str | int]
) -> tuple[Sequence[T], str | None]:
    """Cut `limit + 1` fetched rows to a page and the cursor of the next one, None at the end."""
    if len(rows) <= limit:
        return rows, None
    kept = rows[:limit]
    return kept, encode_cursor(cursor_of(kept[-1]))
