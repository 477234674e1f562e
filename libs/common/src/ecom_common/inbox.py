"""The inbox: ids of the messages that have had their effect, recorded by the transaction of the effect."""

from collections.abc import Collection
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from ecom_common import prepared
from ecom_common.clock import note_database_time

_CLAIM: Final = (
    "INSERT INTO inbox (message_id) SELECT * FROM unnest(%s::uuid[]) ON CONFLICT DO NOTHING "
    "RETURNING message_id, db_now()"
)
_PRUNE = text(
    "DELETE FROM inbox WHERE message_id IN (SELECT message_id FROM inbox "
    "WHERE received_at < db_now() - :age ORDER BY received_at LIMIT :most)"
)


def claim(session: Session, message_ids: Collection[UUID]) -> set[UUID]:
    """Record the ids; return those that were not there before. Sorted, so that two batches never deadlock.

    One that another transaction is recording makes this wait for that one's end.
    """
    if not message_ids:
        return set()
    ids = [str(message_id) for message_id in sorted(set(message_ids))]
    rows = prepared.run(session, _CLAIM, ids)
    note_database_time(session, rows[0][1] if rows else None)
    return {row[0] for row in rows}


def prune(session: Session, *, older_than: timedelta, most: int) -> int:
    """Forget at most `most` ids; how many were forgotten.

    Safe even when such a message comes again: behind the inbox stand the natural keys and versions.
    """
    result = session.execute(_PRUNE, {"age": older_than, "most": most})
    return int(getattr(result, "rowcount", 0))
