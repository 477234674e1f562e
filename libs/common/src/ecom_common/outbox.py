"""The outbox: messages written by the transaction that caused them, and published by the relay.

`publish` is the only way for a service to say anything to the others. Its rows are written with the commit, when the
transaction holds the locks on its aggregates: so the order of ids is the order of commits for each key, which
is all that the relay needs to keep a key's messages in order.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from ecom_contracts.envelope import Envelope, encode
from ecom_contracts.messages import Message
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ecom_common.bulk import insert_rows
from ecom_common.crash_points import crash_point
from ecom_common.durable import when_durable
from ecom_common.ids import new_id
from ecom_common.safeguards import is_off
from ecom_common.tables import outbox

written: Final = threading.Event()
"""Set when a transaction of this process has written to the outbox: the relay need not find out by polling."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way out: topic, key (it decides the partition) and the bytes of the value."""

    topic: str
    key: str
    payload: bytes


def outgoing(
    data: Message,
    *,
    source: str,
    now: datetime,
    sequence: int,
    correlation_id: str | None = None,
    causation_id: UUID | None = None,
    traceparent: str | None = None,
) -> Outgoing:
    """Put `data` into an envelope with a fresh id, for the topic that its type belongs to.

    `sequence` is the version of the publishing aggregate; `causation_id` the message that led to this.
    """
    envelope = Envelope(
        id=new_id(),
        source=source,
        type=data.TYPE,
        subject=data.key,
        time=now,
        sequence=sequence,
        correlation_id=correlation_id,
        causation_id=None if causation_id is None else str(causation_id),
        traceparent=traceparent,
        data=data,
    )
    return Outgoing(data.TOPIC.name, data.key, encode(envelope))


def publish(session: Session, messages: Sequence[Outgoing]) -> None:
    """Hand `messages` to the relay, as part of this transaction."""
    if is_off("outbox"):
        _publish_after_commit(session, messages)
    else:
        _insert(session, messages)


def _insert(session: Session, messages: Sequence[Outgoing]) -> None:
    insert_rows(
        session,
        outbox,
        [{"topic": m.topic, "key": m.key, "payload": m.payload} for m in messages],
    )
    if messages:
        when_durable(session, written.set)


def _publish_after_commit(session: Session, messages: Sequence[Outgoing]) -> None:
    """What there would be without an outbox: two writes, and a moment between them."""
    engine = session.get_bind()

    def say() -> None:
        crash_point("batch.after_commit")
        with Session(engine) as another, another.begin():
            _insert(another, messages)

    when_durable(session, say)


def backlog(session: Session) -> tuple[int, timedelta]:
    """How many rows wait, and how old the oldest is."""
    rows, oldest = session.execute(
        select(func.count(), func.db_now() - func.min(outbox.c.created_at)).select_from(outbox)
    ).one()
    return rows, oldest or timedelta(0)
