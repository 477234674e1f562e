"""Log lines: JSON with the order and the trace, and without what a client or a row contained."""

import json
import logging
import sys
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TextIO, cast

import psycopg2
import pytest
from ecom_common.logs import JsonFormatter, LineHandler, describe, together
from ecom_common.tracing import current_order_id, current_traceparent
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import IntegrityError

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CARD = "4111 1111 1111 1111"


def test_a_line_says_when_what_and_who() -> None:
    line = _line("placed %d orders", 3)
    assert line["message"] == "placed 3 orders"
    assert line["level"] == "info"
    assert line["logger"] == "tests"
    assert (line["service"], line["process"]) == ("order_service", "api")
    assert line["at"].endswith("+00:00")
    assert "order_id" not in line
    assert "trace_id" not in line


def test_a_line_carries_the_order_and_the_trace_it_belongs_to() -> None:
    def during_a_request() -> dict[str, Any]:
        current_order_id.set("0192f0a0-0000-7000-8000-000000000001")
        current_traceparent.set(f"00-{TRACE}-00f067aa0ba902b7-01")
        return _line("paid")

    line = copy_context().run(during_a_request)
    assert line["order_id"] == "0192f0a0-0000-7000-8000-000000000001"
    assert line["trace_id"] == TRACE


def test_extras_become_fields() -> None:
    line = _line("x", extra={"topic": "t", "offset": 7, "color_message": "\x1b[1mx"})
    assert line["offset"] == 7
    assert "color_message" not in line


@pytest.mark.parametrize("odd", ["\ud800", 2**70, {1: object()}, b"\xff", float("nan")])
def test_a_value_that_json_has_no_word_for_does_not_lose_the_line(odd: object) -> None:
    assert _line("odd: %s", odd, extra={"odd": odd})["level"] == "info"


def test_a_line_is_one_line() -> None:
    assert "\n" not in _formatted("first\nsecond")


def test_an_error_comes_with_its_stack_and_without_the_values_in_it() -> None:
    prices: dict[str, int] = {}
    try:
        prices[CARD]
    except KeyError as error:
        line = _line("unhandled: %s", describe(error), exc_info=error)
    assert line["error"] == "KeyError: '<card number>'"
    assert "test_chassis_logs.py" in line["stack"]
    assert CARD not in json.dumps(line)


def test_the_detail_line_of_postgres_which_repeats_the_row_is_dropped() -> None:
    original = psycopg2.IntegrityError(
        'duplicate key value violates unique constraint "pk_orders"\n'
        "DETAIL:  Key (customer_id)=(alice) already exists.\n"
    )
    error = IntegrityError("INSERT …", {"customer_id": "alice"}, original)
    told = describe(error)
    assert told == 'IntegrityError: duplicate key value violates unique constraint "pk_orders"'


def test_what_pydantic_repeats_of_its_input_is_dropped() -> None:
    class Model(BaseModel):
        number: int

    with pytest.raises(ValidationError) as refused:
        Model.model_validate({"number": "alice's secret"})
    assert "secret" in str(refused.value)
    assert "secret" not in describe(refused.value)


def test_an_error_without_a_message_is_described_by_its_name() -> None:
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("\n \n")) == "ValueError"
    assert describe(None) == ""


def _line(message: str, *args: object, **more: Any) -> dict[str, Any]:
    line = json.loads(_formatted(message, *args, **more))
    assert isinstance(line, dict)
    return line


def _formatted(message: str, *args: object, **more: Any) -> str:
    extra = more.pop("extra", {})
    error = more.pop("exc_info", None)
    record = logging.makeLogRecord(
        {
            "name": "tests",
            "levelno": logging.INFO,
            "levelname": "INFO",
            "msg": message,
            "args": args,
            "exc_info": error and (type(error), error, error.__traceback__),
        }
        | extra
    )
    return JsonFormatter(service="order_service", process="api").format(record)


def test_what_is_logged_together_is_one_write_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes: list[str] = []
    handler = LineHandler(cast(TextIO, Written(writes)))
    handler.setFormatter(JsonFormatter(service="s", process="p"))
    log = logging.Logger("together")  # noqa: LOG001 - without parents
    log.addHandler(handler)
    monkeypatch.setattr(sys, "stderr", Written(writes))
    with together():
        log.info("first")
        with together():
            log.info("second")
        assert writes == []
    assert [json.loads(line)["message"] for line in "".join(writes).splitlines()] == [
        "first",
        "second",
    ]
    assert len(writes) == 1
    log.info("alone")
    assert '"alone"' in "".join(writes[1:])


def test_lines_are_written_even_when_what_they_tell_of_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes: list[str] = []
    monkeypatch.setattr(sys, "stderr", Written(writes))
    log = logging.Logger("together")  # noqa: LOG001
    handler = LineHandler(cast(TextIO, Written(writes)))
    log.addHandler(handler)
    with suppress(ZeroDivisionError), together():
        log.info("first")
        raise ZeroDivisionError
    assert writes == ["first\n"]


class Written:
    """A stream that remembers each write."""

    def __init__(self, writes: list[str]) -> None:
        self._writes = writes

    def write(self, text: str) -> None:
        self._writes.append(text)

    def flush(self) -> None: ...
