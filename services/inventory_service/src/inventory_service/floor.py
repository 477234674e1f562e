"""The floor where orders' commands are dealt with, one after the other, in memory.

No session and no I/O: `service` loads and locks what the batch needs, and writes what has come of it. Each
command sees what those before it in the batch did. A command that the state machine does not name changes
nothing, and is answered all the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from ecom_common.messages import Received
from ecom_common.outbox import Outgoing
from ecom_common.safeguards import is_off
from ecom_contracts.messages import (
    Message,
    ReservationState,
    StockCommit,
    StockRelease,
    StockReserve,
)

from inventory_service.models import MovementKind, Origin, Reservation, Stock, order_cause
from inventory_service.publishing import reservation_changed


def skus_at_stake(
    reservations: Mapping[UUID, Reservation], commands: Sequence[Message]
) -> set[str]:
    """The SKUs whose levels may change: what is held or sold, and what is asked for the first time."""
    skus = {
        line.sku for reservation in reservations.values() if reservation.moves_stock
        for line in reservation.lines
    }  # fmt: skip
    for command in commands:
        if isinstance(command, StockReserve) and reservations[command.order_id].version == 0:
            skus.update(line.sku for line in command.lines)
    return skus


@dataclass
class Floor:
    """A batch of orders' commands at work on the reservations and levels they concern."""

    now: datetime
    ttl: timedelta
    reservations: Mapping[UUID, Reservation]
    stock: Stock

    def __post_init__(self) -> None:
        self._before = {i: reservation.version for i, reservation in self.reservations.items()}

    def answer(self, message: Received) -> Outgoing:
        """Do what the message asks, if it may be done, and tell the reservation's whole state."""
        envelope = message.envelope
        reservation = self.reservations[envelope.data.order_id]
        _VERBS[type(envelope.data)](self, reservation, envelope.data, envelope.source)
        return reservation_changed(reservation, self.now, cause=envelope)

    def expire(self, reservation: Reservation) -> Outgoing:
        if reservation.expire(self.now):
            self._give_back(reservation)
        return reservation_changed(reservation, self.now)

    def changed(self) -> tuple[list[Reservation], list[Reservation]]:
        """Those to insert, and those to update."""
        changed = [r for i, r in self.reservations.items() if r.version != self._before[i]]
        if is_off("tombstones"):
            changed = [r for r in changed if not r.is_tombstone]
        new = [r for r in changed if self._before[r.order_id] == 0]
        return new, [r for r in changed if self._before[r.order_id] != 0]

    def reserve(self, reservation: Reservation, command: StockReserve, _: str) -> None:
        """All lines or nothing."""
        quantities: dict[str, int] = {}
        for line in command.lines:
            quantities[line.sku] = quantities.get(line.sku, 0) + line.quantity
        if shortages := self._shortages(quantities):
            reservation.refuse(quantities, shortages, now=self.now)
        elif reservation.hold(quantities, now=self.now, ttl=self.ttl):
            for sku, quantity in quantities.items():
                self.stock.levels[sku].reserve(quantity)

    def commit(self, reservation: Reservation, _: StockCommit, actor: str) -> None:
        if reservation.commit(self.now):
            origin = self._origin(reservation, MovementKind.COMMITTED, actor)
            for line in reservation.lines:
                movement = self.stock.levels[line.sku].commit(line.quantity, origin)
                self.stock.movements.append(movement)

    def release(self, reservation: Reservation, _: StockRelease, actor: str) -> None:
        if not reservation.release(self.now):
            return
        if reservation.state is ReservationState.RESTOCKED:
            origin = self._origin(reservation, MovementKind.RESTOCKED, actor)
            for line in reservation.lines:
                movement = self.stock.levels[line.sku].restock(line.quantity, origin)
                self.stock.movements.append(movement)
        else:
            self._give_back(reservation)

    def _give_back(self, reservation: Reservation) -> None:
        # A tombstone has no lines.
        for line in reservation.lines:
            self.stock.levels[line.sku].release(line.quantity)

    def _shortages(self, quantities: Mapping[str, int]) -> list[dict[str, Any]]:
        shortages = []
        for sku, quantity in quantities.items():
            level = self.stock.levels.get(sku)
            if level is None or not level.for_sale or not level.covers(quantity):
                available = level.available if level is not None and level.for_sale else 0
                shortages.append({"sku": sku, "requested": quantity, "available": available})
        return shortages

    def _origin(self, reservation: Reservation, kind: MovementKind, actor: str) -> Origin:
        return Origin(cause=order_cause(reservation.order_id, kind), actor=actor, at=self.now)


_VERBS: Final[dict[type[Message], Callable[[Floor, Reservation, Any, str], None]]] = {
    StockReserve: Floor.reserve,
    StockCommit: Floor.commit,
    StockRelease: Floor.release,
}
