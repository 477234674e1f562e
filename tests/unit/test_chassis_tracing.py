"""Trace context: continued when it is one, replaced when it is not."""

import pytest
from ecom_common.tracing import continued, new_traceparent, trace_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def test_the_callers_context_is_continued() -> None:
    assert continued(TRACEPARENT) == TRACEPARENT
    assert trace_id_of(TRACEPARENT) == TRACE


def test_without_one_a_new_and_valid_trace_begins() -> None:
    first, second = continued(None), new_traceparent()
    assert trace_id_of(first) is not None
    assert trace_id_of(first) != trace_id_of(second)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        TRACEPARENT.upper(),
        TRACEPARENT + "\n",
        TRACEPARENT + "-extra",
        TRACEPARENT[:-1],
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        "ff" + TRACEPARENT[2:],
        "00-4111111111111111-00f067aa0ba902b7-01",
    ],
)
def test_a_malformed_context_is_not_passed_on(header: str) -> None:
    assert trace_id_of(header) is None
    renewed = continued(header)
    assert renewed != header
    assert trace_id_of(renewed) is not None
