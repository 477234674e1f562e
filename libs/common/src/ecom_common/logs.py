"""Structured logs: one JSON object a line on standard error, with the order and trace they belong to.

Nothing that a client sent is logged: not the body, not the query string, not a header. That is how card
numbers, tokens and personal data stay out without a filter that has to guess.
"""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO
from uuid import UUID

import orjson
from sqlalchemy.orm import Session

from ecom_common.cards import mask_card_numbers
from ecom_common.durable import when_durable
from ecom_common.tracing import current_order_id, current_traceparent, trace_id_of

# What the logging module itself puts on a record, and uvicorn's copy of the message in colours for terminals;
# everything else is what somebody wants said.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", "color_message",
}  # fmt: skip


class JsonFormatter(logging.Formatter):
    """Renders a record as one line of JSON: at, level, logger, message, service, process, extras."""

    def __init__(self, *, service: str, process: str) -> None:
        super().__init__()
        self._fixed = {"service": service, "process": process}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._fixed,
        }
        if order_id := current_order_id.get():
            line["order_id"] = order_id
        if trace_id := trace_id_of(current_traceparent.get()):
            line["trace_id"] = trace_id
        line.update((k, v) for k, v in vars(record).items() if k not in _STANDARD)
        if record.exc_info:
            line["error"] = describe(record.exc_info[1])
            line["stack"] = "".join(traceback.format_tb(record.exc_info[2]))
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:
            # Half a surrogate pair, an integer beyond 64 bits: a line that looks odd is better than none.
            return json.dumps(line, default=str)


def describe(error: BaseException | None) -> str:
    """The error in one line, without the SQL parameters or the input that some libraries repeat in it.

    What a bug of ours puts into a message is not foreseen by anybody, hence the mask.
    """
    if error is None:
        return ""
    original = getattr(error, "orig", None)
    text = str(original if original is not None else error).strip()
    # Postgres repeats the offending row in a DETAIL line.
    first_line = mask_card_numbers(text.splitlines()[0]) if text else ""
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


@dataclass(frozen=True, slots=True)
class Line:
    """What is to be said of an order."""

    message: str
    order_id: UUID
    version: int
    traceparent: str | None

    def say(self, log: logging.Logger) -> None:
        trace_id = trace_id_of(self.traceparent)
        extra = {"order_id": str(self.order_id), "trace_id": trace_id, "version": self.version}
        log.info(self.message, extra=extra)


def say_when_durable(session: Session, log: logging.Logger, lines: Sequence[Line]) -> None:
    """Log the lines when the session's transaction has committed.

    Not at once: a transaction that is rolled back and run again would otherwise tell of it twice, or of
    something that never was.
    """

    def say() -> None:
        with together():
            for line in lines:
                line.say(log)

    if lines:
        when_durable(session, say)


_held = threading.local()


@contextmanager
def together() -> Iterator[None]:
    """What this thread logs inside of `with` is written at its end, at once.

    Every write lets go of the interpreter: in a process with many threads, getting it back costs more than the
    line itself.
    """
    if getattr(_held, "lines", None) is not None:
        yield  # the outer one writes it all
        return
    _held.lines = []
    try:
        yield
    finally:
        lines, _held.lines = _held.lines, None
        if lines:
            sys.stderr.write("".join(lines))
            sys.stderr.flush()


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each line by itself, but for those that are said `together`."""

    def emit(self, record: logging.LogRecord) -> None:
        lines: list[str] | None = getattr(_held, "lines", None)
        if lines is None:
            super().emit(record)
            return
        try:
            lines.append(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)  # as the parent does


def configure_logging(*, service: str, process: str, level: str) -> None:
    """Send every logger of this process through the one JSON formatter."""
    _leave_out_what_nobody_reads()
    handler = LineHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service=service, process=process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def _leave_out_what_nobody_reads() -> None:
    """A fifth of what a line costs: the caller's place in the source, names and numbers of its thread and process.

    Source: https://docs.python.org/3/howto/logging.html#optimization
    """
    logging._srcfile = None
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
