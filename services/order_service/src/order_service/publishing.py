"""What an order says: commands to the participants, announcements for everybody else."""

from collections.abc import Callable, Mapping, Sequence
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

from order_service.models import SERVICE, Cause, HistoryEntry, Order
from order_service.saga import FINAL, Ask, Status


def commands(
    order: Order, wanted: frozenset[Ask], *, now: datetime, cause: Cause | None = None
) -> list[Outgoing]:
    """What asks the participants for `wanted`."""
    # Sorted: sets have no order, and a replayed simulation needs one.
    return [_outgoing(_COMMANDS[ask](order), order, now, cause) for ask in sorted(wanted)]


def announce_placed(order: Order, *, now: datetime) -> Outgoing:
    """What tells everybody else that there is a new order."""
    return _outgoing(_placed_event(order), order, now, None)


def announce_final(order: Order, *, now: datetime, cause: Cause | None = None) -> Outgoing:
    """What tells everybody else how an order that is final has ended."""
    return _outgoing(_final_event(order, order.status, order.reason), order, now, cause)


def announce_again(order: Order, history: Sequence[HistoryEntry]) -> list[Outgoing]:
    """All that everybody else was told of the order, with the times and sequences of then, and new ids."""
    events: list[tuple[HistoryEntry, Message]] = []
    for entry in history:
        if entry.version == 1:
            events.append((entry, _placed_event(order)))
        elif entry.status in FINAL:
            events.append((entry, _final_event(order, entry.status, entry.reason)))
    return [_outgoing(data, order, entry.at, None, entry.version) for entry, data in events]


def _placed_event(order: Order) -> Message:
    return OrderPlaced(
        order_id=order.id,
        checkout_id=order.checkout_id,
        customer_id=order.customer_id,
        currency=order.currency,
        total=order.total,
        lines=tuple(
            OrderedLine(
                sku=line.sku,
                name=line.name,
                quantity=line.quantity,
                unit_price=line.unit_price,
                total=line.total,
            )
            for line in order.lines
        ),
    )


def _final_event(order: Order, status: str, reason: str | None) -> Message:
    common = {
        "order_id": order.id,
        "customer_id": order.customer_id,
        "currency": order.currency,
        "total": order.total,
    }
    if status == Status.CONFIRMED:
        return OrderConfirmed(**common)
    if status == Status.REJECTED:
        return OrderRejected(reason=reason or "", **common)
    assert status == Status.CANCELLED, f"{status} is not final"
    return OrderCancelled(reason=reason or "", **common)


def _outgoing(
    data: Message, order: Order, now: datetime, cause: Cause | None, sequence: int | None = None
) -> Outgoing:
    return outgoing(
        data,
        source=SERVICE,
        now=now,
        sequence=sequence or order.version,
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
