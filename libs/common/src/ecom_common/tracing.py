"""W3C Trace Context: one trace id from the HTTP request through every message it causes.

Spans are not recorded here; the ids are carried so that logs, timelines and messages of one order can be
joined, and so that a tracing agent in front of the services finds its context continued.
Source: https://www.w3.org/TR/trace-context/ §3.2.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16

current_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
current_order_id: ContextVar[str | None] = ContextVar("order_id", default=None)


def new_traceparent() -> str:
    """A new, sampled trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def continued(header: str | None) -> str:
    """The caller's context, or a new one when there is none or it is malformed (§4.3 of the standard)."""
    if header is not None and trace_id_of(header) is not None:
        return header
    return new_traceparent()


def trace_id_of(traceparent: str | None) -> str | None:
    """The 32 hexadecimal digits of the trace id; None when there is no valid context."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or match[1] == _NO_TRACE or match[2] == _NO_SPAN:
        return None
    return match[1]


@contextmanager
def about_order(order_id: str, traceparent: str | None) -> Iterator[None]:
    """What is logged inside is about this order, in its trace; and nothing after it."""
    order_token = current_order_id.set(order_id)
    trace_token = current_traceparent.set(traceparent)
    try:
        yield
    finally:
        current_order_id.reset(order_token)
        current_traceparent.reset(trace_token)
