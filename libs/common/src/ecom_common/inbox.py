"""The inbox: ids of the messages that have had their effect, recorded by the transaction of the effect."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from ecom_common.bulk import insert_new_rows
from ecom_common.tables import inbox

_PRUNE = text(
    "DELETE FROM inbox WHERE message_id IN (SELECT message_id FROM inbox "
    "WHERE received_at < db_now() - :age ORDER BY received_at LIMIT :most)"
)


def claim(session: Session, message_ids: Collection[UUID]) -> set[UUID]:
    """Record the ids; return those that were not there before. Sorted, so that two batches never deadlock."""
    return insert_new_rows(session, inbox, [{"message_id": i} for i in sorted(set(message_ids))])


def prune(session: Session, *, older_than: timedelta, most: int) -> int:
    """Forget at most `most` ids; how many were forgotten.

    Safe even when such a message comes again: behind the inbox stand the natural keys and versions.
    """
    result = session.execute(_PRUNE, {"age": older_than, "most": most})
    return int(getattr(result, "rowcount", 0))
