"""The HTTP side of the chassis: one way to make an app, one middleware, one server with a graceful stop."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import FrameType
from typing import Annotated, Final

import orjson
import uvicorn
from fastapi import APIRouter, FastAPI, Header, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ecom_common import metrics, problems
from ecom_common.auth import Authenticator
from ecom_common.cards import contains_card_number
from ecom_common.errors import Problem
from ecom_common.health import Check, run_checks
from ecom_common.memory import collect_seldom
from ecom_common.settings import ServiceSettings, prepare_for_experiments
from ecom_common.stopping import end_within
from ecom_common.tracing import continued, current_traceparent

MAX_BODY_BYTES: Final = 64 * 1024
GRACEFUL_STOP_S: Final = 10
MAX_IDEMPOTENCY_KEY_CHARS: Final = 255
# The escape of a NUL, and not an escaped backslash before the same letters.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Draining:
    """Tells long waits and event streams that the process is about to stop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def start(self) -> None:
        self._event.set()

    @property
    def started(self) -> bool:
        return self._event.is_set()

    async def wait(self, timeout_s: float) -> bool:
        """Sleep, but no longer than until the process drains; whether it does."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout_s)
        except TimeoutError:
            return False
        return True


def make_app(
    *,
    title: str,
    summary: str,
    settings: ServiceSettings,
    routers: Sequence[APIRouter],
    lifespan: Lifespan,
    checks: Callable[[FastAPI], Mapping[str, Check]],
) -> FastAPI:
    """An app with problem documents, health, metrics, access checks and limits; nothing is opened yet.

    `checks` is asked for the readiness checks once the lifespan has built what they look at.
    """

    @asynccontextmanager
    async def with_draining(app: FastAPI) -> AsyncIterator[None]:
        app.state.draining = Draining()
        async with lifespan(app):
            app.state.checks = checks(app)
            yield

    app = FastAPI(
        title=title,
        summary=summary,
        version="1",
        lifespan=with_draining,
        redoc_url=None,
        # Its spans would hold paths and queries, and each request asks anew whether somebody wants them.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.authenticator = Authenticator(
        jwks=settings.jwt_jwks,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        environment=settings.environment,
    )
    problems.install(app)
    app.add_middleware(_Chassis)
    for router in routers:
        app.include_router(router)
    app.include_router(_operations)
    return app


_operations = APIRouter(tags=["operations"])


@_operations.get("/health/live", summary="Is this process worth keeping?")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@_operations.get(
    "/health/ready",
    summary="Can it do its work now?",
    responses={503: {"description": "Not now; `checks` says why."}},
)
async def ready(request: Request) -> Response:
    ok, results = await run_in_threadpool(run_checks, request.app.state.checks)
    ok = ok and not request.app.state.draining.started
    document = {"status": "ok" if ok else "unavailable", "checks": results}
    return Response(orjson.dumps(document), 200 if ok else 503, media_type="application/json")


@_operations.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def exported_metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def idempotency_key(
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Chosen by you, fresh for each new request, the same when you retry it.",
            examples=["6f1c6f0e-5a55-4f0a-9d0c-1d2f3e4a5b6c"],
        ),
    ] = None,
) -> str:
    """The Idempotency-Key header, which this operation requires."""
    if idempotency_key is None or not idempotency_key.strip():
        raise Problem("idempotency_key_missing", "Send a fresh key, and the same one on retries.")
    return _checked_key(idempotency_key)


async def optional_idempotency_key(
    idempotency_key: Annotated[str | None, Header(description="Accepted, not needed.")] = None,
) -> str | None:
    """The Idempotency-Key header of an operation that is idempotent by itself."""
    return None if idempotency_key is None else _checked_key(idempotency_key)


def _checked_key(key: str) -> str:
    if len(key) > MAX_IDEMPOTENCY_KEY_CHARS or not (key.isascii() and key.isprintable()):
        raise Problem("validation_failed", "Idempotency-Key: 1 to 255 printable ASCII characters.")
    if contains_card_number(key):
        raise Problem("card_number_refused", "Use a random key. It was not stored.")
    return key


def etag(version: int) -> str:
    """The strong entity tag of a version."""
    return f'"{version}"'


def if_match_version(header: str | None) -> int | None:
    """The version that an If-Match header asks for; None for none or `*`.

    Raises `precondition_failed` for a tag we never gave.
    """
    if header is None or header.strip() == "*":
        return None
    tag = header.strip()
    if len(tag) < 12 and tag.startswith('"') and tag.endswith('"') and tag[1:-1].isdecimal():
        return int(tag[1:-1])
    raise Problem("precondition_failed", "Read the resource again and use its ETag.")


class _Chassis:
    """What happens around every request: trace, limits, time, and an answer for what went wrong.

    Plain ASGI: a middleware built on Starlette's base class would cost a task and a queue a request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        current_traceparent.set(continued(headers.get("traceparent")))
        exchange = _Exchange(receive, send)
        begin = time.perf_counter()
        try:
            has_json = _has_body(scope["method"], headers)
            refusal = _refusal_of_head(scope, headers, has_json=has_json)
            if refusal is None and has_json:
                refusal = await exchange.refusal_of_body()
            if refusal is not None:
                await problems.render(refusal)(scope, receive, exchange.send)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            if exchange.status:
                raise  # the answer has begun: only cutting the connection tells the client
            await problems.internal_error(error)(scope, receive, exchange.send)
        finally:
            _observe(scope, exchange.status, time.perf_counter() - begin)


