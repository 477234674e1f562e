"""The use cases: place, cancel, learn what the participants say, ask again, take in the catalogue.

Session first; never commit, never HTTP, never Kafka. Each works on a whole batch: load and lock, apply in
memory with the aggregate's verbs, save once.
"""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from ecom_common import idempotency
from ecom_common.clock import database_time
from ecom_common.errors import Problem
from ecom_common.idempotency import Key, Stored
from ecom_common.messages import Received
from ecom_common.safeguards import is_off
from ecom_contracts.messages import ItemChanged, PaymentChanged, ReservationChanged
from sqlalchemy.orm import Session

from order_service import repository, saga
from order_service.commands import (
    Cancelled,
    CancelOrder,
    Command,
    Intervened,
    Intervention,
    PlaceOrder,
    Result,
)
from order_service.interventions import intervene
from order_service.models import Cause, Change, Order
from order_service.placement import Placement
from order_service.publishing import announce_final, commands
from order_service.reporting import report_when_durable
from order_service.repository import Changes
from order_service.saga import Ask, Payment, Reason, Status
from order_service.settings import Settings

ANSWERS_WEIGHT: Final = 0.01
"""Of one answer in the running mean of how long they take: it follows a change within some hundred answers."""
ANSWERS_PATIENCE: Final = 3.0
"""An answer that has taken so many times the mean may well be lost."""
ANSWERS_AT_MOST_S: Final = 5.0
"""What one answer counts at most: those that had to wait for an outage to end say nothing of the next."""


