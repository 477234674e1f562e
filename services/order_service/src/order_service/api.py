"""The order service over HTTP: parse, call one use case, render."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from ecom_common import pagination, tracing
from ecom_common.auth import Principal, requires
from ecom_common.batch import Batcher
from ecom_common.errors import Problem
from ecom_common.http import Draining, etag, idempotency_key, optional_idempotency_key
from ecom_common.idempotency import fingerprint
from ecom_common.ids import new_id
from ecom_common.pagination import CursorParameter, Limit
from ecom_common.problems import problem_responses
from ecom_common.reading import Reader
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from order_service import repository
from order_service.commands import Cancelled, CancelOrder, Command, Placed, PlaceOrder, Result
from order_service.flow import FlowControl
from order_service.models import Order
from order_service.saga import FINAL, Status
from order_service.schemas import (
    OrderList,
    OrderOut,
    PlaceOrderIn,
    StatusFilter,
    Timeline,
    order_document,
    timeline_document,
)
from order_service.watch import Watch

ADMIN: Final = "orders:admin"
MAX_WAIT_S: Final = 30
KEEP_ALIVE_S: Final = 15.0
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?:$|[,;\s])")

router = APIRouter(prefix="/v1/orders", tags=["orders"])


@dataclass(frozen=True)
class Desk:
    """What the routes work with; built by `app`."""

    batcher: Batcher[Command, Result]
    lookups: Batcher[UUID, Order | None]
    """Orders by id: those that are asked for at the same time are read by the same statements."""
    reader: Reader
    watch: Watch
    flow: FlowControl
    draining: Draining


async def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


DeskDep = Annotated[Desk, Depends(_desk)]
MayWrite = Annotated[Principal, Depends(requires("orders:write", ADMIN))]
MayRead = Annotated[Principal, Depends(requires("orders:read", ADMIN))]
OrderId = Annotated[UUID, Path(description="The order's id.")]


@router.post(
    "",
    status_code=201,
    response_model=OrderOut,
    summary="Place an order",
    responses={
        200: {"model": OrderOut, "description": "The checkout had been placed already."},
        **problem_responses(
            "idempotency_key_missing", "malformed_body", "unauthenticated", "forbidden", "price_changed",
            "checkout_reused", "request_in_progress", "body_too_large", "unsupported_media_type",
            "validation_failed", "unknown_sku", "item_inactive", "currency_mismatch",
            "idempotency_key_reused", "card_number_refused",
        ),
    },
)  # fmt: skip
async def place_order(
    body: PlaceOrderIn,
    caller: MayWrite,
    key: Annotated[str, Depends(idempotency_key)],
    desk: DeskDep,
    prefer: Annotated[
        str | None, Header(description="`wait=N`: wait up to N (≤ 30) seconds for a final status.")
    ] = None,
) -> Response:
    """Place an order. Prices are the catalogue's; the answer comes as soon as the order is durable, or with
    `Prefer: wait=N` when it is confirmed, rejected or cancelled, at the latest after N seconds."""
    wait_s = _wait_s(prefer)
    await desk.flow.admit()
    placed = await desk.batcher.submit(_place_command(body, caller, key))
    assert isinstance(placed, Placed)
    order = placed.order
    if wait_s:
        order = await _until_final(desk, order, wait_s)
    headers = {"Location": f"/v1/orders/{order.id}"}
    if wait_s is not None:
        headers["Preference-Applied"] = f"wait={wait_s}"
    if placed.replayed:
        headers["Idempotency-Replayed"] = "true"
    return _order_response(order, 200 if placed.existed else 201, headers)


def _place_command(body: PlaceOrderIn, caller: Principal, key: str) -> PlaceOrder:
    return PlaceOrder(
        order_id=new_id(),
        customer_id=caller.subject,
        idempotency_key=key,
        fingerprint=fingerprint(body.content()),
        currency=body.currency,
        quantities=body.quantities(),
        payment_method=body.payment_method,
        checkout_id=body.checkout_id,
        expected_total=body.expected_total,
        traceparent=tracing.current_traceparent.get(),
    )


@router.get(
    "",
    response_model=OrderList,
    summary="List orders, newest first",
    responses=problem_responses("unauthenticated", "forbidden", "validation_failed"),
)
async def list_orders(
    caller: MayRead,
    desk: DeskDep,
    status: Annotated[StatusFilter | None, Query(description="Only those in this status.")] = None,
    limit: Limit = pagination.DEFAULT_LIMIT,
    cursor: CursorParameter = None,
) -> Response:
    """Your own orders; with `orders:admin` everybody's."""
    before = pagination.decode_uuid(cursor)
    rows = await desk.reader.read(
        lambda session: repository.list_orders(
            session, customer_id=_owner(caller), status=status, before=before, most=limit + 1
        )
    )
    orders, next_cursor = pagination.page(rows, limit, lambda order: str(order.id))
    return _json({"items": [order_document(o) for o in orders], "next_cursor": next_cursor})


@router.get(
    "/{order_id}",
    response_model=OrderOut,
    summary="Look at an order",
    responses=problem_responses("unauthenticated", "forbidden", "not_found", "validation_failed"),
)
async def get_order(order_id: OrderId, caller: MayRead, desk: DeskDep) -> Response:
    return _order_response(await _own_order(desk, order_id, caller), 200)