class _Exchange:
    """Checks the request's body and remembers the answer's status."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._received = 0
        self._ahead: list[Message] = []
        self.status = 0

    async def refusal_of_body(self) -> Problem | None:
        """Read the whole body, which the app is then given in one piece, unless it is no JSON.

        The app's own parser would let halves of surrogate pairs and NaN pass; neither they nor NUL can be
        stored, so they would only fail later, as if the fault were ours.
        """
        body = b""
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                break  # the client is gone: what it sent is not whole
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                return _too_large()
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError:
            return Problem("malformed_body", "Send a JSON document in UTF-8.")
        if _NUL.search(body):
            return Problem("validation_failed", "Text must not hold NUL characters.")
        self._ahead.append({"type": "http.request", "body": body, "more_body": False})
        return None

    async def receive(self) -> Message:
        if self._ahead:
            return self._ahead.pop()
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > MAX_BODY_BYTES:
            raise HTTPException(413)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def _has_body(method: str, headers: Headers) -> bool:
    """Whether the request has a body that an operation of ours would read."""
    has_any = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    return has_any and method in ("POST", "PUT", "PATCH")


def _refusal_of_head(scope: Scope, headers: Headers, *, has_json: bool) -> Problem | None:
    """Why a request is refused by its head alone."""
    if "\0" in scope["path"]:
        return Problem("not_found", "Look at /docs for the paths there are.")
    if b"%00" in scope["query_string"]:
        return Problem("validation_failed", "Text must not hold NUL characters.")
    if not has_json:
        return None
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        return _too_large()
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return Problem("unsupported_media_type", "Send Content-Type: application/json.")
    return None


def _too_large() -> Problem:
    return Problem("body_too_large", "Bodies may have 64 KiB.")


def _observe(scope: Scope, status: int, seconds: float) -> None:
    # The route's template, never the path: a path is the client's text.
    route = getattr(scope.get("route"), "path", "unmatched")
    method = scope["method"] if scope["method"] in _METHODS else "other"
    metrics.REQUEST_SECONDS.labels(method, route, str(status)).observe(seconds)
    level = logging.WARNING if status >= 500 else logging.DEBUG
    if log.isEnabledFor(level):
        log.log(
            level,
            "%s %s → %d",
            method,
            route,
            status,
            extra={"status": status, "ms": round(seconds * 1000, 1)},
        )


class _Server(uvicorn.Server):
    """Tells the app to drain at the first signal: its lifespan ends only after the last connection."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        if (draining := getattr(app.state, "draining", None)) is not None:
            # A signal handler runs between two bytecodes of the main thread: only hand over.
            asyncio.get_event_loop().call_soon_threadsafe(draining.start)
        end_within()
        super().handle_exit(sig, frame)


def serve(app: FastAPI, settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then answer what has begun, and return."""
    prepare_for_experiments(settings)
    collect_seldom()
    make_server(app, settings).run()


def make_server(app: FastAPI, settings: ServiceSettings) -> uvicorn.Server:
    """The server of an app; it runs on whichever thread calls `run`."""
    # Its lines would hold paths and queries, which are the client's text.
    logging.getLogger("uvicorn.access").disabled = True
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_STOP_S,
        timeout_keep_alive=30,
    )
    return _Server(config)
