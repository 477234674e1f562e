"""The HTTP door: parse, call one use case, render.

Commands join the running batch and come back with their result; queries run on the reader's threads.
"""

from typing import Annotated, Any, Final

from ecom_common.auth import Principal, requires
from ecom_common.batch import Batcher
from ecom_common.http import etag, idempotency_key, if_match_version
from ecom_common.pagination import (
    DEFAULT_LIMIT,
    CursorParameter,
    Limit,
    decode_int,
    decode_text,
    page,
)
from ecom_common.problems import problem_responses
from ecom_common.reading import Reader
from ecom_common.tracing import current_traceparent
from fastapi import APIRouter, Body, Depends, Header, Request, Response
from fastapi.openapi.models import Example

from inventory_service import service
from inventory_service.commands import (
    Command,
    ItemPut,
    MovementRecorded,
    PutItem,
    RecordMovement,
    Result,
)
from inventory_service.models import ItemContent
from inventory_service.schemas import (
    Containing,
    ItemIn,
    ItemOut,
    ItemPage,
    MovementIn,
    MovementOut,
    MovementPage,
    OrderIdInPath,
    ReservationOut,
    SkuInPath,
    StockOut,
    to_json,
)

JSON = "application/json"
Commands = Batcher[Command, Result]


async def _commands(request: Request) -> Commands:
    commands: Commands = request.app.state.commands
    return commands


async def _reader(request: Request) -> Reader:
    reader: Reader = request.app.state.reader
    return reader


CommandsHere = Annotated[Commands, Depends(_commands)]
ReaderHere = Annotated[Reader, Depends(_reader)]
MayRead = Annotated[Principal, Depends(requires("inventory:read"))]
MayWrite = Annotated[Principal, Depends(requires("inventory:write"))]

_READING = ("unauthenticated", "forbidden", "not_found", "validation_failed")
_WRITING = (
    "malformed_body",
    "unauthenticated",
    "forbidden",
    "request_in_progress",
    "body_too_large",
    "unsupported_media_type",
    "validation_failed",
    "card_number_refused",
)
_ETAG = {
    "ETag": {"description": "The version; an item's is for If-Match.", "schema": {"type": "string"}}
}
_REPLAYED = {
    "Idempotency-Replayed": {
        "description": "`true` when the key had been used for this movement before.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}

_MOVEMENT_EXAMPLES: Final[dict[str, Example]] = {
    "received": {"value": {"kind": "received", "quantity": 100}},
    "adjusted": {"value": {"kind": "adjusted", "quantity": -2, "reason": "two broken"}},
    "counted": {"value": {"kind": "counted", "quantity": 98}},
}

router = APIRouter(prefix="/v1")


@router.put(
    "/items/{sku}",
    tags=["items"],
    summary="List an item, or change it",
    response_model=ItemOut,
    responses={
        200: {"description": "Changed, or as it was.", "headers": _ETAG},
        201: {"description": "New.", "model": ItemOut, "headers": _ETAG},
        **problem_responses(*_WRITING, "not_found", "precondition_failed"),
    },
)
async def put_item(
    sku: SkuInPath,
    body: ItemIn,
    commands: CommandsHere,
    _: MayWrite,
    if_match: Annotated[
        str | None, Header(description="Change this version only.", examples=['"3"'])
    ] = None,
) -> Response:
    command = PutItem(
        sku=sku,
        content=ItemContent(**dict(body)),
        only_existing=if_match is not None,
        only_version=if_match_version(if_match),
        traceparent=current_traceparent.get(),
    )
    result = await commands.submit(command)
    assert isinstance(result, ItemPut)
    return _tagged(ItemOut, result.item, 201 if result.created else 200)


@router.get(
    "/items/{sku}",
    tags=["items"],
    summary="One item",
    response_model=ItemOut,
    responses={200: {"headers": _ETAG}, **problem_responses("not_found", "validation_failed")},
)
async def get_item(sku: SkuInPath, reader: ReaderHere) -> Response:
    item = await reader.read(lambda session: service.show_item(session, sku))
    return _tagged(ItemOut, item)


@router.get(
    "/items",
    tags=["items"],
    summary="Items, by SKU",
    response_model=ItemPage,
    responses=problem_responses("validation_failed"),
)
async def get_items(
    reader: ReaderHere,
    q: Containing = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorParameter = None,
) -> Response:
    after = decode_text(cursor)
    found = await reader.read(
        lambda session: service.browse_items(session, containing=q, after=after, most=limit + 1)
    )
    items, next_cursor = page(found, limit, lambda item: item.sku)
    return _json(ItemPage, {"items": items, "next_cursor": next_cursor})


@router.get(
    "/items/{sku}/stock",
    tags=["stock"],
    summary="How many units there are",
    response_model=StockOut,
    responses={200: {"headers": _ETAG}, **problem_responses(*_READING)},
)
async def get_stock(sku: SkuInPath, reader: ReaderHere, _: MayRead) -> Response:
    level = await reader.read(lambda session: service.show_stock_level(session, sku))
    return _tagged(StockOut, level)


@router.post(
    "/items/{sku}/movements",
    tags=["stock"],
    summary="Record that units came in, were counted, or were wrong",
    status_code=201,
    response_model=MovementOut,
    responses={
        201: {"headers": _REPLAYED},
        **problem_responses(
            *_WRITING,
            "idempotency_key_missing",
            "idempotency_key_reused",
            "not_found",
            "stock_in_use",
        ),
    },
)
async def record_movement(
    sku: SkuInPath,
    body: Annotated[MovementIn, Body(openapi_examples=_MOVEMENT_EXAMPLES)],
    commands: CommandsHere,
    caller: MayWrite,
    key: Annotated[str, Depends(idempotency_key)],
) -> Response:
    command = RecordMovement(
        sku=sku,
        kind=body.kind,
        quantity=body.quantity,
        reason=body.reason,
        subject=caller.subject,
        key=key,
    )
    result = await commands.submit(command)
    assert isinstance(result, MovementRecorded)
    headers = {"Idempotency-Replayed": "true"} if result.replayed else None
    return Response(to_json(MovementOut, result.movement), 201, headers, JSON)


@router.get(
    "/items/{sku}/movements",
    tags=["stock"],
    summary="The ledger of a SKU, newest first",
    response_model=MovementPage,
    responses=problem_responses(*_READING),
)
async def get_movements(
    sku: SkuInPath,
    reader: ReaderHere,
    _: MayRead,
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorParameter = None,
) -> Response:
    before = decode_int(cursor)
    found = await reader.read(
        lambda session: service.browse_movements(session, sku, before=before, most=limit + 1)
    )
    movements, next_cursor = page(found, limit, lambda movement: movement.sequence)
    return _json(MovementPage, {"items": movements, "next_cursor": next_cursor})


@router.get(
    "/reservations/{order_id}",
    tags=["reservations"],
    summary="What an order has been promised",
    response_model=ReservationOut,
    responses={200: {"headers": _ETAG}, **problem_responses(*_READING)},
)
async def get_reservation(order_id: OrderIdInPath, reader: ReaderHere, _: MayRead) -> Response:
    reservation = await reader.read(lambda session: service.show_reservation(session, order_id))
    return _tagged(ReservationOut, reservation)


def _tagged(shape: Any, resource: Any, status: int = 200) -> Response:
    headers = {"ETag": etag(resource.version)}
    return Response(to_json(shape, resource), status, headers, JSON)


def _json(shape: Any, values: Any) -> Response:
    return Response(to_json(shape, values), media_type=JSON)
