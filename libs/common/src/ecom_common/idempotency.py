"""Idempotency keys: a retried POST finds what the first one made.

A key is stored once, whole, by the transaction of the effect: (subject, operation, key) → fingerprint of
the body and the id of what was made. Refusals are not stored, so a refused request can be mended and sent
again with the same key. Modelled on draft-ietf-httpapi-idempotency-key-header.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from ecom_common import prepared
from ecom_common.bulk import insert_rows
from ecom_common.clock import note_database_time
from ecom_common.errors import Problem
from ecom_common.safeguards import is_off
from ecom_common.tables import idempotency_keys

_FIND: Final = (
    "SELECT subject, operation, key, k.fingerprint, k.resource_id, k.created, db_now() "
    "FROM unnest(%s::text[], %s::text[], %s::text[]) AS wanted (subject, operation, key) "
    "LEFT JOIN idempotency_keys k USING (subject, operation, key)"
)
_PRUNE = text(
    "DELETE FROM idempotency_keys WHERE ctid IN (SELECT ctid FROM idempotency_keys "
    "WHERE created_at < db_now() - :age ORDER BY created_at LIMIT :most)"
)


class Key(NamedTuple):
    """Who asks for what, and the key they chose for it. Sortable: inserts keep one order."""

    subject: str
    operation: str
    key: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What a key stands for."""

    fingerprint: bytes
    resource_id: str
    created: bool = True
    """Whether the request made the resource, or found it there: a replay answers with the same status."""


def fingerprint(body: Any) -> bytes:
    """32 bytes that differ when the JSON-like `body` differs in anything but the order of its members."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()


def find(session: Session, keys: Collection[Key]) -> dict[Key, Stored]:
    """Those of `keys` that have been used, with what they stand for."""
    if not keys or is_off("idempotency"):
        return {}
    wanted = sorted(set(keys))
    columns = [list(column) for column in zip(*wanted, strict=True)]
    rows = prepared.run(session, _FIND, *columns)
    note_database_time(session, rows[0][-1])
    return {
        Key(subject, operation, key): Stored(bytes(fingerprint), resource_id, created)
        for subject, operation, key, fingerprint, resource_id, created, _ in rows
        if fingerprint is not None
    }


def store(session: Session, used: Mapping[Key, Stored]) -> None:
    """Record keys with their effect; a twin in another transaction makes this wait, then fail."""
    rows: Sequence[dict[str, Any]] = [
        {
            "subject": key.subject,
            "operation": key.operation,
            "key": key.key,
            "fingerprint": used[key].fingerprint,
            "resource_id": used[key].resource_id,
            "created": used[key].created,
        }
        for key in sorted(used)
    ]
    insert_rows(session, idempotency_keys, rows)


def reused(stored: Stored, fingerprint: bytes) -> Problem | None:
    """The refusal of a key that was used with another body; None when the body is the same."""
    if stored.fingerprint == fingerprint:
        return None
    return Problem("idempotency_key_reused", "Use a fresh key for a request that differs.")


def prune(session: Session, *, older_than: timedelta, most: int) -> int:
    """Forget at most `most` keys; how many were forgotten."""
    result = session.execute(_PRUNE, {"age": older_than, "most": most})
    return int(getattr(result, "rowcount", 0))
