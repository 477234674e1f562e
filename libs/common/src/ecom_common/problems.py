"""Problem documents (RFC 9457): how every error of the HTTP APIs is rendered and declared.

Nothing here repeats what the client sent: not a value, not a query string, not the path.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ecom_common.cards import contains_card_number
from ecom_common.errors import PROBLEM_KINDS, Problem
from ecom_common.logs import describe
from ecom_common.tracing import current_traceparent, trace_id_of

MEDIA_TYPE: Final = "application/problem+json"

# How the framework's own refusals read in our vocabulary.
_CODES_BY_STATUS: Final = {
    400: ("malformed_body", "Send a JSON document in UTF-8."),
    401: ("unauthenticated", "Send a bearer token."),
    403: ("forbidden", "Ask for a token with the scope that this needs."),
    404: ("not_found", "Look at /docs for the paths there are."),
    405: ("method_not_allowed", "The Allow header names the methods there are."),
    413: ("body_too_large", "Bodies may have 64 KiB."),
    415: ("unsupported_media_type", "Send Content-Type: application/json."),
}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")

log = logging.getLogger(__name__)


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    at: str = Field(examples=["body.lines.0.quantity"])
    problem: str = Field(examples=["Input should be greater than or equal to 1"])


class ProblemOut(BaseModel):
    """The problem document, as the OpenAPI describes it."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    code: str = Field(description="Stable; switch on this.", examples=["validation_failed"])
    detail: str = Field(description="What to do next, for people.")
    retryable: bool = Field(description="Whether the same request can succeed later.")
    trace_id: str | None = Field(description="Quote it when asking for help.")
    errors: list[FieldError] | None = None


def problem_responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these problems, 500 and 503 included."""
    by_status: dict[int | str, list[str]] = {}
    for code in (*codes, "internal_error", "overloaded", "unavailable"):
        by_status.setdefault(PROBLEM_KINDS[code].status, []).append(code)
    return {
        status: {
            "description": "Problem: " + ", ".join(f"`{code}`" for code in names),
            "model": ProblemOut,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}},
        }
        for status, names in by_status.items()
    }


def render(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The response for a problem, with the headers that its status asks for."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": problem.kind.title,
        "status": problem.kind.status,
        "code": problem.code,
        "detail": problem.detail,
        "retryable": problem.kind.retryable,
        "trace_id": trace_id_of(current_traceparent.get()),
        **problem.members,
    }
    all_headers = dict(headers or {})
    if problem.kind.status == 401:
        all_headers["WWW-Authenticate"] = 'Bearer realm="ecom"'
    if problem.retry_after_s is not None or problem.kind.status == 503:
        all_headers["Retry-After"] = str(problem.retry_after_s or 1)
    return Response(orjson.dumps(document), problem.kind.status, all_headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make the app answer every error, the framework's included, with a problem document."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def internal_error(error: Exception) -> Response:
    """The answer for a bug of ours; the log gets the stack, without values."""
    log.error("unhandled: %s", describe(error), exc_info=error)
    return render(Problem("internal_error", "It is logged. Quote the trace id when you report it."))


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return render(error)


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, detail = _CODES_BY_STATUS.get(error.status_code, ("validation_failed", "See /docs."))
    return render(Problem(code, detail), error.headers)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return render(_as_problem(error.errors()))


def _as_problem(errors: Sequence[Mapping[str, Any]]) -> Problem:
    kinds = {item["type"] for item in errors}
    if "json_invalid" in kinds:
        return Problem("malformed_body", "Send a JSON document in UTF-8.")
    members = {"errors": [{"at": _place(item), "problem": _told(item)} for item in errors[:20]]}
    if "card_number_refused" in kinds:
        detail = "Remove it and use a token of the payment provider. It was not stored."
        return Problem("card_number_refused", detail, members=members)
    return Problem("validation_failed", "Correct what `errors` lists.", members=members)


def _place(item: Mapping[str, Any]) -> str:
    return ".".join(_harmless(part) for part in item["loc"])


def _told(item: Mapping[str, Any]) -> str:
    # The one message of pydantic's that repeats a whole value.
    return "Unknown tag" if item["type"] == "union_tag_invalid" else str(item["msg"])


def _harmless(part: object) -> str:
    # The name of an unknown field is the client's own text.
    text = str(part)
    if isinstance(part, int) or (_NAME.fullmatch(text) and not contains_card_number(text)):
        return text
    return text if text in ("Idempotency-Key", "If-Match", "Last-Event-ID") else "<name>"