class OrderDesk:
    """The use cases of the order service, with the settings they depend on."""

    def __init__(
        self, settings: Settings, *, jitter: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._deadline = timedelta(seconds=settings.order_deadline_s)
        self._first_wait_s = settings.ask_again_after_s
        self._most_wait_s = settings.ask_again_at_most_s
        self._max_asks = settings.max_asks
        self._jitter = jitter
        self._answers_take_s = 0.0

    def handle_commands(self, session: Session, batch: Sequence[Command]) -> list[Result]:
        """Apply HTTP commands; a refusal is a result, decided before anything is changed."""
        changes = Changes()
        places = [c for c in batch if isinstance(c, PlaceOrder)]
        cancels = [c for c in batch if isinstance(c, CancelOrder)]
        used_keys = idempotency.find(session, {c.key for c in places})
        now = database_time(session)
        results: dict[int, Result] = {}
        results.update(self._place(session, places, used_keys, changes, now=now))
        results.update(self._cancel(session, cancels, changes, now=now))
        repository.save(session, changes)
        report_when_durable(session, changes)
        return [results[id(command)] for command in batch]

    def learn(self, session: Session, messages: Sequence[Received]) -> None:
        """Take in what the participants say, and ask for what follows from it."""
        changes = Changes()
        now = database_time(session)
        ids = {m.envelope.data.order_id for m in messages}
        orders = repository.lock_orders_without_lines(session, ids)
        before = {order.id: saga.asks(order.saga) for order in orders.values()}
        causes: dict[UUID, Cause] = {}
        for message in messages:
            order = orders.get(message.envelope.data.order_id)
            cause = _cause(message)
            # An order we never placed: a message of another installation, or of a restored one.
            if order is None:
                continue
            asked_at = order.updated_at
            if (change := _learn(order, message, cause, now=now)) is not None:
                changes.add(change)
                causes[order.id] = cause
                self._note_answer(now - asked_at)
        self._follow_up(changes, before, now=now, causes=causes)
        repository.save(session, changes)
        report_when_durable(session, changes)

    def take_in_catalogue(self, session: Session, messages: Sequence[Received]) -> None:
        """Keep the read model of the catalogue; of several states of one SKU the newest counts."""
        newest: dict[str, ItemChanged] = {}
        for message in messages:
            item = message.envelope.data
            assert isinstance(item, ItemChanged)
            if item.sku not in newest or newest[item.sku].version < item.version:
                newest[item.sku] = item
        repository.save_catalogue(
            session,
            [
                {
                    "sku": item.sku,
                    "name": item.name,
                    "unit_price": item.unit_price,
                    "currency": item.currency,
                    "active": item.active,
                    "version": item.version,
                }
                for item in newest.values()
            ],
        )

    def sweep(self, session: Session, *, most: int) -> int:
        """Give up what is past its deadline and ask again for what was not answered; how many orders."""
        changes = Changes()
        now = database_time(session)
        orders = repository.lock_due_orders(
            session, now=now, unanswered_since=now - self._patience, most=most
        )
        before = {order.id: saga.asks(order.saga) for order in orders}
        late = [] if is_off("deadline") else [o for o in orders if now >= o.deadline_at]
        for order in late:
            if (change := order.time_out(now=now)) is not None:
                changes.add(change)
        self._follow_up(changes, before, now=now)
        for order in orders:
            if order.id not in changes.touched:
                self._ask_again(order, changes, now=now)
        repository.save(session, changes)
        report_when_durable(session, changes)
        return len(orders)

    def lift_flag(
        self, session: Session, order_id: UUID, *, actor: str, note: str | None = None
    ) -> bool:
        """Carry on with a flagged order; False when it is not flagged."""
        changes = Changes()
        now = database_time(session)
        order = repository.lock_orders(session, [order_id]).get(order_id)
        if order is None or order.flagged_at is None:
            return False
        self._lift(order, changes, actor=actor, now=now, note=note)
        repository.save(session, changes)
        report_when_durable(session, changes)
        return True

    def intervene(self, session: Session, batch: Sequence[Intervention]) -> list[Intervened]:
        """Do what operators want with orders. A second time there is nothing left to do."""
        changes = Changes()
        now = database_time(session)
        ids = {wish.order_id for wish in batch}
        orders = repository.lock_orders(session, ids)
        before = {order.id: saga.asks(order.saga) for order in orders.values()}
        unsent = repository.count_unsent(session, ids)
        results = [
            intervene(orders.get(w.order_id), w, changes, now=now, unsent=unsent.get(w.order_id, 0))
            for w in batch
        ]
        self._follow_up(changes, before, now=now)
        repository.save(session, changes)
        report_when_durable(session, changes)
        return results

    def _note_answer(self, took: timedelta) -> None:
        took_s = min(took.total_seconds(), ANSWERS_AT_MOST_S)
        self._answers_take_s += ANSWERS_WEIGHT * (took_s - self._answers_take_s)

    @property
    def _patience(self) -> timedelta:
        """How long an order must have been left without an answer before it is worth asking again.

        Under overload answers are late and not lost, and asking costs as much as answering: whoever asks sooner than
        answers come makes them come later still.
        """
        return timedelta(seconds=ANSWERS_PATIENCE * self._answers_take_s)

    def _place(
        self,
        session: Session,
        wishes: Sequence[PlaceOrder],
        used_keys: dict[Key, Stored],
        changes: Changes,
        *,
        now: datetime,
    ) -> dict[int, Result]:
        if not wishes:
            return {}
        deadline_at = now + self._deadline
        desk = Placement.prepare(
            session, wishes, used_keys, changes, now=now, deadline_at=deadline_at
        )
        results = {id(wish): desk.decide(wish) for wish in wishes}
        for order in changes.placed:
            self._schedule(order, now=now)
        return results

    def _cancel(
        self, session: Session, wishes: Sequence[CancelOrder], changes: Changes, *, now: datetime
    ) -> dict[int, Result]:
        if not wishes:
            return {}
        orders = repository.lock_orders(session, {wish.order_id for wish in wishes})
        before = {order.id: saga.asks(order.saga) for order in orders.values()}
        own = Changes()
        results = {
            id(wish): self._cancel_one(orders.get(wish.order_id), wish, own, now=now)
            for wish in wishes
        }
        self._follow_up(own, before, now=now)
        changes.merge(own)
        return results

    def _cancel_one(
        self, order: Order | None, command: CancelOrder, changes: Changes, *, now: datetime
    ) -> Result:
        if order is None or command.customer_id not in (None, order.customer_id):
            return Problem("not_found", "There is no such order.")
        if order.status == Status.REJECTED:
            return Problem("not_cancellable", "The order was rejected: nothing is held or charged.")
        is_operator = command.customer_id is None
        reason = Reason.CANCELLED_BY_OPERATOR if is_operator else Reason.CANCELLED_BY_CUSTOMER
        if (change := order.cancel(reason, actor=command.actor, now=now)) is not None:
            changes.add(change)
        if is_operator and order.flagged_at is not None:
            # An operator who cancels what has got stuck wants it tried again.
            self._lift(order, changes, actor=command.actor, now=now)
        return Cancelled(order)

    def _ask_again(self, order: Order, changes: Changes, *, now: datetime) -> None:
        if order.flagged_at is None and order.asks >= self._max_asks:
            changes.add(order.flag(now=now))
        else:
            order.asks += 1
            changes.touched[order.id] = order
            changes.outgoing += commands(order, saga.asks(order.saga), now=now)
        self._schedule(order, now=now)

    def _lift(
        self, order: Order, changes: Changes, *, actor: str, now: datetime, note: str | None = None
    ) -> None:
        changes.add(order.lift_flag(actor=actor, now=now, note=note))
        changes.outgoing += commands(order, saga.asks(order.saga), now=now)
        self._schedule(order, now=now)

    def _follow_up(
        self,
        changes: Changes,
        before: dict[UUID, frozenset[Ask]],
        *,
        now: datetime,
        causes: dict[UUID, Cause] | None = None,
    ) -> None:
        """Ask for what is newly wanted, tell everybody what is final, and schedule the next look."""
        for order in changes.touched.values():
            cause = (causes or {}).get(order.id)
            wanted = saga.asks(order.saga)
            changes.outgoing += commands(order, wanted - before[order.id], now=now, cause=cause)
            if not wanted:
                changes.outgoing.append(announce_final(order, now=now, cause=cause))
            self._schedule(order, now=now)

    def _schedule(self, order: Order, *, now: datetime) -> None:
        longest_s = min(self._most_wait_s, self._first_wait_s * 2.0 ** min(order.asks, 30))
        order.schedule(
            now=now, wait=timedelta(seconds=self._jitter(longest_s * 0.75, longest_s * 1.25))
        )


def _learn(order: Order, message: Received, cause: Cause, *, now: datetime) -> Change | None:
    data = message.envelope.data
    if isinstance(data, ReservationChanged):
        return order.learn_stock(data.state, data.version, now=now, cause=cause)
    assert isinstance(data, PaymentChanged)
    return order.learn_payment(Payment(data.state.value), data.version, now=now, cause=cause)


def _cause(message: Received) -> Cause:
    return Cause(
        message_id=message.envelope.id,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        traceparent=message.envelope.traceparent,
    )
