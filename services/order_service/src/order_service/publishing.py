"""What an order says: commands to the participants, announcements for everybody else."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from ecom_common.outbox import Outgoing, outgoing
from ecom_contracts.messages import (
    Message,
    OrderCancelled,
    OrderConfirmed,
    OrderedLine,
    OrderPlaced,
    OrderRejected,
    PaymentCancel,
    PaymentCharge,
    StockCommit,
    StockLine,
    StockRelease,
    StockReserve,
)

from order_service.models import SERVICE, Cause, Order
from order_service.saga import Ask, Status


def commands(
    order: Order, wanted: frozenset[Ask], *, now: datetime, cause: Cause | None = None
) -> list[Outgoing]:
    """What asks the participants for `wanted`."""
    # Sorted: sets have no order, and a replayed simulation needs one.
    return [_outgoing(_COMMANDS[ask](order), order, now, cause) for ask in sorted(wanted)]


def announce_placed(order: Order, *, now: datetime) -> Outgoing:
    """What tells everybody else that there is a new order."""
    lines = tuple(
        OrderedLine(
            sku=line.sku,
            name=line.name,
            quantity=line.quantity,
            unit_price=line.unit_price,
            total=line.total,
        )
        for line in order.lines
    )
    event = OrderPlaced(
        order_id=order.id,
        checkout_id=order.checkout_id,
        customer_id=order.customer_id,
        currency=order.currency,
        total=order.total,
        lines=lines,
    )
    return _outgoing(event, order, now, None)


def announce_final(order: Order, *, now: datetime, cause: Cause | None = None) -> Outgoing:
    """What tells everybody else how an order that is final has ended."""
    return _outgoing(_final_event(order), order, now, cause)


def _final_event(order: Order) -> Message:
    common = {
        "order_id": order.id,
        "customer_id": order.customer_id,
        "currency": order.currency,
        "total": order.total,
    }
    if order.status == Status.CONFIRMED:
        return OrderConfirmed(**common)
    if order.status == Status.REJECTED:
        return OrderRejected(reason=order.reason or "", **common)
    assert order.status == Status.CANCELLED, f"{order.status} is not final"
    return OrderCancelled(reason=order.reason or "", **common)


def _outgoing(data: Message, order: Order, now: datetime, cause: Cause | None) -> Outgoing:
    return outgoing(
        data,
        source=SERVICE,
        now=now,
        sequence=order.version,
        correlation_id=str(order.id),
        causation_id=None if cause is None else cause.message_id,
        traceparent=order.traceparent,
    )


_COMMANDS: Final[Mapping[Ask, Callable[[Order], Message]]] = {
    Ask.RESERVE: lambda order: StockReserve(
        order_id=order.id,
        lines=tuple(StockLine(sku=line.sku, quantity=line.quantity) for line in order.lines),
    ),
    Ask.COMMIT: lambda order: StockCommit(order_id=order.id),
    Ask.RELEASE: lambda order: StockRelease(order_id=order.id),
    Ask.CHARGE: lambda order: PaymentCharge(
        order_id=order.id,
        customer_id=order.customer_id,
        currency=order.currency,
        amount=order.total,
        method=order.payment_method,
    ),
    Ask.CANCEL: lambda order: PaymentCancel(
        order_id=order.id,
        customer_id=order.customer_id,
        currency=order.currency,
        amount=order.total,
    ),
}
