"""The HTTP door: payments are read here; they are made and changed by messages alone."""

import hashlib
from typing import Annotated
from uuid import UUID

from ecom_common import pagination
from ecom_common.auth import requires
from ecom_common.pagination import DEFAULT_LIMIT, CursorParameter, Limit
from ecom_common.problems import problem_responses
from ecom_common.reading import Reader
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from payment_service import service
from payment_service.schemas import PaymentOut, PaymentPage

router = APIRouter(
    prefix="/v1/payments", tags=["payments"], dependencies=[Depends(requires("payments:read"))]
)


async def _reader(request: Request) -> Reader:
    reader: Reader = request.app.state.reader
    return reader


Reading = Annotated[Reader, Depends(_reader)]


@router.get(
    "",
    summary="List payments, the newest first",
    responses=problem_responses("unauthenticated", "forbidden", "validation_failed"),
)
async def list_payments(
    reader: Reading,
    order_id: Annotated[UUID | None, Query(description="Only the payment of this order.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: CursorParameter = None,
) -> PaymentPage:
    before = pagination.decode_uuid(cursor)
    rows = await reader.read(
        lambda session: service.list_payments(
            session, order_id=order_id, before=before, limit=limit + 1
        )
    )
    kept, next_cursor = pagination.page(rows, limit, lambda row: str(row.intent.id))
    items = [PaymentOut.of(row.intent, row.journals) for row in kept]
    return PaymentPage(items=items, next_cursor=next_cursor)


@router.get(
    "/{payment_id}",
    summary="One payment, with its operations and its ledger",
    response_model=PaymentOut,
    responses={
        **problem_responses("unauthenticated", "forbidden", "not_found", "validation_failed"),
        200: {
            "headers": {
                "ETag": {
                    "description": "Differs whenever the representation does.",
                    "schema": {"type": "string"},
                }
            }
        },
    },
)
async def get_payment(
    reader: Reading, payment_id: Annotated[UUID, Path(description="The payment's id.")]
) -> Response:
    shown = await reader.read(lambda session: service.show_payment(session, payment_id))
    payment = PaymentOut.of(shown.intent, shown.journals)
    body = payment.model_dump_json().encode()
    return Response(body, headers={"ETag": _etag(payment, body)}, media_type="application/json")


def _etag(payment: PaymentOut, body: bytes) -> str:
    # The version alone would not do: attempts at the provider show here and are no new version.
    return f'"{payment.version}-{hashlib.sha256(body).hexdigest()[:12]}"'
