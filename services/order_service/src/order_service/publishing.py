"""Which messages an order sends: commands to the participants, announcements for everybody else."""

from datetime import datetime

from ecom_common.outbox import Outgoing, outgoing
from ecom_contracts.messages import Message

from order_service.models import SERVICE, Cause, Order
from order_service.saga import Ask


def commands(
    order: Order, wanted: frozenset[Ask], *, now: datetime, cause: Cause | None = None
) -> list[Outgoing]:
    # Sorted: sets have no order, and a replayed simulation needs one.
    messages = [order.command(ask) for ask in sorted(wanted)]
    return [
        message for data in messages for message in announcement(data, order, now=now, cause=cause)
    ]


def announcement(
    data: Message | None, order: Order, *, now: datetime, cause: Cause | None = None
) -> list[Outgoing]:
    if data is None:
        return []
    return [
        outgoing(
            data,
            source=SERVICE,
            now=now,
            sequence=order.version,
            correlation_id=str(order.id),
            causation_id=None if cause is None else cause.message_id,
            traceparent=order.traceparent,
        )
    ]
