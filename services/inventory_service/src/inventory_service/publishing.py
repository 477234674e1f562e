"""What the inventory tells the others: the whole state of what has changed, with its version."""

from datetime import datetime

from ecom_common.outbox import Outgoing, outgoing
from ecom_contracts.envelope import Envelope
from ecom_contracts.messages import (
    ItemChanged,
    Message,
    ReservationChanged,
    Shortage,
    StockLine,
)

from inventory_service.models import SERVICE, Item, Reservation


def item_changed(item: Item, now: datetime, *, traceparent: str | None) -> Outgoing:
    data = ItemChanged(
        sku=item.sku,
        name=item.name,
        description=item.description,
        unit_price=item.unit_price,
        currency=item.currency,
        active=item.active,
        version=item.version,
    )
    return outgoing(data, source=SERVICE, now=now, sequence=item.version, traceparent=traceparent)


def reservation_changed(
    reservation: Reservation, now: datetime, *, cause: Envelope[Message] | None = None
) -> Outgoing:
    """The answer to the command `cause`; without one, news that time has brought."""
    data = ReservationChanged(
        order_id=reservation.order_id,
        state=reservation.state,
        version=reservation.version,
        lines=tuple(StockLine(sku=line.sku, quantity=line.quantity) for line in reservation.lines),
        shortages=tuple(Shortage(**shortage) for shortage in reservation.shortages),
        expires_at=reservation.expires_at,
    )
    return outgoing(
        data,
        source=SERVICE,
        now=now,
        sequence=reservation.version,
        correlation_id=str(reservation.order_id) if cause is None else cause.correlation_id,
        causation_id=None if cause is None else cause.id,
        traceparent=None if cause is None else cause.traceparent,
    )