@router.get(
    "/{order_id}/timeline",
    response_model=Timeline,
    summary="See everything that happened to an order",
    responses=problem_responses("unauthenticated", "forbidden", "not_found", "validation_failed"),
)
async def get_timeline(
    order_id: OrderId,
    caller: MayRead,
    desk: DeskDep,
    limit: Limit = pagination.MAX_LIMIT,
    cursor: CursorParameter = None,
) -> Response:
    """Every change, oldest first, with its actor and the message that caused it."""
    after = pagination.decode_int(cursor) or 0
    await _own_order(desk, order_id, caller)
    rows = await _changes(desk, order_id, after=min(after, 2**31 - 1), most=limit + 1)
    entries, next_cursor = pagination.page(rows, limit, lambda entry: int(entry["version"]))
    return _json({"items": entries, "next_cursor": next_cursor})


@router.get(
    "/{order_id}/events",
    summary="Follow an order as it changes (server-sent events)",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "One event for each change."},
        204: {"description": "Nothing more will come after the last event you have."},
        **problem_responses("unauthenticated", "forbidden", "not_found", "validation_failed"),
    },
)
async def get_events(
    order_id: OrderId,
    caller: MayRead,
    desk: DeskDep,
    last_event_id: Annotated[
        str | None, Header(description="The id of the last event you have; sent by browsers.")
    ] = None,
) -> Response:
    """An event for each change: its id is the order's version, its data the timeline's entry. The stream
    closes after a final status; a reconnect after the last event is answered 204."""
    after = _event_id(last_event_id)
    order = await _own_order(desk, order_id, caller)
    if after >= order.version and order.status in FINAL:
        return Response(status_code=204)
    # An id from beyond what there is was given before a restore: what comes next is news to its client.
    after = min(after, order.version)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        _event_stream(desk, order_id, after), media_type="text/event-stream", headers=headers
    )


@router.post(
    "/{order_id}/cancel",
    response_model=OrderOut,
    summary="Cancel an order",
    responses={
        202: {"model": OrderOut, "description": "It is being cancelled."},
        **problem_responses(
            "unauthenticated", "forbidden", "not_found", "not_cancellable", "request_in_progress",
            "validation_failed", "body_too_large", "unsupported_media_type", "card_number_refused",
        ),
    },
)  # fmt: skip
async def cancel_order(
    order_id: OrderId,
    caller: MayWrite,
    _key: Annotated[str | None, Depends(optional_idempotency_key)],
    desk: DeskDep,
) -> Response:
    """Cancel an order at any time, confirmed ones too: what is reserved is released or restocked, what was
    taken is refunded in full. Asking again changes nothing; 200 when it is done."""
    result = await desk.batcher.submit(CancelOrder(order_id, _owner(caller), caller.subject))
    assert isinstance(result, Cancelled)
    is_done = result.order.status == Status.CANCELLED
    return _order_response(result.order, 200 if is_done else 202)


def _owner(caller: Principal) -> str | None:
    """Whose orders the caller may touch: None means everybody's."""
    return None if caller.may(ADMIN) else caller.subject


async def _own_order(desk: Desk, order_id: UUID, caller: Principal) -> Order:
    order = await desk.lookups.submit(order_id)
    if order is None or _owner(caller) not in (None, order.customer_id):
        # A foreign order too: whether it exists is nobody else's business.
        raise Problem("not_found", "There is no such order.")
    return order


async def _until_final(desk: Desk, order: Order, wait_s: float) -> Order:
    """The order as it is when final, or after `wait_s`, or when this process is about to stop."""
    deadline = _now() + wait_s
    while order.status not in FINAL and (left := deadline - _now()) > 0:
        if not await desk.watch.changed(order.id, since=order.version, timeout_s=left):
            break
        order = await _reload(desk, order.id)
    return order


async def _reload(desk: Desk, order_id: UUID) -> Order:
    return (await desk.reader.read(lambda s: repository.load_orders(s, [order_id])))[order_id]


async def _changes(desk: Desk, order_id: UUID, *, after: int, most: int) -> list[dict[str, Any]]:
    return await desk.reader.read(
        lambda session: [
            timeline_document(entry)
            for entry in repository.history(session, order_id, after=after, most=most)
        ]
    )


async def _event_stream(desk: Desk, order_id: UUID, after: int) -> AsyncIterator[bytes]:
    is_final = False
    while not desk.draining.started:
        entries = await _changes(desk, order_id, after=after, most=pagination.MAX_LIMIT)
        for entry in entries:
            after = entry["version"]
            is_final = entry["status"] in FINAL
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                after,
                entry["kind"].encode(),
                orjson.dumps(entry, option=orjson.OPT_UTC_Z),
            )
        if entries:
            continue
        if is_final:
            return
        if not await desk.watch.changed(order_id, since=after, timeout_s=KEEP_ALIVE_S):
            # A comment: it keeps proxies from closing the stream.
            yield b": still here\n\n"


def _event_id(header: str | None) -> int:
    if header is None or not header.strip():
        return 0
    if not (header.isascii() and header.isdecimal() and len(header) < 10):
        raise Problem("validation_failed", "Last-Event-ID: the id of an event of this stream.")
    return int(header)


def _wait_s(prefer: str | None) -> int | None:
    """Seconds of `Prefer: wait=N` (RFC 7240 §4.3), at most 30; None without one."""
    match = _WAIT.search(prefer.lower()) if prefer else None
    return None if match is None else min(int(match[1]), MAX_WAIT_S)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _order_response(order: Order, status: int, headers: dict[str, str] | None = None) -> Response:
    return _json(order_document(order), status, {"ETag": etag(order.version), **(headers or {})})


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(document, option=orjson.OPT_UTC_Z)
    return Response(body, status, headers, media_type="application/json")
