"""Dead letters: messages that cannot be handled, kept as they came until somebody deals with them.

A dead letter is a row (original bytes, place, error, stack) and, through the outbox, the same bytes on
the service's dead-letter topic. Its id is not in the inbox, so a redriven message is handled like new.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.orm import Session

from ecom_common.bulk import insert_new_rows
from ecom_common.outbox import Outgoing, publish
from ecom_common.tables import dead_letters


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that failed, as the broker gave it, with the reason."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    payload: bytes
    error: str
    stack: str


def bury(session: Session, letters: Sequence[DeadLetter], *, topic: str) -> None:
    """Record the letters and publish their bytes on `topic`; one that is recorded already is skipped."""
    fresh = [letter for letter in letters if insert_new_rows(session, dead_letters, [_row(letter)])]
    publish(session, [Outgoing(topic, _key_text(m.key), m.payload) for m in fresh])


def _key_text(key: bytes | None) -> str:
    """The key as the outbox can hold it; the row of the letter keeps the original."""
    return _storable((key or b"").decode(errors="replace"))


def _storable(text: str) -> str:
    """Without what Postgres has no text for; a letter that cannot be recorded would stop everything."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _row(letter: DeadLetter) -> dict[str, object]:
    return {
        "source_topic": letter.topic,
        "source_partition": letter.partition,
        "source_offset": letter.offset,
        "key": letter.key,
        "payload": letter.payload,
        "digest": hashlib.sha256(letter.payload).digest(),
        "error": _storable(letter.error),
        "stack": _storable(letter.stack),
    }


def redrive(session: Session, letter_id: int, *, actor: str, reason: str | None = None) -> bool:
    """Send the original bytes to their topic again; False when the letter is not open (any more)."""
    row = session.execute(
        select(dead_letters)
        .where(dead_letters.c.id == letter_id, dead_letters.c.state == "open")
        .with_for_update()
    ).one_or_none()
    if row is None:
        return False
    _settle(session, letter_id, state="redriven", actor=actor, reason=reason)
    publish(session, [Outgoing(row.source_topic, _key_text(row.key), bytes(row.payload))])
    return True


def discard(session: Session, letter_id: int, *, actor: str, reason: str) -> bool:
    """Put the letter aside for good; False when it is not open (any more)."""
    return _settle(session, letter_id, state="discarded", actor=actor, reason=reason)


def _settle(
    session: Session, letter_id: int, *, state: str, actor: str, reason: str | None
) -> bool:
    result = session.execute(
        update(dead_letters)
        .where(dead_letters.c.id == letter_id, dead_letters.c.state == "open")
        .values(state=state, settled_at=func.db_now(), settled_by=actor, settled_reason=reason)
        .returning(dead_letters.c.id)
    )
    return result.one_or_none() is not None


def count_open(session: Session) -> int:
    """How many letters wait for somebody."""
    return (
        session.scalar(
            select(func.count()).select_from(dead_letters).where(dead_letters.c.state == "open")
        )
        or 0
    )


def ids(
    session: Session,
    *,
    state: str | None = "open",
    topic: str | None = None,
    key: bytes | None = None,
    most: int,
) -> list[int]:
    """The letters in this state, or in any, the oldest first; of one source topic or key, if wanted."""
    statement = select(dead_letters.c.id).order_by(dead_letters.c.id).limit(most)
    if state is not None:
        statement = statement.where(dead_letters.c.state == state)
    if topic is not None:
        statement = statement.where(dead_letters.c.source_topic == topic)
    if key is not None:
        statement = statement.where(dead_letters.c.key == key)
    return list(session.scalars(statement))


def load(session: Session, letter_ids: Sequence[int]) -> list[Row[Any]]:
    """Whole letters, by id; those that there are not are left out."""
    statement = select(dead_letters).where(dead_letters.c.id.in_(letter_ids))
    return list(session.execute(statement.order_by(dead_letters.c.id)))


def count_open_by_topic(session: Session) -> dict[str, int]:
    """How many letters wait for somebody, by the topic that they came from."""
    statement = (
        select(dead_letters.c.source_topic, func.count())
        .where(dead_letters.c.state == "open")
        .group_by(dead_letters.c.source_topic)
        .order_by(dead_letters.c.source_topic)
    )
    return {row[0]: row[1] for row in session.execute(statement)}
